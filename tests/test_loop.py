"The loop with real objectives: bytes of a resumed run, what is refused, forecasts, divergence."

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.base.run import Run
from ddnb.data import load
from ddnb.distil import DC, DM, Distilling, Pixels, cosine, distill, init, restore_best
from ddnb.nets import net_for
from runs import failing, iadd, losses, same, small

D = load("digits")


@pytest.mark.slow
@pytest.mark.parametrize("objective", [DM, DC])
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.lists(st.integers(1, 11), min_size=1, max_size=3))
def test_real_objectives_resume_to_the_same_bytes(tmp_path_factory, objective, cut):
    d = tmp_path_factory.mktemp("runs")
    whole = small(objective, d / "whole")
    list(whole)
    for stop in cut:
        for record in small(objective, d / "cut"):
            if record["step"] >= stop:
                break
    last = small(objective, d / "cut")
    list(last)
    assert torch.equal(whole.work.syn.x, last.work.syn.x)


@pytest.mark.parametrize("wrap", [small, lambda _, f, n, **kw: iadd(f, n)])
def test_a_state_moves_to_another_work(tmp_path, wrap):
    whole, first, second = (wrap(DM, None, 5).work for _ in range(3))
    list(whole)
    records = iter(first)
    next(records), next(records)
    second.load_state_dict(first.state_dict())
    assert [r["step"] for r in second] == [3, 4, 5]
    assert same(whole.syn.state_dict(), second.syn.state_dict())


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    "Without a schedule the number of steps is no part of the recipe: more may be asked for later."
    list(small(DM, tmp_path / "a", 6, schedule=None))
    more, once = small(DM, tmp_path / "a", 9, None), small(DM, tmp_path / "b", 9, None)
    list(more), list(once)
    assert torch.equal(more.work.syn.x, once.work.syn.x) and len(more.history) == 9
    list(small(DM, tmp_path / "c", 6))
    with pytest.raises(DdnbError, match="steps was 6 and is now 9"):
        list(small(DM, tmp_path / "c", 9))


# ---- what is the same run


@pytest.mark.parametrize(
    "change, name",
    [
        ({"steps": 5}, "objective steps"),
        ({"mode": "paper"}, "objective mode"),
        ({"lr_w": 0.5}, "objective lr_w"),
        ({"per": "layer"}, "objective per"),
    ],
)
def test_other_settings_of_the_objective_are_refused_by_name(tmp_path, change, name):
    list(iadd(tmp_path))
    with pytest.raises(DdnbError, match=f"{name} was"):
        list(iadd(tmp_path, **change))


def test_other_images_networks_rates_and_shapes_are_refused_by_name(tmp_path):
    half = D.keep(torch.arange(0, len(D.train), 2))
    net = {n: net_for(D, "ConvNet", width=4, depth=1, norm=n) for n in ("instance", "batch")}

    def go(steps, data=D, make=net["instance"], lr=0.1, ipc=1, **kw):
        syn = Pixels(*init(D, ipc, generator=rng(0)))
        objective = DM(data, make, batch=8, generator=rng(1))
        sgd = torch.optim.SGD(syn.parameters(), lr)
        return len(list(Run(tmp_path, Distilling(syn, objective, sgd, steps), **kw)))

    assert go(2) == 2
    for other, name in (
        (dict(data=half), "objective data"),
        (dict(make=net["batch"]), "objective make"),
        (dict(lr=0.2), "groups"),
        (dict(ipc=2), "shapes"),
        (dict(recipe={"seed": 1}), "seed"),
    ):
        with pytest.raises(DdnbError, match=f"{name} was"):
            go(4, **other)
    assert go(4) == 2  # the same ones go on


def test_rates_that_a_schedule_has_moved_are_the_same_rates():
    first, second = small(DM, None, 4).work, small(DM, None, 4).work
    list(first)
    moved = Distilling(first.syn, first.objective, first.optimiser, 4, schedule=cosine)
    assert moved.settings == second.settings


# ---- what could not run


def modules():
    syn = Pixels(*init(D, 1))
    return syn, DM(D, "MLP", batch=4), torch.optim.SGD(syn.parameters(), 0.1)


def test_a_schedule_by_name_is_the_schedule():
    by_name, by_function = (
        [r["loss"] for r in distill(*modules(), 4, schedule=s)] for s in ("cosine", cosine)
    )
    assert by_name == by_function


def foreign(syn, objective, _):
    return syn, objective, torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)


def elsewhere(syn, objective, optimiser):
    objective.weight = torch.nn.Parameter(torch.ones(2, device="meta"))
    return syn, objective, optimiser


@pytest.mark.parametrize(
    "change, kw, words",
    [
        (None, dict(schedule="cosin"), "schedule is 'cosin'.*'cosine'"),
        (lambda s, o, a: (o, s, a), {}, "the order is syn, objective"),
        (lambda s, o, a: (s(), o, a), {}, "syn is tuple.*Pixels"),
        (lambda s, o, a: (s, len, a), {}, "objective is"),
        (lambda s, o, a: (s, o, "adam"), {}, "optimiser is 'adam'"),
        (foreign, {}, r"syn.parameters\(\)"),
        (elsewhere, {}, r"meta.*objective.to\('cpu'\)"),
        (None, dict(steps="4"), "steps is"),
        (None, dict(steps=2.5), "steps is"),
        (None, dict(steps=-1), "steps is"),
        (None, dict(limit="much"), "limit is"),
    ],
)
def test_what_could_not_run_or_would_learn_nothing_is_refused(change, kw, words):
    parts = change(*modules()) if change else modules()
    kw = {"steps": 4, **kw}
    for f in (distill, Distilling):
        with pytest.raises(DdnbError, match=words):
            f(*parts, **kw)


def test_what_validates_is_a_function_and_has_been_called(tmp_path):
    with pytest.raises(DdnbError, match="validate is 3"):
        Distilling(*modules(), 4, validate=3)
    with pytest.raises(DdnbError, match="validate_every is 0"):
        Distilling(*modules(), 4, validate_every=0)
    work = Distilling(*modules(), 2)
    list(work)
    with pytest.raises(DdnbError, match="validate="):
        restore_best(work)


def test_the_best_images_travel_in_the_checkpoint(tmp_path):
    def score(syn, objective):
        return -abs(float(syn.x.detach().std()) - 1.1)

    first = small(DM, tmp_path, 9, validate=score)
    list(first)
    again = small(DM, tmp_path, 9, validate=score)
    assert list(again) == [] and same(first.work.best, again.work.best)
    assert restore_best(again) == first.work.best["step"] == 9


# ---- divergence


@pytest.mark.parametrize("on_divergence", ["backoff", "stop"])
def test_a_nan_is_backed_off_from_or_stops_the_run(tmp_path, on_divergence):
    run = iadd(tmp_path, wrap=failing(3), run={"on_divergence": on_divergence})
    if on_divergence == "stop":
        with pytest.raises(DdnbError, match="step 3"):
            list(run)
        assert run.work.step == 2
    else:
        with pytest.warns(UserWarning, match="back to step 2"):
            list(run)
        assert (run.work.step, run.backed_off, run.work.factor) == (4, 1, 0.5)
        assert run.work.optimiser.param_groups[0]["lr"] == 0.05
    assert run.work.objective.W.isfinite().all() and run.work.syn.x.isfinite().all()


def test_backing_off_halves_the_rates_that_the_schedule_plans():
    work = small(DM, None, 4).work
    work.back_off(2)
    next(records := iter(work)), next(records)
    assert work.optimiser.param_groups[0]["lr"] == pytest.approx(0.1 * 0.25 * cosine(1 / 4))


def test_rates_without_a_schedule_are_left_alone():
    "Another scheduler may move them."
    syn, objective, sgd = modules()
    plan = torch.optim.lr_scheduler.ExponentialLR(sgd, 0.5)
    seen = []
    for _ in distill(syn, objective, sgd, 3):
        seen.append(sgd.param_groups[0]["lr"])
        plan.step()
    assert seen == [0.1, 0.05, 0.025]


def test_a_gradient_that_no_optimiser_holds_is_looked_at_too(tmp_path):
    from ddnb.iadd import IADD

    class Odd(IADD):
        def forward(self, x, y):
            return super().forward(x, y) + (self.W * 0 - 0).sqrt().sum() * 0

    run = iadd(tmp_path, wrap=Odd, run={"on_divergence": "stop"})
    before = run.work.syn.x.detach().clone()
    with pytest.raises(DdnbError, match="gradient became NaN"):
        list(run)
    assert torch.equal(run.work.syn.x, before) and run.work.objective.W.isfinite().all()


def test_gradients_of_an_interrupted_step_are_forgotten(tmp_path):
    "Ctrl-C in a notebook, then the same Run again: stale gradients must not join the next step's."
    calm = iadd(tmp_path / "calm")
    list(calm)
    run = iadd(tmp_path / "cut", wrap=failing(3, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        list(run)
    assert run.work.objective.W.grad is not None and run.step == 2
    list(run)
    assert same(calm.work.state_dict()["syn"], run.work.state_dict()["syn"])
    assert losses(calm) == losses(run)


def test_a_step_that_ran_out_of_memory_is_the_same_step_when_made_again(tmp_path):
    calm = iadd(tmp_path / "calm")
    list(calm)
    run = iadd(tmp_path / "tight", wrap=failing(3, torch.OutOfMemoryError("full")))
    with pytest.warns(UserWarning, match="the same chunk"):
        list(run)
    assert same(calm.work.state_dict()["syn"], run.work.state_dict()["syn"])
    assert calm.work.objective.W.equal(run.work.objective.W) and losses(calm) == losses(run)


# ---- forecasts


@pytest.mark.parametrize(
    "make", [iadd, lambda f, run: small(DC, f, 4, outer=5, inner=2, run=run)], ids=["IADD", "DC"]
)
def test_a_forecast_changes_nothing(tmp_path, make):
    runs = [make(tmp_path / f, run={"log": None}) for f in "ab"]
    assert runs[1].work.forecast(least=1)["seconds"] > 0
    list(runs[0]), list(runs[1])
    assert losses(runs[0]) == losses(runs[1])
    a, b = ((tmp_path / f / "checkpoint.safetensors").read_bytes() for f in "ab")
    assert a == b


def test_a_long_run_logs_its_forecast(tmp_path):
    lines = []
    next(iter(small(DM, tmp_path / "a", 100, run={"log": lines.append, "long": 0.0})))
    next(iter(small(DM, tmp_path / "b", 99, run={"log": lines.append, "long": 0.0})))
    assert len(lines) == 1 and "on disk" in lines[0]


def test_what_a_run_will_take_on_the_disk(tmp_path):
    run = small(DM, tmp_path, 8)
    need = run.work.disk()
    list(run)
    files = sum(p.stat().st_size for p in tmp_path.glob("[cpr]*"))
    assert 0.5 * files < need < files  # headers aside
