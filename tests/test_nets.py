"Networks: published parameter counts, PyTorch's own distributions, no global randomness, any size."

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ddnb.data import rng
from ddnb.nets import NETS, ConvNet, Flat, LeNet, ResNet18, build, init, lent, net_for, wrap
from ddnb.store import DdnbError

torch.set_num_threads(1)
THIN = {
    "ConvNet": {"width": 8},
    "MLP": {"width": 8},
    "AlexNet": {"width": 8},
    "VGG11": {"width": 8},
    "ResNet18": {"width": 8},
    "ViT": {"dim": 16, "depth": 1, "heads": 1, "mlp": 16},
}


def params(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    "args, n",
    [
        ((3, 10, 32), 320_010),
        ((3, 100, 32), 504_420),
        ((1, 10, 28), 317_706),
        ((3, 200, 64, 4), 857_160),
        ((3, 10, 128, 5), 615_690),
        ((3, 10, 256, 6), 763_530),
    ],
)
def test_convnet_has_the_published_number_of_parameters(args, n):
    c, k, s, *d = args
    assert params(ConvNet(c, k, s, **({"depth": d[0]} if d else {}))) == n


@pytest.mark.parametrize(
    "name, n",
    [
        ("MLP", 3072 * 128 + 128 + 128 * 129 + 1290),
        ("LeNet", 62_006),
        ("AlexNet", 1_872_202),
        ("VGG11", 9_231_114),
        ("ResNet18", 11_173_962),
        ("ViT", 9_523_722),
    ],
)
def test_evaluation_networks_have_the_literature_s_sizes(name, n):
    assert params(NETS[name](3, 10, 32)) == n


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    "channels, size", [(1, 8), (3, 8), (1, 28), (3, 32), (3, (12, 20)), (2, 5), (3, 64)]
)
def test_every_network_runs_on_every_size(name, channels, size):
    net = NETS[name](channels, 7, size, **THIN.get(name, {}))
    x = torch.randn(
        2, channels, *((size, size) if isinstance(size, int) else size), generator=rng(0)
    )
    out = net(x)
    assert out.shape == (2, 7) and torch.isfinite(out).all() and (out[0] - out[1]).abs().max() > 0
    assert torch.equal(out, net.classifier(net.features(x))) and net.features(x).ndim == 2


@pytest.mark.parametrize("norm", ["instance", "group", "layer", "batch", "none"])
@pytest.mark.parametrize("name", ["ConvNet", "LeNet", "AlexNet", "VGG11", "ResNet18"])
def test_norms_can_be_chosen(name, norm):
    if name == "LeNet" and norm == "group":
        with pytest.raises(DdnbError, match="in fours"):
            LeNet(1, 10, 8, norm=norm)
        return
    assert NETS[name](1, 10, 8, norm=norm, **THIN.get(name, {}))(
        torch.randn(2, 1, 8, 8, generator=rng(0))
    ).shape == (2, 10)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Linear(64, 96),
        lambda: nn.Conv2d(16, 96, 3),
        lambda: nn.Conv1d(8, 256, 5),
        lambda: nn.ConvTranspose2d(16, 16, 3),
    ],
)
def test_init_draws_from_pytorch_s_own_distribution(layer):
    state = torch.random.get_rng_state()
    theirs = layer()
    bound = theirs.weight.abs().max().item()
    torch.random.set_rng_state(state)
    ours = init(layer(), rng(0))
    torch.random.set_rng_state(state)
    a, b = ours.weight.detach(), theirs.weight.detach()
    assert math.isclose(a.abs().max(), bound, rel_tol=0.02) and math.isclose(
        a.std(), b.std(), rel_tol=0.05
    )


def test_networks_leave_the_global_generator_alone_and_repeat():
    before = torch.random.get_rng_state()
    for name, net in NETS.items():
        a, b, c = (
            torch.cat(
                [
                    p.flatten()
                    for p in net(1, 3, 8, **THIN.get(name, {}), generator=rng(s)).parameters()
                ]
            )
            for s in (0, 0, 1)
        )
        assert torch.equal(a, b) and not torch.equal(a, c)
        assert torch.isfinite(a).all()
    make = wrap(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.MultiheadAttention(2, 1)))
    assert torch.equal(make(rng(0))[1].weight, make(rng(0))[1].weight)
    assert torch.equal(before, torch.random.get_rng_state())


def test_lent_gives_back_after_an_error():
    before = torch.random.get_rng_state()
    with pytest.raises(ZeroDivisionError), lent(rng(0)):
        torch.rand(3)
        1 / 0
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_spec_rebuilds_its_network():
    for name, net in NETS.items():
        n = net(3, 5, 16, **THIN.get(name, {}), generator=rng(4))
        m = build(n.spec, rng(4))
        assert m.spec == n.spec and all(
            torch.equal(p, q) for p, q in zip(n.parameters(), m.parameters())
        )


def test_errors_are_sentences():
    for f, say in [
        (
            lambda: build({"name": "ConvNot", "channels": 1, "classes": 2, "size": 8}),
            "Did you mean 'ConvNet'",
        ),
        (lambda: ConvNet(1, 2, 3), "too small"),
        (
            lambda: build({"name": "MLP", "channels": 1, "classes": 2, "size": 8, "norm": "batch"}),
            "MLP cannot be built",
        ),
        (lambda: ConvNet(1, 2, 8, norm="x"), "There is no norm"),
    ]:
        with pytest.raises(DdnbError, match=say):
            f()


def test_timm_is_an_option(monkeypatch):
    class D:
        channels, num_classes, size = 3, 10, 32

    try:
        import timm  # noqa: F401
    except ImportError:
        with pytest.raises(DdnbError, match="pip install"):
            net_for(D, "timm:resnet18")()
    else:
        a, b = (net_for(D, "timm:resnet18")(rng(s)) for s in (0, 0))
        assert a(torch.zeros(2, 3, 32, 32)).shape == (2, 10) and a.features(
            torch.zeros(2, 3, 32, 32)
        ).shape == (2, 512)
        assert torch.equal(a.body.conv1.weight, b.body.conv1.weight)
        with pytest.raises(DdnbError, match="no network"):
            net_for(D, "timm:resnet1888")()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DdnbError, match=r"ddnb\[eval\]"):
        net_for(D, "timm:resnet18")()


def test_flat_vector_is_the_network():
    x = torch.randn(3, 1, 8, 8, generator=rng(0)).double()
    for name, net in NETS.items():
        n = net(1, 4, 8, **THIN.get(name, {})).double()
        flat = Flat(n)
        theta = flat.theta(n).requires_grad_()
        assert torch.equal(flat(theta, x), n(x)) and flat.numel == params(n) == sum(flat.sizes)
        (g,) = torch.autograd.grad(flat(theta, x).square().sum(), theta)
        v = torch.randn(flat.numel, generator=rng(1)).double()
        eps = 1e-8  # directional derivative by central differences
        num = (
            flat(theta + eps * v, x).square().sum() - flat(theta - eps * v, x).square().sum()
        ) / (2 * eps)
        assert math.isclose(g @ v, num.detach(), rel_tol=1e-3), name
        assert all(
            torch.equal(theta[flat.slices[k]].view(s), dict(n.named_parameters())[k])
            for k, s in zip(flat.names, flat.shapes)
        )


def test_flat_theta_is_a_copy_and_load_a_new_network():
    n = ConvNet(1, 2, 8, width=8)
    flat = Flat(n)
    t = flat.theta(n)
    m = flat.load(t * 2)
    assert torch.equal(flat.theta(n), t) and torch.equal(flat.theta(m), t * 2)
    with torch.no_grad():
        n.classifier.bias += 1
    assert not torch.equal(flat.theta(n), t)


@pytest.mark.parametrize("by", ["parameter", "channel", "tensor", "layer", "all"])
def test_groups_partition_the_vector(by):
    flat = Flat(ResNet18(1, 4, 8, width=8))
    index, names = flat.groups(by)
    assert len(index) == flat.numel and index.unique().tolist() == list(range(len(names)))
    if by == "tensor":
        assert names == flat.names and (torch.bincount(index) == torch.tensor(flat.sizes)).all()
    if by == "channel":
        t = flat.unflatten(index)
        assert (t["classifier.weight"] == t["classifier.bias"][:, None]).all()


def test_batch_norm_keeps_its_buffers():
    n = ConvNet(1, 2, 8, width=8, norm="batch")
    x = torch.randn(4, 1, 8, 8, generator=rng(0))
    before = {k: b.clone() for k, b in n.named_buffers()}
    for stats in (False, True):
        f = Flat(n, batch_stats=stats)
        assert torch.allclose(
            f(f.theta(n), x), n.eval()(x) if not stats else Flat(n, True)(f.theta(n), x), atol=1e-6
        )
    batch = Flat(n, True)
    torch.func.vmap(lambda t: batch(t, x))(
        torch.stack([batch.theta(n)] * 2)
    )  # no in-place statistics left
    assert all(torch.equal(b, dict(n.named_buffers())[k]) for k, b in before.items()) and set(
        dict(f.load(f.theta(n)).named_buffers())
    ) == set(before)


def test_maker_takes_what_a_person_gives():
    from ddnb.nets import maker

    D = SimpleNamespace(channels=1, num_classes=10, size=8)
    make = net_for(D, "MLP", width=16)
    assert (
        maker(D, make) is make
        and maker(D).spec == net_for(D).spec
        and maker(D, "MLP", width=16).spec == make.spec
    )
    assert maker(D, LeNet).spec == net_for(D, "LeNet").spec  # the class itself
    assert maker(make.spec).spec == make.spec and maker(make.spec, "MLP").spec == make.spec
    assert (
        maker(make.spec, "LeNet").spec == net_for(D, "LeNet").spec
    )  # another net for the same images
    for bad, words in (
        ("ConvNett", "Did you mean 'ConvNet'"),
        (make(), "fresh ones"),
        (3, "name of a network"),
        (lambda: make(), "nets.wrap"),
        (nn.Linear, "takes no generator"),
    ):
        with pytest.raises(DdnbError, match=words):
            maker(D, bad)
    with pytest.raises(DdnbError, match="ddnb.data.load"):
        net_for("digits")
    with pytest.raises(DdnbError, match="says no channels"):
        build({"name": "mine"})
