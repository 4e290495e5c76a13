"Training: equal to the loop one would write, whatever is split, stacked, averaged or resumed."

import inspect
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddnb.base.check import DdnbError
from ddnb.base.files import pack, unpack
from ddnb.base.rng import rng
from ddnb.base.run import Run, complete
from ddnb.nets import MLP, ConvNet, speed, wrap
from ddnb.nets.augment import DSA
from ddnb.nets.fit import SCHEDULES, Fit, cosine, step, warmup_cosine
from ddnb.nets.speed import Compiled, micro_size
from ddnb.nets.train import Training, accuracy, logits, train, train_many

torch.set_num_threads(1)
X, Y = torch.randn(50, 1, 8, 8, generator=rng(0)), torch.randint(4, (50,), generator=rng(1))


def net(seed=0, norm="instance"):
    return ConvNet(1, 4, 8, width=8, depth=2, norm=norm, generator=rng(seed))


def flat(n):
    return torch.cat([p.detach().flatten() for p in n.parameters()])


def after(seed=0, norm="instance", **kw):
    n = net(seed, norm)
    train(n, X, Y, **{**dict(steps=4, lr=0.1, generator=rng(7)), **kw})
    return flat(n)


def plain(n, opt, steps=None, batch=16, epochs=2, g=7, f=None):
    g, done = rng(g), 0
    for _ in range(epochs):
        for i in torch.randperm(len(X), generator=g).split(batch):
            if f is not None:
                opt.param_groups[0]["lr"] = 0.1 * f(done, epochs * math.ceil(len(X) / batch))
            opt.zero_grad()
            F.cross_entropy(n(X[i]), Y[i]).backward()
            opt.step()
            done += 1
    return flat(n)


@pytest.mark.parametrize("schedule", [None, "cosine", "step", lambda i, n: 1 / (i + 1)])
def test_train_is_the_plain_loop(schedule):
    n = net()
    f = SCHEDULES.get(schedule, schedule) if isinstance(schedule, str) else schedule
    want = plain(n, torch.optim.SGD(n.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4), f=f)
    assert torch.allclose(after(steps=None, epochs=2, batch=16, schedule=schedule), want, atol=1e-6)


def test_adam_is_the_plain_loop():
    n = net()
    want = plain(n, torch.optim.Adam(n.parameters(), lr=1e-2))
    assert torch.allclose(
        after(steps=None, epochs=2, batch=16, optimiser="adam", lr=1e-2, weight_decay=0),
        want,
        atol=1e-5,
    )


def test_schedules_follow_pytorch_s_schedulers():
    p = nn.Parameter(torch.zeros(1))
    opt = torch.optim.SGD([p], lr=1.0)
    warm = torch.optim.lr_scheduler.LinearLR(
        opt, start_factor=1e-7, end_factor=1.0, total_iters=500
    )
    cool = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=500)
    current, seen = warm, []
    for e in range(1000):  # as GLaD's evaluation steps its two schedulers
        seen.append(opt.param_groups[0]["lr"])
        opt.step()
        current.step()
        if e == 500:
            current = cool
    assert max(abs(a - warmup_cosine(e, 1000)) for e, a in enumerate(seen)) < 1e-6
    lr, want = 1.0, []
    for e in range(1001):  # as MTT's evaluation lowers its step size after epoch 501
        want.append(lr)
        if e == 501:
            lr *= 0.1
    assert [step(e, 1001) for e in range(1001)] == pytest.approx(want)
    assert [cosine(i, 4) for i in range(4)] == pytest.approx(
        [1, 0.5 + 2**0.5 / 4, 0.5, 0.5 - 2**0.5 / 4]
    )


def test_forgetting_momentum_is_a_new_optimiser():
    n = net()
    for lr in (0.1, 0.1):  # a new optimiser each epoch
        opt = torch.optim.SGD(n.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
        for _ in range(1):
            opt.zero_grad()
            F.cross_entropy(n(X), Y).backward()
            opt.step()
    assert torch.allclose(after(steps=None, epochs=2, restarts=(1,)), flat(n), atol=1e-6)
    assert not torch.allclose(after(steps=None, epochs=2), flat(n), atol=1e-6)


@pytest.mark.parametrize("norm", ["instance", "group", "layer", "none"])
def test_micro_batches_are_the_same_step(norm):
    assert torch.allclose(after(norm=norm, micro=7), after(norm=norm, micro=None), atol=2e-5)


def test_batch_norm_is_never_split():
    assert micro_size(net(norm="batch"), X, 32) == 32
    with pytest.raises(DdnbError, match="whole batches"):
        after(norm="batch", micro=8)
    n = net(norm="batch")
    train(n, X, Y, steps=3)
    assert not n.training and n.body[1].num_batches_tracked == 3


def test_soft_labels_equal_hard_ones_written_out():  # and a real mixture gives the mixture's loss
    n = net()
    train(n, X, F.one_hot(Y, 4).float(), steps=4, lr=0.1, generator=rng(7))
    assert torch.allclose(flat(n), after(), atol=1e-6)
    r = train(net(), X, torch.full((50, 4), 0.25), steps=1, lr=0.0)
    assert math.isclose(
        r[0]["loss"], -(0.25 * logits(net(), X).log_softmax(1)).sum(1).mean(), rel_tol=1e-5
    )


def test_average_of_weights_by_hand():
    ends = torch.stack([after(steps=None, epochs=k, batch=16) for k in (1, 2, 3, 4)])
    assert torch.allclose(after(steps=None, epochs=4, batch=16, ema=0.995), ends.mean(0), atol=1e-6)
    a = ends[0]
    for k, e in enumerate(ends[1:], 2):
        b = min(0.5, (k - 1) / k)
        a = b * a + (1 - b) * e
    assert torch.allclose(after(steps=None, epochs=4, batch=16, ema=0.5), a, atol=1e-6)


@pytest.mark.parametrize(
    "kw",
    [
        {},
        dict(batch=16),
        dict(aug=DSA("crop_rotate_cutout")),
        dict(batch=16, micro=6, optimiser="adam", lr=0.01),
        dict(ema=0.9, steps=None, epochs=3, batch=20),
    ],
)
def test_together_is_one_by_one(kw):
    kw = {**dict(steps=5, lr=0.05), **kw}
    out = []
    for together in (True, False):
        nets = [net(s) for s in range(3)]
        r = train_many(nets, X, Y, generators=[rng(s) for s in range(3)], together=together, **kw)
        out.append(
            (
                torch.stack([flat(n) for n in nets]),
                torch.tensor([[q["loss"] for q in p] for p in r]),
            )
        )
    assert torch.allclose(out[0][0], out[1][0], atol=2e-4) and torch.allclose(
        out[0][1], out[1][1], atol=1e-4
    )
    n = net(2)
    train(n, X, Y, generator=rng(2), **kw)
    assert torch.equal(flat(n), out[1][0][2])


def test_each_network_may_have_its_own_images():
    xs = [X[:20], X[20:40]]
    ys = [Y[:20], Y[20:40]]
    a, b = ([net(s) for s in range(2)] for _ in range(2))
    train_many(a, xs, ys, steps=3, together=True)
    train_many(b, xs, ys, steps=3, together=False)
    assert all(
        torch.allclose(flat(p), flat(q), atol=1e-5) for p, q in zip(a, b)
    ) and not torch.allclose(flat(a[0]), flat(a[1]))


def test_side_by_side_is_one_by_one():
    out = []
    for workers in (1, 2):
        nets = [net(s) for s in range(3)]
        train_many(
            nets,
            X,
            Y,
            steps=4,
            batch=16,
            generators=[rng(s) for s in range(3)],
            together=False,
            workers=workers,
            aug=DSA("crop_rotate"),
        )
        out.append(torch.stack([flat(n) for n in nets]))
    assert torch.equal(*out) and torch.get_num_threads() == 1


def test_same_seed_same_bytes_and_the_global_generator_rests():
    before = torch.random.get_rng_state()
    kw = dict(batch=16, aug=DSA())
    assert torch.equal(after(**kw), after(**kw)) and not torch.equal(
        after(**kw), after(**kw, generator=rng(8))
    )
    drop = wrap(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 4)))
    runs = []
    for s in (3, 3, 4):
        n = drop(rng(0))
        train(n, X, Y, steps=5, generator=rng(s))
        runs.append(flat(n))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_records_and_accuracy():
    n = MLP(1, 4, 8)
    r = train(n, X, Y, epochs=3, batch=20, lr=0.01)
    assert (
        [q["epoch"] for q in r] == [1, 2, 3] and r[-1]["step"] == 9 and r[0]["loss"] > r[-1]["loss"]
    )
    assert (
        accuracy(n, X, Y)
        == (n(X).argmax(1) == Y).float().mean().item()
        == accuracy(n, X, F.one_hot(Y, 4).float())
    )
    n.train()
    assert torch.allclose(logits(n, X, batch=7), logits(n, X), atol=1e-6) and n.training


def test_mistakes_are_sentences():
    for kw, say in [
        (dict(), "epochs or steps"),
        (dict(steps=1, epochs=1), "epochs or steps"),
        (dict(steps=1, schedule="cosin"), "'cosine'"),
        (dict(steps=1, optimiser="lbfgs"), "lbfgs"),
        (dict(steps=1, per="day"), "epoch"),
    ]:
        with pytest.raises(DdnbError, match=say):
            train(net(), X, Y, **kw)
    with pytest.raises(DdnbError, match="one label per image"):
        train(net(), X, Y[:3], steps=1)
    with pytest.raises(DdnbError, match="together"):
        train_many([net(norm="batch"), net(norm="batch")], X, Y, steps=1, together=True)


@pytest.fixture
def fresh_compiler(monkeypatch):
    "A process in which nothing was compiled yet."
    monkeypatch.setattr(speed, "_ready", {})
    monkeypatch.setattr(speed, "_broken", set())


def test_a_failing_compiler_costs_one_warning(monkeypatch, fresh_compiler):
    def broken(f, **kw):
        def call(*a):
            raise Broken("no compiler")

        return call

    class Broken(RuntimeError):
        __module__ = "torch._inductor.exc"

    monkeypatch.setattr(torch, "compile", broken)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        got = after(compile=True)
    assert len(seen) == 1 and "torch.compile failed" in str(seen[0].message)
    assert torch.equal(got, after())


def test_an_error_of_the_network_is_no_compilers(fresh_compiler):
    with pytest.raises(ZeroDivisionError):
        Compiled(lambda: 1 / 0)()


@pytest.mark.slow
def test_compiled_is_the_same_training(fresh_compiler):
    "The one compilation of these tests; a second network needs no other."
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def run(**kw):
        nets = [MLP(1, 4, 8, width=8, depth=1, generator=rng(s)) for s in (0, 1)]
        train_many(nets, X, Y, steps=3, batch=40, micro=20, together=False, **kw)
        return torch.stack([flat(n) for n in nets])

    assert torch.allclose(run(compile=True), run(), atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    whole, half, again = (training(MLP, compile=True, micro=20, batch=40) for _ in range(3))
    resumed_equals(whole, half, again)


def training(kind=ConvNet, seed=0, **kw):
    "Three networks about to learn."
    nets = [kind(1, 4, 8, width=8, depth=1, generator=rng(s + seed)) for s in range(3)]
    generators = [rng(10 + s) for s in range(3)]
    return Training(nets, X, Y, generators=generators, **dict(epochs=2, together=False) | kw)


def resumed_equals(whole, half, again, records=7):
    "Interrupt one, take it up in another, and compare with the one that was left alone."
    for _ in zip(range(records), half):
        pass
    again.load_state_dict(unpack(*pack(half.state_dict())))
    for work in (whole, again):
        for _ in work:
            pass
    assert again.step == again.steps == 3
    for a, b in zip(whole.nets, again.nets):
        for p, q in zip(a.state_dict().values(), b.state_dict().values()):
            assert torch.equal(p, q)
    without = [[{**r, "seconds": 0} for r in rows] for rows in whole.records]
    assert without == [[{**r, "seconds": 0} for r in rows] for rows in again.records]


DROP = wrap(
    lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(64), nn.Linear(64, 4))
)


@pytest.mark.parametrize("records", [1, 5, 9])
@pytest.mark.parametrize(
    "kw",
    [
        dict(batch=16, aug=DSA("crop_rotate")),
        dict(batch=16, micro=6, optimiser="adam", ema=0.9, schedule="cosine"),
        dict(epochs=12, together=True, ema=0.9, per="epoch", schedule="step", restarts=(2,)),
        dict(batch=16, together=True, aug=DSA()),
        dict(batch=16, workers=2, aug=DSA("crop_rotate")),
        dict(batch=16, kind=lambda *a, generator, **kw: DROP(generator)),
    ],
)
def test_resumed_is_uninterrupted(kw, records, monkeypatch):
    monkeypatch.setattr(Fit, "beat", 1e-9)
    works = [training(seed=s, **kw) for s in (0, 0, 5)]
    resumed_equals(*works, records)


def test_a_training_waits_in_a_run_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(Fit, "beat", 1e-9)
    whole = complete(training(batch=16), progress=False)
    run = Run(tmp_path, training(batch=16), log=None)
    seen = [r for _, r in zip(range(11), run)]
    assert "share" in seen[-1] and seen[-1]["step"] == 1  # the second network is under way
    work = complete(training(seed=3, batch=16), tmp_path, progress=False, log=None)
    assert all(torch.equal(flat(a), flat(b)) for a, b in zip(whole.nets, work.nets))


def test_a_forecast_changes_nothing():
    for kw in (dict(batch=16), dict(kind=lambda *a, generator, **kw: DROP(generator))):
        a, b = training(**kw), training(**kw)
        before = torch.random.get_rng_state()
        assert b.forecast()["seconds"] > 0 and torch.equal(before, torch.random.get_rng_state())
        for work in (a, b):
            for _ in work:
                pass
        assert all(torch.equal(flat(p), flat(q)) for p, q in zip(a.nets, b.nets))
        assert b.forecast() is None


def test_options_are_in_the_signature():
    names = list(inspect.signature(train).parameters)
    assert names[:4] == ["net", "x", "y", "generator"] and {"epochs", "aug", "micro"} <= {*names}
    with pytest.raises(DdnbError, match="epochs"):
        train(net(), X, Y, epoch=3)
