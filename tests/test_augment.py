"DSA: properties beyond the oracles in nbs/03_augment.ipynb."
import math

import pytest
import torch

from ddnb.augment import DIGITS, DSA, STRATEGY, as_aug
from ddnb.data import rng
from ddnb.store import DdnbError

OPS = list(DSA.OPS)


def images(n=3, c=3, s=8, dtype=torch.float64): return torch.rand(n, c, s, s, generator=rng(0), dtype=dtype)
def only(o, *u): return {o: torch.tensor([u])}


def test_colour_by_hand():
    x = torch.tensor([[[[.2, .4]], [[.4, .6]], [[.6, .8]]]], dtype=torch.float64)
    f = DSA('color')
    assert torch.allclose(f(x, only('color', .75, .5, .5)), x + .25)                                   # brightness alone
    assert torch.allclose(f(x, only('color', .5, 0., .5)), x.mean(1, keepdim=True).expand_as(x))       # no saturation: grey
    assert torch.allclose(f(x, only('color', .5, .5, 0.)), (x - .5)*.5 + .5)                           # half contrast about the mean .5
    assert torch.allclose(f(x, only('color', .5, .5, .5)), x)


def test_crop_by_hand():
    x = torch.arange(16.).reshape(1, 1, 4, 4) + 1
    f = DSA('crop', crop=.25)                                                                          # one pixel at most
    out = f(x, only('crop', .99, .0))[0, 0]                                                            # one to the right, one up
    assert out.tolist() == [[0, 0, 0, 0], [2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0]]
    assert torch.equal(f(x, only('crop', .5, .5)), x)


def test_cutout_by_hand():
    x = torch.ones(1, 1, 4, 4)
    f = DSA('cutout')
    assert f(x, only('cutout', .5, .5))[0, 0].tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert f(x, only('cutout', 0., 0.))[0, 0].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]   # centre in the corner
    assert torch.equal(DSA('cutout', cutout=0)(x, only('cutout', .5, .5)), x)


def test_flip_scale_rotate_by_hand():
    x = images(1)
    assert torch.equal(DSA('flip')(x, only('flip', .4)), x.flip(-1)) and torch.equal(DSA('flip')(x, only('flip', .6)), x)
    one = (1 - 1/1.2)/(1.2 - 1/1.2)                                                                    # u that gives scale 1
    assert torch.allclose(DSA('scale')(x, only('scale', one, one)), x, atol=1e-6)
    assert torch.allclose(DSA('rotate')(x, only('rotate', .5)), x)
    quarter = DSA('rotate', rotate=90)(x, only('rotate', 1.))
    assert torch.allclose(quarter, x.rot90(1, (2, 3)), atol=1e-6) or torch.allclose(quarter, x.rot90(-1, (2, 3)), atol=1e-6)
    far = DSA('scale', scale=2.)(torch.ones(1, 1, 8, 8), only('scale', 1., 1.))[0, 0]                  # zooms out by two
    assert far[:2].sum() == 0 and far[3:5, 3:5].min() == 1


@pytest.mark.parametrize('mode', ['single', 'all'])
@pytest.mark.parametrize('sequential', [False, True])
def test_siamese_is_the_same_for_both_batches(mode, sequential):
    f, real, syn = DSA(mode=mode, sequential=sequential), images(5), images(2)
    for k in range(8):
        d = f.draw(1, rng(k))
        both = f(torch.cat([real, syn]), d)
        assert torch.allclose(both[:5], f(real, d), atol=1e-12) and torch.allclose(both[5:], f(syn, d), atol=1e-12)


def test_draws_per_image_differ_and_repeat():
    x = images(1).expand(6, -1, -1, -1)
    for o in OPS:
        f = DSA(o)
        out = f(x, f.draw(6, rng(5)))
        assert len(out.flatten(1).unique(dim=0)) >= (2 if o == 'flip' else 4), o                      # shifts of 8 pixels may coincide
        assert torch.equal(out, f(x, f.draw(6, rng(5))))
        assert not torch.equal(out, f(x, f.draw(6, rng(6))))


def test_a_draw_replays_at_any_size_and_leaves_the_global_generator_alone():
    f = DSA(mode='all')
    before = torch.get_rng_state()
    d = f.draw(1, rng(0))
    for s in (8, 9, 32, 33): assert f(images(2, 1, s), d).shape == (2, 1, s, s)
    assert torch.equal(before, torch.get_rng_state())
    assert f(torch.rand(2, 3, 8, 12, generator=rng(0)), d).shape == (2, 3, 8, 12)


def test_input_is_not_changed_and_dtype_is_kept():
    f = DSA(mode='all')
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = images(3, dtype=torch.float64).to(dtype)
        y = x.clone()
        assert f(x, f.draw(3, rng(0))).dtype == dtype and torch.equal(x, y)
    assert f(y, None) is y


def test_grey_images_have_no_saturation():
    x = images(2, 1)
    d = {'color': torch.tensor([[.5, .9, .5]])}
    assert torch.allclose(DSA('color')(x, d), x)


@pytest.mark.parametrize('ops', [*OPS, STRATEGY, DIGITS])
@pytest.mark.parametrize('sequential', [False, True])
def test_second_derivatives_exist_forward_over_reverse_and_reverse_over_reverse(ops, sequential):
    f = DSA(ops, mode='all', sequential=sequential)
    x, d = images(2, 2, 6), f.draw(2, rng(3))
    w, v = (torch.randn(*x.shape, generator=rng(k), dtype=x.dtype) for k in (1, 2))
    loss = lambda x: (f(x, d)*w).tanh().square().sum()
    grad = torch.func.grad(loss)
    hv = torch.func.jvp(grad, (x,), (v,))[1]
    eps = 1e-6
    assert torch.allclose(hv, (grad(x + eps*v) - grad(x - eps*v))/(2*eps), atol=1e-6)
    z = x.clone().requires_grad_()
    g = torch.autograd.grad(loss(z), z, create_graph=True)[0]
    assert torch.allclose(torch.autograd.grad((g*v).sum(), z)[0], hv, atol=1e-10)


def test_as_the_engine_uses_it():
    "Gradient pair by weights and images, and its directional derivative along the weights."
    f = DSA(mode='all')
    x, d = images(4, 1, 6), f.draw(4, rng(0))
    W, V = (torch.randn(3, 36, generator=rng(k), dtype=torch.float64) for k in (1, 2))
    pair = torch.func.grad(lambda W, x: torch.nn.functional.cross_entropy(f(x, d).flatten(1) @ W.T, torch.tensor([0, 1, 2, 0])), argnums=(0, 1))
    _, (hw, hx) = torch.func.jvp(lambda W: pair(W, x), (W,), (V,))
    eps = 1e-6
    nw, nx = ((a - b)/(2*eps) for a, b in zip(pair(W + eps*V, x), pair(W - eps*V, x), strict=True))
    assert torch.allclose(hw, nw, atol=1e-7) and torch.allclose(hx, nx, atol=1e-7)


def test_single_draws_each_strategy_and_all_draws_every_one():
    g, f = rng(0), DSA(DIGITS)
    seen = {next(iter(f.draw(1, g))) for _ in range(100)}
    assert seen == set(DIGITS.split('_')) and 'flip' not in seen
    assert list(DSA(mode='all').draw(2, g)) == OPS


def test_order_is_the_published_one_whatever_the_spelling():
    a, b = DSA('rotate_color_crop', mode='all'), DSA('color_crop_rotate', mode='all')
    assert torch.equal(a(images(), a.draw(3, rng(0))), b(images(), b.draw(3, rng(0))))


def test_numbers_keep_their_ranges():
    "Corners of the unit cube: nothing out of range, no NaN, zoom between 1/1.2 and 1.2."
    top = math.nextafter(1., 0.)
    for o, k in DSA.OPS.items():
        for v in (0., .5, top):
            out = DSA(o)(images(), {o: torch.full((3, k), v)})
            assert torch.isfinite(out).all() and (o == 'color' or (out >= 0).all() and (out <= 1 + 1e-9).all())


@pytest.mark.parametrize(('make', 'says'), [
    (lambda: DSA('colour'), "Did you mean 'color'"),
    (lambda: DSA(''), 'unknown augmentation'),
    (lambda: DSA(mode='both'), "expected 'single' or 'all'"),
    (lambda: DSA(scale=.5), 'scale at least 1'),
    (lambda: DSA(crop=2), 'at most 1'),
    (lambda: DSA()(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), {}), 'expected float images'),
    (lambda: DSA()(torch.zeros(3, 8, 8), {}), 'expected float images'),
    (lambda: DSA('flip')(torch.zeros(3, 1, 8, 8), {'flip': torch.zeros(2, 1)}), 'the draw of flip is for 2 images and the batch has 3'),
])
def test_mistakes_get_a_sentence(make, says):
    with pytest.raises(DdnbError, match=says): make()


def test_strategies_stand_for_augmentations_and_draws_need_a_generator():
    a = DSA('flip')
    assert as_aug(None) is None and as_aug(a) is a and as_aug('flip').spec == a.spec and as_aug(DSA).spec == DSA().spec
    for bad, words in ((True, 'expected a DSA'), ('flop', "Did you mean 'flip'"), (lambda x, d: x, 'expected a DSA'), ('', 'unknown augmentation')):
        with pytest.raises(DdnbError, match=words): as_aug(bad)
    with pytest.raises(DdnbError, match='without a generator'): a.draw(3)
    with pytest.raises(DdnbError, match='strategy is 3'): DSA(3)
    assert torch.equal(a.draw(3, 1)['flip'], a.draw(3, rng(1))['flip'])
