"Importance weights: identities, gradients, constraints, statistics."

import pytest
import torch

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.nets import net_for
from ddnb.trajectory import IADD, MTT, record
from ddnb.trajectory.iadd import MODES, STATS, mask, stats


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def setting():
    data = load("digits")
    make = net_for(data, width=8, depth=2)
    return (
        record(data, make, n=2, epochs=4, progress=False),
        make,
        torch.randn(10, 1, 8, 8, generator=rng(0)),
        torch.arange(10),
    )


def moves(setting, cls=IADD, steps=4, **kw):
    "Images, step size and W after some Adam steps."
    experts, make, x, y = setting
    obj = cls(experts, make, steps=3, generator=rng(3), **kw)
    x = x.clone().requires_grad_()
    adam = torch.optim.Adam([{"params": [x], "lr": 0.1}, *obj.groups()])
    for _ in range(steps):
        adam.zero_grad()
        obj(x, y).backward()
        adam.step()
        getattr(obj, "project", lambda: None)()
    return x.detach(), obj


@pytest.mark.parametrize(
    "kw",
    [
        {"mode": "uniform"},
        {"mode": "paper", "lr_w": 0},
        {"mode": "mean1", "lr_w": 0},
        {"mode": "mask", "ratio": 0.0},
        {"per": "tensor", "lr_w": 0},
        {"per": "channel", "lr_w": 0},
    ],
)
def test_w_of_one_is_mtt_bit_for_bit(setting, kw):
    (x, mtt), (z, obj) = moves(setting, MTT), moves(setting, **kw)
    assert torch.equal(x, z) and torch.equal(mtt.log_alpha, obj.log_alpha)


@pytest.mark.parametrize("mode", ["paper", "mean1"])
def test_learned_w_changes_the_images(setting, mode):
    assert not torch.equal(moves(setting, mode=mode, lr_w=0.1)[0], moves(setting, MTT)[0])


def test_w_gradient_is_the_formula(setting):
    experts, make, x, y = setting
    obj = IADD(experts, make, steps=3, mode="paper", generator=rng(3))
    with torch.no_grad():
        obj.W.uniform_(0.5, 1.5, generator=rng(0))
    loss = obj(x, y)
    loss.backward()
    r = obj.report()
    a, b = experts.rows(r["expert"], [r["start"], r["start"] + 2])
    D = (a - b).square().sum()
    assert torch.allclose(
        obj.W.grad, (2 * obj.W * obj.residual**2 / D).detach(), rtol=1e-4, atol=1e-9
    )
    assert abs(float((obj.W * obj.residual).square().sum() / D) - loss.item()) < 1e-6
    assert abs(float(obj.residual.square().sum() / D) - r["loss_unweighted"]) < 1e-6


@pytest.mark.parametrize("per", ["parameter", "channel", "tensor", "layer"])
def test_mean_stays_one_and_w_not_negative(setting, per):
    obj = moves(setting, per=per, lr_w=0.5)[1]
    assert (
        abs(float(obj.importance.detach().mean()) - 1) < 1e-5
        and obj.W.min() >= 0
        and obj.W.std() > 0
    )


def test_groups_get_the_sum_of_their_members(setting):
    experts, make, x, y = setting
    fine = IADD(experts, make, steps=3, mode="paper", generator=rng(3))
    fine(x, y).backward()
    for per in ("channel", "tensor", "layer"):
        o = IADD(experts, make, steps=3, mode="paper", per=per, generator=rng(3))
        o(x, y).backward()
        assert torch.allclose(
            o.W.grad,
            torch.zeros_like(o.W).index_add_(0, o.index, fine.W.grad),
            rtol=1e-4,
            atol=1e-8,
        )


def test_mask_drops_the_largest(setting):
    d = torch.tensor([1.0, -4.0, 2.0, 3.0])
    assert mask(d, 0.5).tolist() == [1, 0, 1, 0] and mask(d, 0).sum() == 4
    obj = moves(setting, mode="mask", ratio=0.25, steps=1)[1]
    assert float(obj.importance.sum()) == obj.flat.numel - int(0.25 * obj.flat.numel)


def test_mask_before_the_first_call(setting):
    experts, make, *_ = setting
    obj = IADD(experts, make, mode="mask", ratio=0.25)
    assert obj.importance.device == obj.W.device and obj.importance.shape == obj.W.shape


def test_stats_by_hand():
    W, d = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]), torch.tensor([9.0, 1.0, 0.0, 1.0, 0.0])
    s = stats(W, d, {"a": slice(0, 3), "b": slice(3, 5)})
    assert (
        set(s["a"]) == set(STATS)
        and s["a"]["mean"] == 1
        and s["a"]["max"] == 2
        and s["a"]["q50"] == 1
        and abs(s["a"]["above1"] - 1 / 3) < 1e-6
    )
    assert (
        abs(s["a"]["share"] - 0.1) < 1e-6
        and abs(s["b"]["share"] - 0.9) < 1e-6
        and s["b"]["std"] == 0.5
    )


def test_report_and_history(setting):
    experts, make, *_ = setting
    obj = moves(setting, full=(2, 4))[1]
    r = obj.report()
    assert (
        set(r["W"]) == set(obj.flat.names)
        and abs(sum(v["share"] for v in r["W"].values()) - 1) < 1e-5
    )
    assert (
        set(obj.history) == {2, 4}
        and obj.history[2].shape == (obj.flat.numel,)
        and not torch.equal(obj.history[2], obj.history[4])
    )
    assert "W" not in moves(setting, mode="uniform", steps=1)[1].report()


def test_a_given_importance_is_held(setting):
    n = setting[0].num_params
    W = torch.rand(n, generator=rng(0))
    obj = moves(setting, W=W)[1]
    assert torch.equal(obj.W.detach(), W)


def test_state_round_trip(setting):
    experts, make, x, y = setting
    a = moves(setting, full=(2,))[1]
    b = IADD(experts, make, steps=3, generator=rng(0))
    b.load_state_dict(a.state_dict())
    assert a(x, y).item() == b(x, y).item() and torch.equal(a.history[2], b.history[2])


def test_sentences(setting):
    experts, make, *_ = setting
    with pytest.raises(DdnbError, match="finite"):
        IADD(experts, make, W=torch.full((experts.num_params,), float("nan")))
    with pytest.raises(DdnbError, match="ratio"):
        IADD(experts, make, mode="mask", ratio=1.0)
    assert MODES == ("uniform", "mask", "paper", "mean1")
