"Fit: what is stopped after any step goes on to the bit, whatever it is made of."

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddnb.base.check import DdnbError
from ddnb.base.files import pack, unpack
from ddnb.base.rng import rng
from ddnb.base.run import Run, complete
from ddnb.nets import ConvNet
from ddnb.nets.fit import (
    ENDS,
    Average,
    Batches,
    Fit,
    Noise,
    PlainSGD,
    blend,
    cosine,
    gradient_of,
    mean_until,
    optimiser,
)
from ddnb.nets.speed import abreast

torch.set_num_threads(1)
X, Y = torch.randn(40, 1, 8, 8, generator=rng(0)), torch.randint(4, (40,), generator=rng(1))
STEPS = 15


def make(seed=0, kind="sgd", beta=None, mix=torch.lerp, ends="short", drop=False, **kw):
    "A training with all that can be forgotten: noise, batch statistics, momentum, an average."
    net = ConvNet(1, 4, 8, width=4, depth=1, norm="batch", generator=rng(seed))
    net = nn.Sequential(net, nn.Dropout(0.3)) if drop else net
    g = rng(seed + 5)
    noise, batches = Noise(g) if drop else None, Batches(len(X), 12, g, ends)

    def loss(i):
        jitter = 0.1 * torch.randn(len(i), 1, 8, 8, generator=g)
        return F.cross_entropy(net(X[i] + jitter), Y[i])

    params = list(net.parameters())
    opt = PlainSGD(params, 0.05, 0.9, 1e-3) if kind == "plain" else optimiser(params, kind, 0.01)
    average = Average(params, beta, every=3, mix=blend) if beta else None
    own = dict(
        epoch=batches.epoch, schedule=cosine, clip=1.0, restarts=(6,), marks=range(STEPS + 1)
    )
    own |= dict(average=average, buffers=list(net.buffers()), noise=noise)
    return net, Fit(opt, gradient_of(loss), batches, STEPS, **own | kw)


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize("stop", [1, 8, STEPS])
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("kind, beta", [("sgd", None), ("adam", 0.9), ("plain", mean_until(0.9))])
def test_resumed_is_uninterrupted(kind, beta, ends, drop, stop):
    kw = dict(kind=kind, beta=beta, ends=ends, drop=drop)
    (net, whole), (_, half), (other, again) = make(**kw), make(**kw), make(seed=3, **kw)
    losses = [r["loss"] for r in whole]
    seen = [r["loss"] for _, r in zip(range(stop), half)]
    again.load_state_dict(unpack(*pack(half.state_dict())))
    assert seen + [r["loss"] for r in again] == losses
    assert equal(net, other)
    for a, b in zip(whole.log, again.log):
        assert a[0] == b[0] and torch.equal(a[1], b[1])


def test_a_forecast_changes_nothing():
    (a, one), (b, two) = make(drop=True, beta=0.9), make(drop=True, beta=0.9)
    stream = torch.random.get_rng_state()
    assert two.forecast()["seconds"] > 0 and torch.equal(stream, torch.random.get_rng_state())
    assert [r["loss"] for r in one] == [r["loss"] for r in two] and equal(a, b)


def test_a_training_waits_in_a_run_folder(tmp_path):
    (a, whole), (_, half), (b, again) = make(), make(), make(seed=4)
    complete(whole, progress=False)
    for _ in zip(range(4), Run(tmp_path, half, log=None)):
        pass
    complete(again, tmp_path, progress=False, log=None)
    assert equal(a, b)
    with pytest.raises(DdnbError, match="clip"):
        complete(make(clip=2.0)[1], tmp_path, progress=False, log=None)


def test_records_come_at_marks_and_signs_of_life_between(monkeypatch):
    monkeypatch.setattr(Fit, "beat", 1e9)  # no sign of life in so short a time
    assert [r["step"] for r in make(marks={2, 7})[1]] == [2, 7, STEPS]
    assert [r["step"] for r in make(marks=None)[1]] == [4, 8, 12, 15]
    monkeypatch.setattr(Fit, "beat", 1e-9)
    records = list(make(marks={7})[1])
    assert len(records) == STEPS and [r["step"] for r in records if "share" not in r] == [7, 15]


def test_time_ends_a_training(monkeypatch):
    monkeypatch.setattr(Fit, "beat", 1e9)
    fit = make(budget=1e-6)[1]
    assert [r["step"] for r in fit] == [1] and fit.share >= 1


def test_an_average_stands_in_the_weights_at_the_end():
    net, fit = make(beta=0.5)
    for r in fit:
        if r["step"] == STEPS - 1:
            before = [v.clone() for v in fit.average.values]
    assert all(torch.equal(p, v) for p, v in zip(net.parameters(), fit.average.values))
    assert not torch.equal(before[0], fit.average.values[0])


def test_the_callers_random_stream_rests():
    before = torch.random.get_rng_state()
    for _ in make(drop=True)[1]:
        assert torch.equal(before, torch.random.get_rng_state())


def test_works_abreast_are_works_alone():
    alone = [list(make(seed=s)[1]) for s in range(3)]
    works = [make(seed=s) for s in range(3)]
    side = [[], [], []]
    for k, record in abreast([fit for _, fit in works], workers=2):
        side[k].append(record["loss"])
    assert side == [[r["loss"] for r in rows] for rows in alone]


def test_an_error_in_one_thread_ends_all():
    def fails():
        yield {"step": 1}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(abreast([fails(), iter([{"step": 1}])], workers=2))
    assert torch.get_num_threads() == 1
