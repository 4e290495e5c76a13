"DM and DC against loops written out, finite differences, and themselves after a restart."

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.data import Data, Split, load, stats
from ddnb.distil import DC, DM, Pixels, distance, distill, dm_proxy, init, loops
from ddnb.distil.match import DISTANCES
from ddnb.nets import net_for, wrap
from ddnb.nets.augment import DIGITS, DSA
from ddnb.nets.train import accuracy, train


def tiny(n=12, K=3, size=8, channels=1):
    y = torch.arange(K).repeat(n)
    x = torch.randint(0, 256, (len(y), channels, size, size), generator=rng(0), dtype=torch.uint8)
    s = Split(x, y)
    return Data("tiny", [f"k{c}" for c in range(K)], s, s, s, stats(x))


D = tiny()


def make(norm="instance", **kw):
    return net_for(D, "ConvNet", **{"width": 4, "depth": 2, "norm": norm, **kw})


def syn(ipc=2, dtype=torch.float32, seed=3):
    x = torch.randn(3 * ipc, 1, 8, 8, generator=rng(seed)).to(dtype)
    return x.requires_grad_(), torch.arange(3).repeat_interleave(ipc)


# ---- DM


@pytest.mark.parametrize("aug", [None, DSA(), DSA(mode="all")])
def test_dm_equals_the_loop_over_classes(aug):
    x, y = syn()
    got = DM(D, make(), generator=rng(1), batch=5, aug=aug, chunk=7)(x, y)
    g = rng(1)
    net, want = make()(generator=g), 0
    for c in range(3):
        real, s = D.batch(c, 5, g), x[y == c]
        if aug:
            d = aug.draw(1, g)
            real, s = aug(real, d), aug(s, d)
        want = want + ((net.features(real).mean(0) - net.features(s).mean(0)) ** 2).sum()
    assert torch.allclose(got, want, rtol=1e-5)
    assert torch.allclose(*(torch.autograd.grad(l, x)[0] for l in (got, want)), atol=1e-6)


def test_dm_with_batch_norm_sees_all_classes_in_one_batch():
    x, y = syn()
    got = DM(D, make("batch"), generator=rng(1), batch=5, chunk=2)(x, y)
    g = rng(1)
    net = make("batch")(generator=g).train()
    real = torch.cat([D.batch(c, 5, g) for c in range(3)])
    a, b = net.features(real).view(3, 5, -1).mean(1), net.features(x).view(3, 2, -1).mean(1)
    assert torch.allclose(got, ((a - b) ** 2).sum(), rtol=1e-5)


def finite_differences(objective, x, y, n=12, eps=1e-6):
    "Largest relative error of the gradient in a few random coordinates, in float64."
    (g,) = torch.autograd.grad(objective()(x, y), x)
    worst = 0.0
    for i in torch.randperm(x.numel(), generator=rng(0))[:n].tolist():
        e = torch.zeros(x.numel(), dtype=x.dtype)
        e[i] = eps
        e = e.view_as(x)
        num = (objective()(x.detach() + e, y) - objective()(x.detach() - e, y)) / (2 * eps)
        worst = max(worst, abs(num.item() - g.flatten()[i].item()) / (g.abs().max().item() + 1e-12))
    return worst


@pytest.mark.parametrize("aug", [None, DSA("crop_cutout_scale_rotate", mode="all")])
def test_gradients_reach_x_as_finite_differences_say(aug):
    x, y = syn(dtype=torch.float64)
    assert (
        finite_differences(lambda: DM(D, make(), generator=rng(1), batch=4, aug=aug), x, y) < 1e-5
    )
    for kind in DISTANCES:
        for batched in (True, False):
            assert (
                finite_differences(
                    lambda: DC(
                        D,
                        make(),
                        generator=rng(1),
                        batch=4,
                        aug=aug,
                        distance=kind,
                        batched=batched,
                    ),
                    x,
                    y,
                    n=6,
                )
                < 1e-4
            ), (kind, batched)


def test_gradients_flow_on_into_latents():
    z = torch.randn(6, 5, generator=rng(0), requires_grad=True)
    A = torch.randn(5, 64, generator=rng(1))
    for obj in (
        DM(D, make(), generator=rng(1), batch=4),
        *(DC(D, make(), generator=rng(1), batch=4, batched=b) for b in (True, False)),
    ):
        z.grad = None
        obj((z @ A).view(6, 1, 8, 8), syn()[1]).backward()
        assert z.grad.abs().min() > 0 and torch.isfinite(z.grad).all()


# ---- DC


def naive_distance(a, b):
    "The published distance with loops over layers and rows."
    total = 0.0
    for u, v in zip(a, b):
        if u.ndim == 1:
            continue
        for r, s in zip(u.reshape(len(u), -1), v.reshape(len(v), -1)):
            dot = sum(p * q for p, q in zip(r.tolist(), s.tolist()))
            n = sum(p * p for p in r.tolist()) ** 0.5 * sum(q * q for q in s.tolist()) ** 0.5
            total += 1 - dot / (n + 1e-6)
    return total


SHAPES = [(4, 3, 3, 3), (4,), (5, 8), (5,), (3, 4, 4)]


def grads(seed, lead=()):
    return [torch.randn(*lead, *s, generator=rng(seed + i)).double() for i, s in enumerate(SHAPES)]


def test_distances_equal_loops_written_out():
    a, b = grads(0), grads(50)
    assert distance(a, b).item() == pytest.approx(naive_distance(a, b), rel=1e-9)
    va, vb = (torch.cat([g.flatten() for g in o]) for o in (a, b))
    assert distance(a, b, "mse").item() == pytest.approx(((va - vb) ** 2).sum().item())
    assert distance(a, b, "cos").item() == pytest.approx(
        1 - (va @ vb / (va.norm() * vb.norm())).item()
    )
    assert distance(a, a).item() == pytest.approx(0, abs=1e-5) and distance(
        a, [-g for g in a]
    ).item() == pytest.approx(2 * (4 + 5 + 3), abs=1e-4)
    c, d = ([g.clone() for g in o] for o in (a, b))
    c[1] += 9
    d[3] -= 9
    assert distance(c, d).item() == distance(a, b).item(), "tensors of one dimension must not count"


@pytest.mark.parametrize("kind", DISTANCES)
def test_distance_of_stacked_classes_is_that_of_each(kind):
    a, b = grads(0, (3,)), grads(50, (3,))
    want = torch.stack([distance([g[c] for g in a], [g[c] for g in b], kind) for c in range(3)])
    assert torch.allclose(distance(a, b, kind, 1), want)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("aug", [None, DSA(mode="all")])
def test_dc_equals_the_loop_over_classes(batched, aug):
    x, y = syn(dtype=torch.float64)
    got = DC(D, make(), generator=rng(1), batch=5, aug=aug, batched=batched)(x, y)
    g = rng(1)
    net, want = make()(generator=g).double(), 0
    ps = list(net.parameters())
    for c in range(3):
        real, s = D.batch(c, 5, g).double(), x[y == c]
        if aug:
            d = aug.draw(1, g)
            real, s = aug(real, d), aug(s, d)
        gt = torch.autograd.grad(F.cross_entropy(net(real), torch.full((5,), c)), ps)
        gs = torch.autograd.grad(F.cross_entropy(net(s), y[y == c]), ps, create_graph=True)
        assert distance(gs, gt).item() == pytest.approx(naive_distance(gs, gt), rel=1e-9)
        want = want + distance(gs, gt)
    assert torch.allclose(got, want) and torch.allclose(
        *(torch.autograd.grad(l, x)[0] for l in (got, want))
    )


def test_dc_uneven_classes_and_soft_labels():
    x = torch.randn(5, 1, 8, 8, generator=rng(0), dtype=torch.float64).requires_grad_()
    y = torch.tensor([0, 0, 1, 2, 2])
    a = DC(D, make(), generator=rng(1), batch=4)(x, y)
    soft = F.one_hot(y, 3).double().requires_grad_()
    b = DC(D, make(), generator=rng(1), batch=4)(x, soft)
    assert torch.allclose(a, b) and torch.autograd.grad(b, soft)[0].abs().sum() > 0


def test_soft_labels_get_their_gradient_both_ways():
    x, y = syn(dtype=torch.float64)
    z = torch.randn(6, 3, generator=rng(0)).double() * 0.1 + 3 * F.one_hot(y, 3)
    out = []
    for batched in (True, False):
        p = z.softmax(1).requires_grad_()
        out.append(
            torch.autograd.grad(
                DC(D, make(), generator=rng(1), batch=4, batched=batched)(x, p), [x, p]
            )
        )
    assert all(torch.allclose(u, v) and u.abs().sum() > 0 for u, v in zip(*out))


def test_dc_loops_as_published():
    "A new net every `outer` steps; before the others it trains on the images of that moment."
    x, y = syn()
    dc = DC(D, make(), generator=rng(1), batch=4, outer=3, inner=2, lr_net=0.1, batch_net=4)
    seen = []
    g = rng(1)
    for step in range(7):
        xs = x.detach() + step
        dc(xs.requires_grad_(), y)
        seen.append(nn.utils.parameters_to_vector(dc.net.parameters()).detach().clone())
        if step % 3 == 0:
            net = make()(generator=g)
        else:
            train(
                net,
                xs.detach(),
                y,
                epochs=2,
                batch=4,
                lr=0.1,
                momentum=0,
                weight_decay=0,
                generator=g,
            )
        for c in range(3):
            D.batch(c, 4, g)
        assert seen[-1].equal(nn.utils.parameters_to_vector(net.parameters())), step
    assert loops(1) == dict(outer=1, inner=1) and loops(50) == dict(outer=50, inner=10)
    with pytest.raises(DdnbError, match="not 7"):
        loops(7)


def test_batch_statistics_are_exact_and_frozen():
    x, y = syn()
    dc = DC(D, make("batch"), generator=rng(1), batch=4)
    dc(x, y)
    bn = next(m for m in dc.net.modules() if isinstance(m, nn.BatchNorm2d))
    conv = next(m for m in dc.net.modules() if isinstance(m, nn.Conv2d))
    g = rng(1)
    make("batch")(generator=g)
    h = conv(torch.cat([D.batch(c, 16, g) for c in range(3)]))
    assert (
        not bn.training
        and torch.allclose(bn.running_mean, h.mean((0, 2, 3)), atol=1e-5)
        and torch.allclose(bn.running_var, h.var((0, 2, 3)), atol=1e-4)
    )
    a, b = (DC(D, make("batch"), generator=rng(1), batch=4, batched=k)(x, y) for k in (True, False))
    assert torch.allclose(a, b, rtol=1e-4)


# ---- both


class Spy:
    "An augmentation that writes down what it is used for."

    def __init__(self):
        self.draws, self.uses = 0, []

    def draw(self, n, generator):
        assert n == 1
        self.draws += 1
        return self.draws

    def __call__(self, x, d):
        self.uses.append((d, len(x)))
        return x


@pytest.mark.parametrize("kind", [DM, DC])
def test_siamese_one_draw_per_class_for_real_and_synthetic(kind):
    spy = Spy()
    kind(D, make(), generator=rng(1), batch=5, aug=spy)(*syn())
    assert spy.draws == 3 and spy.uses == [(k, n) for k in (1, 2, 3) for n in (5, 2)]


@pytest.mark.parametrize(
    "objective",
    [
        partial(DM, batch=4, aug=DSA(DIGITS)),
        partial(DC, batch=4, aug=DSA(DIGITS), outer=3, inner=2),
        partial(DC, batch=4, outer=4, inner=1, batched=False),
    ],
)
def test_a_resumed_run_is_bit_identical(objective):
    def fresh(seed=0):
        s = Pixels(*init(D, 2, generator=rng(0)))
        return (
            s,
            objective(D, make(), generator=rng(seed)),
            torch.optim.SGD(s.parameters(), 0.1, momentum=0.5),
        )

    whole = fresh()
    list(distill(*whole, 8))
    for stop in (3, 5):
        first = fresh()
        list(distill(*first, stop))
        saved = copy.deepcopy([m.state_dict() for m in first])
        again = fresh(seed=99)
        for m, state in zip(again, saved):
            m.load_state_dict(state)
        list(distill(*again, 8, start=stop))
        assert again[0].x.equal(whole[0].x), stop


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_net_follows_the_images_after_a_resume(norm):
    "A state is read onto the CPU, in the type it was saved in; the images may be elsewhere."
    x, y = syn(dtype=torch.float64)
    a, b = (DC(D, make(norm), batch=4, outer=4, generator=rng(s)) for s in (1, 2))
    a(x, y)
    state = copy.deepcopy(a.state_dict())
    state["_extra_state"]["net"] = {
        k: v.float() if v.is_floating_point() else v
        for k, v in state["_extra_state"]["net"].items()
    }
    b.load_state_dict(state)
    assert b.calls == 1 and torch.allclose(a(x, y), b(x, y))
    assert next(b.net.parameters()).dtype == torch.float64


@pytest.mark.parametrize("kind", [DM, DC])
def test_labels_are_looked_up_again_where_they_changed(kind):
    x, y = syn()
    seen, fresh = (kind(D, make(), batch=4, generator=rng(1)) for _ in range(2))
    seen(x, y), fresh(x, y.clone())
    y[:2] = 2
    assert seen(x, y).equal(fresh(x, y.clone()))
    with pytest.raises(DdnbError, match="is 7, but tiny"):
        seen(x, y.fill_(7))


@pytest.mark.parametrize("kind", [DM, DC])
def test_same_seed_same_loss_and_the_global_generator_is_left_alone(kind):
    x, y = syn()
    state = torch.random.get_rng_state()
    a, b, c = (kind(D, make(), generator=rng(s), batch=4)(x, y).item() for s in (1, 1, 2))
    assert a == b != c and state.equal(torch.random.get_rng_state())


@pytest.mark.parametrize("kind", [DM, DC])
def test_the_objective_has_no_parameters_and_reports_plain_numbers(kind):
    o = kind(D, make(), generator=rng(1), batch=4)
    assert o.report() == {}
    o(*syn())
    assert not list(o.parameters())
    r = o.report()
    assert r["worst_class"] in range(3) and 1 / 3 <= r["worst_share"] <= 1


@pytest.mark.parametrize("kind", [DM, DC])
def test_bad_input_is_one_sentence(kind):
    x, y = syn()
    o = kind(D, make(), generator=rng(1), batch=4)
    with pytest.raises(DdnbError, match="6 images but 5 labels"):
        o(x, y[:5])
    with pytest.raises(DdnbError, match="is 3, but tiny"):
        o(x, y + 1)
    with pytest.raises(DdnbError, match="x is uint8"):
        o(x.detach().to(torch.uint8), y)
    with pytest.raises(DdnbError, match="batch is 0"):
        kind(D, make(), generator=rng(1), batch=0)
    with pytest.raises(DdnbError, match="generator is"):
        kind(D, make(), generator="3")


def test_bad_dc_settings():
    for kw, m in (
        (dict(distance="our"), "distance is 'our'.*'ours'"),
        (dict(outer=0), "outer is 0"),
        (dict(inner=-1), "inner is -1"),
        (dict(outer=1.5), "outer is 1.5"),
    ):
        with pytest.raises(DdnbError, match=m):
            DC(D, make(), generator=rng(0), **kw)


@pytest.mark.slow
def test_dm_and_dc_lift_random_digits():
    "One image a class: the prototype saw 61.5 -> 86.7 (DM) and 83.7 (DC)."
    d = load("digits")
    mk = net_for(d, "ConvNet", width=32, depth=2)

    def acc(x, y):
        net = mk(generator=rng(7))
        train(
            net,
            x.detach(),
            y,
            steps=200,
            lr=4e-3,
            optimiser="adam",
            schedule="cosine",
            weight_decay=0,
            generator=rng(7),
        )
        return accuracy(net, *d.xy("valid"))

    start = acc(*init(d, 1, generator=rng(0)))
    for o, n in (
        (DM(d, mk, generator=rng(0), batch=25), 80),
        (DC(d, mk, generator=rng(0), batch=25), 30),
    ):
        s = Pixels(*init(d, 1, generator=rng(0)))
        list(distill(s, o, torch.optim.Adam(s.parameters(), 0.1), n))
        assert acc(*s()) >= start + 0.08, type(o).__name__


def test_the_proxy_is_a_function_of_seed_and_data():
    d = load("digits")
    p = dm_proxy(net_for(d, "ConvNet", width=8, depth=2), ipc=1, steps=5, batch=8, train_steps=20)
    a, b, c = p(d, rng(0)), p(d, rng(0)), p(d, rng(1))
    assert a == b and 0 <= a <= 1 and 0 <= c <= 1


@pytest.mark.parametrize("kind", [DM, DC])
def test_names_seeds_and_strategies_will_do(kind):
    x, y = init(D, 1)
    a, b = (
        kind(D, m, generator=g, aug=s)(x, y)
        for m, g, s in (("MLP", 3, "color_crop"), (net_for(D, "MLP"), rng(3), DSA("color_crop")))
    )
    assert torch.equal(a, b)
    for bad, words in (
        (dict(make="MPL"), "'MLP'"),
        (dict(data="digits"), "ddnb.data.load"),
        (dict(aug=3), "DSA"),
        (dict(batch=True), "batch is"),
    ):
        with pytest.raises(DdnbError, match=words):
            kind(**{"data": D, "make": "MLP", **bad})


def test_images_of_another_form_and_nets_without_features_are_said():
    x, y = init(D, 1)
    for bad in (x.expand(-1, 3, -1, -1), x[:, :, :6]):
        for kind in (DM, DC):
            with pytest.raises(DdnbError, match="of tiny"):
                kind(D, "MLP")(bad, y)
    with pytest.raises(DdnbError, match="features"):
        DM(
            D,
            wrap(lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), "mine"),
        )(x, y)
    with pytest.raises(DdnbError, match="chunk is 0"):
        DM(D, "MLP", chunk=0)
