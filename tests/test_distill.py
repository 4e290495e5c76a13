"Checkpoints hold any state exactly; a run cut anywhere ends with the same bytes; real objectives included."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from ddnb.data import load, rng
from ddnb.distill import (
    Run,
    cosine,
    distill,
    forecast,
    load_checkpoint,
    pack,
    restore_best,
    unpack,
)  # noqa: F401 (Interrupted: for the job below)
from ddnb.match import DC, DM
from ddnb.nets import net_for
from ddnb.store import DdnbError, lock, write_atomic
from ddnb.syn import Pixels, init

plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
)
tensor = st.builds(
    lambda n, d: torch.arange(n).to(d),
    st.integers(0, 4),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]),
)
nests = st.recursive(
    plain | tensor,
    lambda c: (
        st.lists(c, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), c, max_size=3)
    ),
    max_leaves=12,
)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=60, deadline=None)
@given(nests)
def test_any_state_survives_packing(state):
    plain, tensors = pack(state)
    assert same(state, unpack(json.loads(json.dumps(plain)), tensors))


def test_two_paths_that_read_alike_do_not_collide():
    state = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}}
    plain, tensors = pack(state)
    assert same(state, unpack(plain, tensors))


def small(objective, folder, steps=12, schedule=cosine, **kw):
    data = load("digits")
    make = net_for(data, "ConvNet", width=4, depth=1)
    syn = Pixels(*init(data, 1, "real", generator=rng(0)))
    obj = objective(data, make, batch=8, generator=rng(1), **kw)
    return Run(
        folder,
        syn,
        obj,
        torch.optim.Adam(syn.parameters(), lr=0.1),
        steps,
        every=4,
        schedule=schedule,
    )


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
    assert torch.equal(whole.syn.x.detach(), last.syn.x.detach())


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    "Without a schedule the number of steps is no part of the recipe: more steps may be asked for later."
    list(small(DM, tmp_path / "a", 6, schedule=None))
    more = small(DM, tmp_path / "a", 9, schedule=None)
    list(more)
    once = small(DM, tmp_path / "b", 9, schedule=None)
    list(once)
    assert torch.equal(more.syn.x.detach(), once.syn.x.detach()) and len(more.history) == 9


def test_best_needs_a_validation(tmp_path):
    run = small(DM, tmp_path / "a", 2)
    list(run)
    with pytest.raises(DdnbError, match="has not validated"):
        restore_best(run)


def test_an_unwritable_run_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DdnbError, match="Cannot write"):
        list(small(DM, tmp_path / "file" / "run", 2))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_pair_of_checkpoints_is_named_not_overwritten(tmp_path):
    list(small(DM, tmp_path, 9))
    for name in ("checkpoint", "previous"):
        p = tmp_path / f"{name}.safetensors"
        p.write_bytes(p.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="cut short"), pytest.raises(DdnbError, match="cut short"):
        list(small(DM, tmp_path, 9))


JOB = """
import sys; sys.path.insert(0, {here!r})
from pathlib import Path
from test_distill import DM, Interrupted, small
try:
    for r in small(DM, Path({folder!r}), 4000, schedule=None): print(r['step'], flush=True)
except Interrupted as e: print(e, flush=True); sys.exit(e.code)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_ends_with_a_checkpoint_and_its_own_exit_code(tmp_path, name):
    import signal

    p = subprocess.Popen(
        [sys.executable, "-c", JOB.format(here=str(Path(__file__).parent), folder=str(tmp_path))],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in p.stdout:
        if line.strip() == "3":
            break
    p.send_signal(getattr(signal, name))
    out = p.stdout.read()
    assert (
        p.wait(30) == (130 if name == "SIGINT" else 75)
        and f"{'Interrupted' if name == 'SIGINT' else name}: stopped after step" in out
    )
    run = small(DM, tmp_path, 4000, schedule=None)
    assert load_checkpoint(run) and run.step == int(out.split("after step ")[1].split()[0])


def test_a_dead_process_holds_no_lock(tmp_path):
    code = f"import time\nfrom ddnb.store import lock\nwith lock({str(tmp_path)!r}): print('held', flush=True); time.sleep(60)"
    p = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline().strip() == "held"
    with pytest.raises(DdnbError, match="Another process"), lock(tmp_path):
        pass
    p.kill()
    p.wait()
    with lock(tmp_path):
        pass


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(old=st.binary(max_size=50), new=st.binary(max_size=50), fails=st.booleans())
def test_a_file_is_old_or_new_never_between(tmp_path, old, new, fails):
    path = tmp_path / "f"
    write_atomic(path, old)

    def content(tmp):
        Path(tmp).write_bytes(new[: len(new) // 2])
        if fails:
            raise OSError(28, "No space left on device")
        Path(tmp).write_bytes(new)

    if fails:
        with pytest.raises(DdnbError, match="No space left"):
            write_atomic(path, content)
    else:
        write_atomic(path, content)
    assert path.read_bytes() == (old if fails else new) and os.listdir(tmp_path) == ["f"]


def iadd(folder, n=4, wrap=None, **kw):
    "A tiny IADD run; its W moves by itself, outside the optimiser."
    from ddnb.experts import record
    from ddnb.iadd import IADD

    data = load("digits")
    data = data.keep(torch.arange(0, len(data.train.y), 5))
    make = net_for(data, "ConvNet", width=4, depth=1)
    experts = record(data, make, n=2, epochs=2, batch=64, seed=0, log=None)
    syn = Pixels(*init(data, 1, "real", generator=rng(0)))
    obj = (wrap or IADD)(
        experts, make, **{"expert_epochs": 1, "steps": 3, "lr_w": 0.05, "generator": rng(1), **kw}
    )
    return Run(
        folder,
        syn,
        obj,
        torch.optim.Adam([{"params": syn.parameters(), "lr": 0.1}, *obj.groups()]),
        n,
        every=1,
        on_divergence="backoff",
    )


@pytest.mark.parametrize("make", [iadd, lambda f, **kw: small(DC, f, 4, outer=5, inner=2, **kw)])
def test_a_forecast_changes_nothing(tmp_path, make):
    a, b, c = (make(tmp_path / f) for f in "abc")
    forecast(b)
    said = []
    c.announce = said.append
    assert [r["loss"] for r in a] == [r["loss"] for r in b] == [r["loss"] for r in c]
    assert len(
        {(tmp_path / f / "checkpoint.safetensors").read_bytes() for f in "abc"}
    ) == 1 and torch.equal(a.syn.x.detach(), c.syn.x.detach())
    assert len(said) == 1 and said[0].startswith("About ") and "on disk" in said[0]


def test_a_forecast_counts_the_steps_that_are_left_and_the_records(tmp_path):
    run = small(DM, tmp_path, 8)
    whole = forecast(run)
    for r in run:
        if r["step"] == 6:
            break
    left = forecast(small(DM, tmp_path, 8))
    assert left["total"] == pytest.approx(2 * left["seconds"]) and whole["total"] == pytest.approx(
        8 * whole["seconds"]
    )
    list(small(DM, tmp_path, 8))
    files = sum(p.stat().st_size for p in tmp_path.glob("[cpr]*"))
    assert 0.5 * files < whole["disk"] < files  # headers aside


def test_a_run_is_refused_where_the_disk_is_full(tmp_path, monkeypatch):
    import shutil

    list(small(DM, tmp_path / "done", 4))
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(DdnbError, match="only 0 B are free"):
        list(small(DM, tmp_path / "a", 4))
    run = small(DM, tmp_path / "a", 4)
    run.force = True
    assert len(list(run)) == 4
    assert list(small(DM, tmp_path / "done", 4)) == [], "a finished run needs no room"


def test_backing_off_recovers_from_one_nan_gradient(tmp_path):
    from ddnb.iadd import IADD

    class Once(IADD):
        n = 0

        def forward(self, x, y):
            Once.n += 1
            return super().forward(x, y) * (float("nan") if Once.n == 3 else 1)

    run = iadd(tmp_path, wrap=Once)
    with pytest.warns(UserWarning, match="Went back to step 2"):
        list(run)
    assert run.step == 4 and run.backed_off == 1 and run.objective.W.isfinite().all()


def test_a_gradient_that_no_optimiser_holds_is_looked_at_too(tmp_path):
    from ddnb.iadd import IADD

    class Odd(IADD):
        def forward(self, x, y):
            return super().forward(x, y) + (self.W * 0 - 0).sqrt().sum() * 0

    run = iadd(tmp_path, wrap=Odd)
    run.on_divergence = "stop"
    before = run.syn.x.detach().clone()
    with pytest.raises(DdnbError, match="gradient became NaN"):
        list(run)
    assert torch.equal(run.syn.x.detach(), before) and run.objective.W.isfinite().all()


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


def test_a_folder_is_not_gone_on_with_other_images_or_networks_of_the_same_shape(tmp_path):
    full = load("digits")
    half = full.keep(torch.arange(0, len(full.train), 2))
    net = {n: net_for(full, "ConvNet", width=4, depth=1, norm=n) for n in ("instance", "batch")}

    def go(data, make, steps):
        syn = Pixels(*init(full, 1, generator=rng(0)))
        obj = DM(data, make, batch=8, generator=rng(1))
        return len(
            list(
                Run(
                    tmp_path, syn, obj, torch.optim.SGD(syn.parameters(), 0.1), steps, announce=None
                )
            )
        )

    assert go(full, net["instance"], 2) == 2
    with pytest.raises(DdnbError, match="objective data was"):
        go(half, net["instance"], 4)
    with pytest.raises(DdnbError, match="objective make was"):
        go(full, net["batch"], 4)
    assert go(full, net["instance"], 4) == 2  # the same ones go on


def test_what_could_not_run_or_would_learn_nothing_is_refused(tmp_path):
    data = load("digits")
    x, y = init(data, 1)
    syn, obj = Pixels(x, y), DM(data, "MLP", batch=4)
    opt = torch.optim.SGD(syn.parameters(), 0.1)
    same = [
        [r["loss"] for r in distill(s, o, torch.optim.SGD(s.parameters(), 0.1), 4, schedule=f)]
        for f in ("cosine", cosine)
        for s, o in [(Pixels(x, y), DM(data, "MLP", batch=4))]
    ]
    assert same[0] == same[1] and len(Run(tmp_path, syn, obj, opt, 4)) == 4
    for args, words in (
        ((syn, obj, opt, 4, "cosin"), "Did you mean 'cosine'"),
        ((obj, syn, opt, 4), "the order is syn, objective"),
        (((x, y), obj, opt, 4), "Pixels"),
        ((syn, obj, "adam", 4), "an optimiser of torch"),
        (
            (syn, obj, torch.optim.SGD([x.clone().requires_grad_()], 0.1), 4),
            "images would stay as they are",
        ),
        ((syn, obj, opt, "4"), "steps is"),
        ((syn, obj, opt, 2.5), "steps is"),
        ((syn, obj, opt, -1), "steps is"),
    ):
        for f in (
            lambda *a, **kw: next(distill(*a, **kw)),
            lambda *a, **kw: Run(tmp_path, *a, **kw),
        ):
            with pytest.raises(DdnbError, match=words):
                f(*args[:4], schedule=args[4] if len(args) > 4 else None)
    with pytest.raises(DdnbError, match="every is 0"):
        Run(tmp_path, syn, obj, opt, 4, every=0)


def spoiled(error, kw=None):
    "IADD whose third step computes gradients and then fails once, leaving them where they are: on W and alpha too."
    from ddnb.iadd import IADD

    class Spoiled(IADD):
        n = 0

        def forward(self, x, y):
            loss = super().forward(x, y)
            Spoiled.n += 1
            if Spoiled.n == 3:
                loss.backward()
                assert self.W.grad.abs().sum() > 0 and self.log_alpha.grad.abs().sum() > 0
                raise error
            return loss

        def halve(self):
            return "the same chunk"  # so that the step tried again is the same step

    return Spoiled


def ended(run):
    return {
        k: v.clone() if isinstance(v, torch.Tensor) else v
        for m in (run.syn, run.objective)
        for k, v in m.state_dict().items()
        if not k.startswith("_extra")
    }


def test_gradients_of_an_interrupted_step_are_forgotten(tmp_path):
    "Ctrl-C in a notebook, then the same Run object again: the stale gradients of W and alpha must not be added to the next step's."
    calm = iadd(tmp_path / "calm")
    list(calm)
    run = iadd(tmp_path / "cut", wrap=spoiled(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        list(run)
    assert run.objective.W.grad is not None and run.step == 2
    list(run)
    assert same(ended(calm), ended(run)) and [r["loss"] for r in calm.history] == [
        r["loss"] for r in run.history
    ]


def test_a_step_that_ran_out_of_memory_is_the_same_step_when_tried_again(tmp_path):
    calm = iadd(tmp_path / "calm")
    list(calm)
    run = iadd(tmp_path / "tight", wrap=spoiled(torch.OutOfMemoryError("full")))
    with pytest.warns(UserWarning, match="tried once more with half the chunk"):
        list(run)
    assert same(ended(calm), ended(run)) and [r["loss"] for r in calm.history] == [
        r["loss"] for r in run.history
    ]


@pytest.mark.parametrize(
    "needs, said", [(2, "a step fits with chunk=2"), (-1, "no smaller one fits either")]
)
def test_memory_that_ends_twice_is_told_with_what_would_fit(needs, said):
    class Greedy(torch.nn.Module):
        chunk, generator = 16, rng(0)

        def forward(self, x, y):
            noise = torch.randn((), generator=self.generator)
            if self.chunk > needs:
                raise torch.OutOfMemoryError("full")
            return (x * noise).square().sum()

        def halve(self):
            self.chunk //= 2
            return f"chunk={self.chunk}"

    g = Greedy()
    before = g.generator.get_state()
    syn = Pixels(torch.ones(2, 1, 4, 4), torch.arange(2))
    with pytest.warns(UserWarning, match="half the chunk"), pytest.raises(DdnbError, match=said):
        list(distill(syn, g, torch.optim.Adam(syn.parameters()), 1))
    assert g.generator.get_state().equal(before) and syn.x.grad is None


def test_the_log_holds_every_step_once_whatever_happened(tmp_path, monkeypatch):
    "Backed off, cut, with a torn last line: one record a step on disk; a thinned list of them in memory, the same after a resume."
    from ddnb import distill as D
    from ddnb.iadd import IADD

    class Once(IADD):
        n = 0

        def forward(self, x, y):
            Once.n += 1
            return super().forward(x, y) * (float("nan") if Once.n == 6 else 1)

    run = iadd(tmp_path / "a", n=9, wrap=Once)
    run.every = 4
    with pytest.warns(UserWarning, match="Went back to step 4"):
        for r in run:
            if r["step"] == 7:
                break
    steps = lambda f: [
        json.loads(line)["step"]
        for line in (tmp_path / f / "records.jsonl").read_text().splitlines()
    ]
    assert steps("a") == [r["step"] for r in run.history] == list(range(1, 8))
    with open(tmp_path / "a" / "records.jsonl", "a") as f:
        f.write('{"step": 8, "lo')
    run = iadd(tmp_path / "a", n=9, wrap=Once)
    list(run)
    assert steps("a") == [r["step"] for r in run.history] == list(range(1, 10))
    monkeypatch.setattr(D, "MANY", 6)
    few = iadd(tmp_path / "a", n=9, wrap=Once)
    list(few)
    whole = iadd(tmp_path / "b", n=9)
    list(whole)
    assert [r["step"] for r in few.history] == [r["step"] for r in whole.history] == [
        1,
        5,
        6,
        7,
        8,
        9,
    ] and steps("a") == steps("b") == list(range(1, 10))


def test_a_full_disk_is_one_sentence_and_spoils_nothing(tmp_path, monkeypatch):
    "The disk ends while a checkpoint is written, then while a record is: what was there stays, and the same call goes on later."
    import builtins
    from ddnb import distill as D, store
    from safetensors import SafetensorError

    whole = small(DM, tmp_path / "whole", 12)
    list(whole)

    def full(tensors, tmp, metadata=None):
        Path(tmp).write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with (
        monkeypatch.context() as m,
        pytest.raises(
            DdnbError, match="Cannot write .*checkpoint.*No space left on device.*free some space"
        ),
    ):
        for r in small(DM, tmp_path / "a", 12):
            if r["step"] == 6:
                m.setattr(store, "save_file", full)
    real = open

    def no_room(file, mode="r", *a, **kw):
        if str(file).endswith("records.jsonl") and mode == "a":
            raise OSError(28, "No space left on device")
        return real(file, mode, *a, **kw)

    with (
        monkeypatch.context() as m,
        pytest.raises(
            DdnbError,
            match="records.jsonl: No space left on device; free some space, and the same call goes on",
        ),
    ):
        m.setattr(builtins, "open", no_room)
        list(small(DM, tmp_path / "a", 12))
    assert not list(tmp_path.rglob(".*.tmp")) and D.load_checkpoint(small(DM, tmp_path / "a", 12))
    last = small(DM, tmp_path / "a", 12)
    list(last)
    assert torch.equal(whole.syn.x.detach(), last.syn.x.detach()) and [
        r["step"] for r in last.history
    ] == list(range(1, 13))


def test_the_stop_button_of_a_notebook_saves_and_leaves_the_kernel_usable(tmp_path):
    "A kernel of its own is interrupted in the middle of a run; the next cell goes on with the same variables and ends with the same bytes."
    import time
    from jupyter_client.manager import start_new_kernel

    km, kc = start_new_kernel(kernel_name="python3")
    try:
        setup = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; from test_distill import DM, small; run = small(DM, Path({str(tmp_path / 'a')!r}), 400)"
        assert (
            kc.execute_interactive(setup, timeout=60, output_hook=lambda m: None)["content"][
                "status"
            ]
            == "ok"
        )
        kc.execute("for r in run: pass")
        t = time.time()
        log = tmp_path / "a" / "records.jsonl"
        while time.time() - t < 60 and not (log.exists() and log.read_text().count("\n") > 3):
            time.sleep(0.01)
        km.interrupt_kernel()
        said = kc.get_shell_msg(timeout=60)["content"]
        assert said["ename"] == "Interrupted" and "the same call goes on" in said["evalue"], said
        done = load_checkpoint(run := small(DM, tmp_path / "a", 400)) and run.step
        assert 0 < done < 400
        assert (
            kc.execute_interactive("for r in run: pass", timeout=120, output_hook=lambda m: None)[
                "content"
            ]["status"]
            == "ok"
        )
    finally:
        kc.stop_channels()
        km.shutdown_kernel(now=True)
    list(whole := small(DM, tmp_path / "b", 400))
    assert (tmp_path / "a" / "checkpoint.safetensors").read_bytes() == (
        tmp_path / "b" / "checkpoint.safetensors"
    ).read_bytes() and whole.step == 400
