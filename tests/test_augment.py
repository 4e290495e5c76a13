"DSA, AutoAugment and RandAugment: properties beyond the oracles in nbs/03_augment.ipynb."

import copy
import math
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ddnb.augment import DIGITS, DSA, STRATEGY, AutoAug, RandAug, as_aug
from ddnb.data import Norm, load, rng
from ddnb.nets import MLP
from ddnb.store import DdnbError
from ddnb.train import train_many

OPS = list(DSA.OPS)


def images(n=3, c=3, s=8, dtype=torch.float64):
    return torch.rand(n, c, s, s, generator=rng(0), dtype=dtype)


def only(o, *u):
    return {o: torch.tensor([u])}


def test_colour_by_hand():
    x = torch.tensor([[[[0.2, 0.4]], [[0.4, 0.6]], [[0.6, 0.8]]]], dtype=torch.float64)
    f = DSA("color")
    assert torch.allclose(f(x, only("color", 0.75, 0.5, 0.5)), x + 0.25)  # brightness alone
    assert torch.allclose(
        f(x, only("color", 0.5, 0.0, 0.5)), x.mean(1, keepdim=True).expand_as(x)
    )  # no saturation: grey
    assert torch.allclose(
        f(x, only("color", 0.5, 0.5, 0.0)), (x - 0.5) * 0.5 + 0.5
    )  # half contrast about the mean .5
    assert torch.allclose(f(x, only("color", 0.5, 0.5, 0.5)), x)


def test_crop_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4) + 1
    f = DSA("crop", crop=0.25)  # one pixel at most
    out = f(x, only("crop", 0.99, 0.0))[0, 0]  # one to the right, one up
    assert out.tolist() == [[0, 0, 0, 0], [2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0]]
    assert torch.equal(f(x, only("crop", 0.5, 0.5)), x)


def test_cutout_by_hand():
    x = torch.ones(1, 1, 4, 4)
    f = DSA("cutout")
    assert f(x, only("cutout", 0.5, 0.5))[0, 0].tolist() == [
        [1, 1, 1, 1],
        [1, 0, 0, 1],
        [1, 0, 0, 1],
        [1, 1, 1, 1],
    ]
    assert f(x, only("cutout", 0.0, 0.0))[0, 0].tolist() == [
        [0, 1, 1, 1],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
    ]  # centre in the corner
    assert torch.equal(DSA("cutout", cutout=0)(x, only("cutout", 0.5, 0.5)), x)


def test_flip_scale_rotate_by_hand():
    x = images(1)
    assert torch.equal(DSA("flip")(x, only("flip", 0.4)), x.flip(-1)) and torch.equal(
        DSA("flip")(x, only("flip", 0.6)), x
    )
    one = (1 - 1 / 1.2) / (1.2 - 1 / 1.2)  # u that gives scale 1
    assert torch.allclose(DSA("scale")(x, only("scale", one, one)), x, atol=1e-6)
    assert torch.allclose(DSA("rotate")(x, only("rotate", 0.5)), x)
    quarter = DSA("rotate", rotate=90)(x, only("rotate", 1.0))
    assert torch.allclose(quarter, x.rot90(1, (2, 3)), atol=1e-6) or torch.allclose(
        quarter, x.rot90(-1, (2, 3)), atol=1e-6
    )
    far = DSA("scale", scale=2.0)(torch.ones(1, 1, 8, 8), only("scale", 1.0, 1.0))[
        0, 0
    ]  # zooms out by two
    assert far[:2].sum() == 0 and far[3:5, 3:5].min() == 1


@pytest.mark.parametrize("mode", ["single", "all"])
@pytest.mark.parametrize("sequential", [False, True])
def test_siamese_is_the_same_for_both_batches(mode, sequential):
    f, real, syn = DSA(mode=mode, sequential=sequential), images(5), images(2)
    for k in range(8):
        d = f.draw(1, rng(k))
        both = f(torch.cat([real, syn]), d)
        assert torch.allclose(both[:5], f(real, d), atol=1e-12) and torch.allclose(
            both[5:], f(syn, d), atol=1e-12
        )


def test_draws_per_image_differ_and_repeat():
    x = images(1).expand(6, -1, -1, -1)
    for o in OPS:
        f = DSA(o)
        out = f(x, f.draw(6, rng(5)))
        assert len(out.flatten(1).unique(dim=0)) >= (2 if o == "flip" else 4), (
            o
        )  # shifts of 8 pixels may coincide
        assert torch.equal(out, f(x, f.draw(6, rng(5))))
        assert not torch.equal(out, f(x, f.draw(6, rng(6))))


def test_a_draw_replays_at_any_size_and_leaves_the_global_generator_alone():
    f = DSA(mode="all")
    before = torch.get_rng_state()
    d = f.draw(1, rng(0))
    for s in (8, 9, 32, 33):
        assert f(images(2, 1, s), d).shape == (2, 1, s, s)
    assert torch.equal(before, torch.get_rng_state())
    assert f(torch.rand(2, 3, 8, 12, generator=rng(0)), d).shape == (2, 3, 8, 12)


def test_input_is_not_changed_and_dtype_is_kept():
    f = DSA(mode="all")
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = images(3, dtype=torch.float64).to(dtype)
        y = x.clone()
        assert f(x, f.draw(3, rng(0))).dtype == dtype and torch.equal(x, y)
    assert f(y, None) is y


def test_grey_images_have_no_saturation():
    x = images(2, 1)
    d = {"color": torch.tensor([[0.5, 0.9, 0.5]])}
    assert torch.allclose(DSA("color")(x, d), x)


@pytest.mark.parametrize("ops", [*OPS, STRATEGY, DIGITS])
@pytest.mark.parametrize("sequential", [False, True])
def test_second_derivatives_exist_forward_over_reverse_and_reverse_over_reverse(ops, sequential):
    f = DSA(ops, mode="all", sequential=sequential)
    x, d = images(2, 2, 6), f.draw(2, rng(3))
    w, v = (torch.randn(*x.shape, generator=rng(k), dtype=x.dtype) for k in (1, 2))
    loss = lambda x: (f(x, d) * w).tanh().square().sum()
    grad = torch.func.grad(loss)
    hv = torch.func.jvp(grad, (x,), (v,))[1]
    eps = 1e-6
    assert torch.allclose(hv, (grad(x + eps * v) - grad(x - eps * v)) / (2 * eps), atol=1e-6)
    z = x.clone().requires_grad_()
    g = torch.autograd.grad(loss(z), z, create_graph=True)[0]
    assert torch.allclose(torch.autograd.grad((g * v).sum(), z)[0], hv, atol=1e-10)


def test_as_the_engine_uses_it():
    "Gradient pair by weights and images, and its directional derivative along the weights."
    f = DSA(mode="all")
    x, d = images(4, 1, 6), f.draw(4, rng(0))
    W, V = (torch.randn(3, 36, generator=rng(k), dtype=torch.float64) for k in (1, 2))
    pair = torch.func.grad(
        lambda W, x: torch.nn.functional.cross_entropy(
            f(x, d).flatten(1) @ W.T, torch.tensor([0, 1, 2, 0])
        ),
        argnums=(0, 1),
    )
    _, (hw, hx) = torch.func.jvp(lambda W: pair(W, x), (W,), (V,))
    eps = 1e-6
    nw, nx = (
        (a - b) / (2 * eps) for a, b in zip(pair(W + eps * V, x), pair(W - eps * V, x), strict=True)
    )
    assert torch.allclose(hw, nw, atol=1e-7) and torch.allclose(hx, nx, atol=1e-7)


def test_single_draws_each_strategy_and_all_draws_every_one():
    g, f = rng(0), DSA(DIGITS)
    seen = {next(iter(f.draw(1, g))) for _ in range(100)}
    assert seen == set(DIGITS.split("_")) and "flip" not in seen
    assert list(DSA(mode="all").draw(2, g)) == OPS


def test_order_is_the_published_one_whatever_the_spelling():
    a, b = DSA("rotate_color_crop", mode="all"), DSA("color_crop_rotate", mode="all")
    assert torch.equal(a(images(), a.draw(3, rng(0))), b(images(), b.draw(3, rng(0))))


def test_numbers_keep_their_ranges():
    "Corners of the unit cube: nothing out of range, no NaN, zoom between 1/1.2 and 1.2."
    top = math.nextafter(1.0, 0.0)
    for o, k in DSA.OPS.items():
        for v in (0.0, 0.5, top):
            out = DSA(o)(images(), {o: torch.full((3, k), v)})
            assert torch.isfinite(out).all() and (
                o == "color" or (out >= 0).all() and (out <= 1 + 1e-9).all()
            )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DSA("colour"), "Did you mean 'color'"),
        (lambda: DSA(""), "unknown augmentation"),
        (lambda: DSA(mode="both"), "'single', 'all'"),
        (lambda: DSA(scale=0.5), "scale at least 1"),
        (lambda: DSA(crop=2), "at most 1"),
        (lambda: DSA()(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), {}), "expected float images"),
        (lambda: DSA()(torch.zeros(3, 8, 8), {}), "expected float images"),
        (
            lambda: DSA("flip")(torch.zeros(3, 1, 8, 8), {"flip": torch.zeros(2, 1)}),
            "the draw of flip is for 2 images and the batch has 3",
        ),
    ],
)
def test_mistakes_get_a_sentence(make, says):
    with pytest.raises(DdnbError, match=says):
        make()


def test_strategies_stand_for_augmentations_and_draws_need_a_generator():
    a = DSA("flip")
    assert (
        as_aug(None) is None
        and as_aug(a) is a
        and as_aug("flip").spec == a.spec
        and as_aug(DSA).spec == DSA().spec
    )
    for bad, words in (
        (True, "expected a DSA"),
        ("flop", "Did you mean 'flip'"),
        (lambda x, d: x, "expected a DSA"),
        ("", "unknown augmentation"),
    ):
        with pytest.raises(DdnbError, match=words):
            as_aug(bad)
    with pytest.raises(DdnbError, match="without a generator"):
        a.draw(3)
    with pytest.raises(DdnbError, match="strategy is 3"):
        DSA(3)
    assert torch.equal(a.draw(3, 1)["flip"], a.draw(3, rng(1))["flip"])


# AutoAugment and RandAugment of torchvision
COLOURS, GREY = Norm([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]), Norm([0.4], [0.3])
KINDS = {
    "autoaug": AutoAug,
    "imagenet": lambda **kw: AutoAug("imagenet", **kw),
    "svhn": lambda **kw: AutoAug("svhn", **kw),
    "randaug": RandAug,
    "randaug of 3": lambda **kw: RandAug(3, **kw),
}


def bytes_(n=5, c=3, s=16, seed=0):
    return torch.randint(0, 256, (n, c, s, s), dtype=torch.uint8, generator=rng(seed))


def back(norm, x):
    return (norm.decode(x) * 255).round().byte()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", [COLOURS, GREY], ids=["3 channels", "1 channel"])
def test_vision_is_torchvisions_own_call(kind, norm):
    aug, b = KINDS[kind](norm=norm), bytes_(c=len(norm.mean))
    own, seen = copy.deepcopy(aug.transform), 0
    for k in range(30):
        d = aug.draw(len(b), rng(k))
        got = aug(norm.encode(b), d)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(d["seed"]))
            want = own(b)
        assert (
            torch.equal(back(norm, got), want)
            and got.dtype == torch.float32
            and got.shape == b.shape
        )
        seen += not torch.equal(want, b)
    assert seen > 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per", ["batch", "image"])
def test_vision_follows_its_generator_alone(kind, per):
    aug, x = KINDS[kind](norm=COLOURS, per=per), COLOURS.encode(bytes_())
    before, python = torch.get_rng_state(), random.getstate()
    outs = [aug(x, aug.draw(len(x), rng(k))) for k in range(12)]
    again = [KINDS[kind](norm=COLOURS, per=per)(x, aug.draw(len(x), rng(k))) for k in range(12)]
    assert torch.equal(before, torch.get_rng_state()) and python == random.getstate()
    torch.rand(3)  # whatever the global generator does meanwhile
    assert all(torch.equal(a, b) for a, b in zip(outs, again)) and torch.equal(
        outs[0], aug(x, aug.draw(len(x), rng(0)))
    )
    assert sum(not torch.equal(outs[0], o) for o in outs[1:]) >= 8  # another seed, another result


def test_vision_per_image_is_one_by_one_and_per_batch_is_alike():
    x, each, alike = (
        COLOURS.encode(bytes_(1).expand(6, -1, -1, -1)),
        RandAug(norm=COLOURS, per="image"),
        RandAug(norm=COLOURS),
    )
    d = each.draw(6, rng(0))
    assert torch.equal(
        each(x, d),
        torch.cat([each(x[i : i + 1], {"seed": d["seed"][i : i + 1]}) for i in range(6)]),
    )
    assert len({o.numpy().tobytes() for o in each(x, d)}) > 2
    one = alike.draw(6, rng(0))
    assert len(one["seed"]) == 1 and len({o.numpy().tobytes() for o in alike(x, one)}) == 1
    assert torch.equal(alike(x, one)[:2], alike(x[:2], one))  # fits every batch


def test_vision_where_nothing_happens_gives_the_pixels_back():
    x = COLOURS.encode(bytes_())
    aug = RandAug(norm=COLOURS)
    aug.transform._AUGMENTATION_SPACE = {"Identity": (lambda *a: None, False)}
    assert torch.allclose(aug(x, aug.draw(5, rng(0))), x, atol=1e-5)
    assert (
        torch.allclose(aug(x.double(), aug.draw(5, rng(0))), x.double(), atol=1e-5)
        and aug(x.double(), aug.draw(5, rng(0))).dtype == torch.float64
    )
    wide = x * 9  # beyond black and white: cut
    assert (
        torch.equal(back(COLOURS, aug(wide, aug.draw(5, rng(0)))), back(COLOURS, wide))
        and aug(x, None) is x
    )


def test_vision_with_zca_goes_there_and_back():
    b = bytes_(40, 3, 8)
    norm = load((b, torch.arange(40) % 2), valid=0, test=0, zca=True).norm
    assert norm.zca is not None
    aug = RandAug(norm=norm)
    d = next(
        d
        for d in (aug.draw(40, rng(k)) for k in range(99))
        if not torch.equal(aug._seeded(b, int(d["seed"])), b)
    )
    assert torch.equal(back(norm, aug(norm.encode(b), d)), aug._seeded(b, int(d["seed"])))


def test_vision_in_threads():
    aug, x = RandAug(3, norm=COLOURS), COLOURS.encode(bytes_())
    want = [aug(x, aug.draw(5, rng(k))) for k in range(40)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda k: aug(x, aug.draw(5, rng(k))), range(40)))
    assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_vision_trains_the_same_however_it_is_run():
    x, y = COLOURS.encode(bytes_(20)), torch.arange(20) % 4

    def fit(workers):
        nets = [MLP(3, 4, 16, width=8, generator=rng(k)) for k in range(3)]
        train_many(
            nets,
            x,
            y,
            steps=6,
            batch=8,
            aug=AutoAug(norm=COLOURS),
            generators=[rng(k) for k in range(3)],
            together=False,
            workers=workers,
        )
        return torch.cat([p.detach().flatten() for n in nets for p in n.parameters()])

    assert torch.equal(fit(1), fit(3))


def test_vision_by_name():
    assert (
        as_aug("randaug").spec == dict(name="randaug", ops=1, magnitude=9, per="batch")
        and as_aug(AutoAug, COLOURS).norm is COLOURS
    )
    mine = RandAug(2, norm=GREY, per="image")
    assert as_aug(mine, COLOURS) is mine and as_aug("autoaug", COLOURS).spec["policy"] == "cifar10"
    free = RandAug()
    assert (
        as_aug(free, COLOURS).norm is COLOURS and free.norm is None
    )  # the caller's own stays as it was
    assert repr(mine) == "RandAug(ops=2, magnitude=9, per='image')"


@pytest.mark.parametrize(
    "what, says",
    [
        (lambda: as_aug("autoug"), "Did you mean 'autoaug'?"),
        (lambda: as_aug("rand_aug"), "expected autoaug, randaug, or some of"),
        (lambda: as_aug("colr"), "Did you mean 'color'?"),
        (lambda: AutoAug("cifar"), "Did you mean 'cifar10'?"),
        (lambda: AutoAug(per="all"), "'batch', 'image'"),
        (lambda: AutoAug([1]), "policy is [1]"),
        (lambda: RandAug(0), "ops is 0"),
        (lambda: RandAug(True), "ops is True"),
        (lambda: RandAug(magnitude=31), "expected 0 to 30"),
        (lambda: RandAug(magnitude=-1), "magnitude is -1"),
        (lambda: RandAug().draw(3), "hand it to every draw"),
        (lambda: RandAug().draw(0, rng(0)), "n is 0"),
        (lambda: RandAug()(images(2), RandAug().draw(2, rng(0))), "give norm=data.norm"),
        (
            lambda: RandAug(norm=COLOURS)(images(2, dtype=torch.float32), DSA().draw(1, rng(0))),
            "give what its own .draw",
        ),
        (
            lambda: RandAug(norm=Norm([0.5] * 4, [0.2] * 4))(
                images(2, 4), RandAug().draw(2, rng(0))
            ),
            "1 or 3 channels, these have 4",
        ),
        (
            lambda: RandAug(norm=COLOURS, per="image")(
                images(2), RandAug(per="image").draw(3, rng(0))
            ),
            "the draw of seed is for 3 images",
        ),
        (lambda: RandAug(norm=COLOURS)(bytes_(), RandAug().draw(2, rng(0))), "encode them first"),
        (
            lambda: RandAug(norm=COLOURS)(images(2).requires_grad_(), RandAug().draw(2, rng(0))),
            "distil with a DSA",
        ),
    ],
)
def test_vision_says_what_is_wrong(what, says):
    with pytest.raises(DdnbError) as e:
        what()
    assert says in str(e.value) and "\n" not in str(e.value)
