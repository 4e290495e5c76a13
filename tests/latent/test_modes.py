"Modes: the formula of the pull, what it is without a pull and after its end, and works of it."

import pytest
import torch
from latent_tools import SMALL, denoise, draw, prior

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.base.run import Run, complete
from ddnb.latent import Guided, Latents, Sampler, generated, train_prior
from ddnb.latent.generating import WAYS, Generating, best, taught
from ddnb.latent.modes import moved
from ddnb.nets import net_for


def naive(p, z, c, m, steps, guidance, pull, until):
    "MGD3 as it is written down: the noise is moved, then DDIM takes its step from it."
    p.scheduler.set_timesteps(steps)
    bars, stride = p.scheduler.alphas_cumprod.double(), 1000 // steps
    for i, t in enumerate(p.scheduler.timesteps):
        a = bars[t]
        b = bars[t - stride] if t >= stride else p.scheduler.final_alpha_cumprod.double()
        out = denoise(p, z, t, c)
        if guidance != 1 and c is not None and p.null is not None:
            free = denoise(p, z, t, p.null.expand_as(c))
            out = free + guidance * (out - free)
        velocity = p.scheduler.config.prediction_type == "v_prediction"
        e = a.sqrt() * out + (1 - a).sqrt() * z if velocity else out
        hat = (z - (1 - a).sqrt() * e) / a.sqrt()
        if i < until * steps:
            e = e - pull * (1 - a).sqrt() * (m - hat)
        z = b.sqrt() * (z - (1 - a).sqrt() * e) / a.sqrt() + (1 - b).sqrt() * e
    return z


@pytest.mark.parametrize("pred", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", SMALL)
def test_the_pull_is_the_formula(kind, pred):
    p = prior(kind, pred=pred)
    z, c, _ = draw(p)
    m = torch.randn(z.shape, generator=rng(9), dtype=torch.float64)
    for how in (dict(), dict(pull=0.3, until=0.25, guidance=1.0), dict(until=1.0)):
        s = Guided(p, 10, **how)
        expected = naive(p, z, c, m, 10, s.guidance, s.pull, s.until)
        assert torch.allclose(s.latents(z, c, m), expected, rtol=1e-8, atol=1e-8)


def test_the_moved_latent_is_the_same_noised_one():
    x, e, m = (torch.randn(5, 4, generator=rng(s), dtype=torch.float64) for s in range(3))
    for a in (0.001, 0.5, 0.99):
        x1, e1 = moved(x, e, m, a, 0.2)
        before = a**0.5 * x + (1 - a) ** 0.5 * e
        assert torch.allclose(a**0.5 * x1 + (1 - a) ** 0.5 * e1, before)
        assert ((m - x1).norm() < (m - x).norm()) == (a > 0.1)  # in much noise it overshoots


@pytest.mark.parametrize("kind", SMALL)
def test_without_a_pull_it_is_plain_sampling(kind):
    p = prior(kind)
    z, c, _ = draw(p)
    m = torch.ones_like(z)
    plain = Sampler(p, 6, None, guidance=4.0, chunk=2)
    with torch.no_grad():
        expected = torch.cat([plain.chain(*part)[-1] for part in _halves(z, c)])
    assert torch.equal(Guided(p, 6, pull=0.0, chunk=2).latents(z, c, m), expected)
    assert torch.equal(Guided(p, 6, until=0.0, chunk=2).latents(z, c, m), expected)
    assert torch.equal(Guided(p, 6, chunk=2).latents(z, c), expected)
    assert not torch.equal(Guided(p, 6, chunk=2).latents(z, c, m), expected)


def _halves(z, c):
    return [(z[i : i + 2], None if c is None else c[i : i + 2], None) for i in range(0, len(z), 2)]


@pytest.mark.parametrize("until", [0.2, 0.5, 0.8])
def test_after_the_last_pull_the_way_is_free(until):
    p = prior()
    z, c, _ = draw(p)
    held, free = Guided(p, 10, until=until), Guided(p, 10, pull=0.0)
    with torch.no_grad():
        chain = held.chain(z, c, torch.ones_like(z))
        last = round(10 * until)
        rest = chain[last]
        for i in range(last, 10):
            rest = free.step(i, rest, c)
        assert torch.equal(rest, chain[-1])
        assert not torch.equal(free.step(last - 1, chain[last - 1], c), chain[last])


# ---- the work


@pytest.fixture(scope="module")
def small(digits):
    steps = dict(steps=(30, 30), widths=(8, 8), unet=(8, 16))
    return train_prior(digits, generator=3, progress=False, **steps)


SAMPLING = dict(steps=4, chunk=6, generator=5)


def work(prior_, data, **more):
    return Generating(prior_, data, **SAMPLING | {"ipc": 2} | more)


def test_a_stopped_work_goes_on_to_the_bit(small, digits, tmp_path):
    whole = complete(work(small, digits), progress=False, log=None)
    for record in Run(tmp_path, work(small, digits), log=None):
        if record["step"] == 12:
            break
    again = work(small, digits)
    first = next(iter(Run(tmp_path, again, log=None)))
    assert first["step"] == 18
    complete(again, tmp_path, progress=False, log=None)
    assert torch.equal(again.z, whole.z) and torch.equal(again.y, whole.y)
    with pytest.raises(DdnbError, match="pull"):
        complete(work(small, digits, pull=0.2), tmp_path, progress=False, log=None)


def test_chunks_do_not_change_what_is_drawn(small, digits):
    a, b = (work(small, digits, chunk=n) for n in (6, 20))
    assert a.settings == b.settings and torch.equal(a.noise, b.noise)
    a, b = (complete(w, progress=False, log=None) for w in (a, b))
    assert torch.allclose(a.z, b.z, atol=1e-3)


@pytest.mark.parametrize("how", WAYS)
def test_every_way_gives_a_training_set(how, small, digits):
    x, y = generated(small, digits, 2, how, **SAMPLING)
    assert x.shape == (20, *digits.train.x.shape[1:]) and x.isfinite().all()
    assert y.tolist() == [c for c in range(10) for _ in range(2)]


def test_class_numbers_reach_the_prior(small, digits):
    one = complete(work(small, digits, how="samples"), progress=False, log=None)
    turned = work(small, digits, how="samples", class_ids=[*range(9, -1, -1)])
    complete(turned, progress=False, log=None)
    c = small.embed(torch.full((2,), 9))
    with torch.no_grad():
        other = Guided(small, 4, pull=0.0).latents(turned.noise[:2], c)
    assert torch.allclose(turned.z[:2], other, atol=1e-4)
    assert not torch.allclose(one.z[:2], other, atol=1e-2)


def test_what_is_kept_is_right_and_easy(digits):
    net = taught(digits, net_for(digits, "ConvNet", width=16, depth=2), 0)
    x, y = digits.xy("test")
    wrong = y.clone()
    wrong[::4] = (wrong[::4] + 1) % 10  # a quarter is not what it is said to be
    pictures = digits.norm.decode(x)
    loss = {}
    for order in ("easy", "hard"):
        rows = best(pictures, wrong, digits, 3, net, order=order)
        assert len(rows) == 30 and torch.bincount(wrong[rows]).tolist() == [3] * 10
        with torch.no_grad():
            out = net(x[rows])
        assert (out.argmax(1) == wrong[rows]).all()
        loss[order] = torch.nn.functional.cross_entropy(out, wrong[rows])
    assert loss["easy"] < loss["hard"]


def test_pruned_images_are_among_those_made(small, digits):
    net = taught(digits, net_for(digits, "ConvNet", width=16, depth=2), 0, epochs=4)
    pruned = complete(work(small, digits, how="pruned", classifier=net), progress=False, log=None)
    made = work(small, digits, ipc=6, how="samples")
    complete(made, progress=False, log=None)
    assert len(pruned.done) == 60 and torch.equal(pruned.done, made.z)
    assert torch.equal(pruned.z, made.z[pruned.rows])


@pytest.mark.parametrize("how", WAYS)
def test_latents_begin_at_what_was_generated(how, small, digits):
    made = complete(work(small, digits, how=how), progress=False, log=None)
    syn = Latents.of(small, digits, 2, made, generator=rng(0))
    assert torch.equal(syn.z.detach(), made.z) and torch.equal(syn.y, made.y)


def test_words(small, digits):
    with pytest.raises(DdnbError, match="complete"):
        work(small, digits).z
    with pytest.raises(DdnbError, match="samples, modes, pruned|'modes'"):
        work(small, digits, how="mode")
    with pytest.raises(DdnbError, match="until is 2"):
        Guided(small, until=2)
    with pytest.raises(DdnbError, match="no 400 modes"):
        complete(work(small, digits, ipc=400), progress=False, log=None)
