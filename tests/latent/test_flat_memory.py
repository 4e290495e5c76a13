"Flat memory: the gradient of plain autograd and of differences, and a peak that does not grow."

import math

import pytest
import torch
from latent_tools import SMALL, draw, prior
from torch.utils.checkpoint import checkpoint as library

from ddnb.base.rng import rng
from ddnb.latent import ld3m
from ddnb.latent.ld3m import Sampler, generate
from ddnb.latent.memory import LiveBytes
from ddnb.latent.prior import Prior


def grads(p, chunk, checkpoint, skip, guidance, T=3, n=5):
    g = rng(2)
    z, c, noise = draw(p, n)
    z.requires_grad_()
    leaves = [z]
    if c is not None:
        c.requires_grad_()
        leaves.append(c)
    x = generate(
        Sampler(p, T, skip, guidance=guidance), z, c, noise, chunk=chunk, checkpoint=checkpoint
    )
    return [
        x.detach(),
        *torch.autograd.grad(
            (x * torch.randn(x.shape, generator=g, dtype=torch.float64)).sum(), leaves
        ),
    ]


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("skip,guidance", [(None, 1.0), ("code", 3.0), ("paper", 1.0)])
def test_checkpointed_and_chunked_equal_plain(kind, skip, guidance):
    p = prior(kind)
    ref = grads(p, 16, False, skip, guidance)
    for chunk, ck in ((16, True), (2, True), (2, False)):
        for a, b in zip(grads(p, chunk, ck, skip, guidance), ref):
            assert (a - b).abs().max() <= 1e-9 * b.abs().max().clamp_min(1e-12)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("skip,guidance", [(None, 1.0), ("code", 3.0), ("paper", 1.0)])
def test_a_budget_changes_passes_and_no_bit(kind, skip, guidance):
    p, T = prior(kind, dtype=torch.float32), 4
    z, c, noise = draw(p, 5)
    calls = [0]
    p.denoiser.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    found, passes = [], []
    for how in (dict(checkpoint=True), *(dict(memory=m) for m in (0, 4e5, 1e12))):
        s = Sampler(p, T, skip, guidance=guidance, **how)
        s.cost(z, c)  # is measured once, on one image
        leaves = [t.clone().requires_grad_() for t in (z, c) if t is not None]
        calls[0] = 0
        s.images(leaves[0], leaves[1] if c is not None else None, noise).square().sum().backward()
        found.append([t.grad for t in leaves])
        passes.append(calls[0])
    assert all(torch.equal(a, b) for grads_ in found for a, b in zip(grads_, found[0]))
    assert passes[0] == passes[1] == 2 * T and passes[3] == T
    assert T <= passes[2] <= 2 * T


def test_a_budget_bounds_the_peak():
    p = prior(dtype=torch.float32)
    peaks = {}
    for memory in (0, 1e6, 4e6, 1e12):
        z, c, noise = draw(p, 10)
        s = Sampler(p, 20, memory=memory)
        s.cost(z, c)
        with LiveBytes() as meter:
            s.images(z.requires_grad_(), c.requires_grad_(), noise).sum().backward()
        peaks[memory] = meter.peak
    assert peaks[1e6] <= peaks[0] + 1.5e6 and peaks[4e6] <= peaks[0] + 5e6
    assert peaks[0] <= peaks[1e6] < peaks[4e6] < peaks[1e12]


def test_more_images_at_a_time_where_they_fit():
    p = prior(dtype=torch.float32)
    z, c = torch.randn(40, p.depth, 4, 4, generator=rng(1)), p.embed(torch.arange(40) % 10)
    assert Sampler(p, 4).rows(z[:16], c) == 16
    assert Sampler(p, 4, chunk=3).rows(z, c) == 3
    assert Sampler(p, 4, memory=0).rows(z, c) == 16
    assert Sampler(p, 4).rows(z, c) > 40


def test_gradient_against_finite_differences():
    p = prior()
    z, c, noise = draw(p, 2)
    s = Sampler(p, 3, "code")
    f = lambda z, c: generate(s, z, c, noise).square().sum()
    zz, cc = z.clone().requires_grad_(), c.clone().requires_grad_()
    gz, gc = torch.autograd.grad(f(zz, cc), (zz, cc))
    dz, dc = (
        torch.randn(z.shape, generator=rng(3)).double(),
        torch.randn(c.shape, generator=rng(4)).double(),
    )
    h = 1e-5
    with torch.no_grad():
        num = (f(z + h * dz, c + h * dc) - f(z - h * dz, c - h * dc)) / (2 * h)
    assert math.isclose(num.item(), ((gz * dz).sum() + (gc * dc).sum()).item(), rel_tol=1e-5)


@pytest.mark.parametrize("checkpoint,forwards", [(True, 2), (False, 1)])
def test_denoiser_passes(checkpoint, forwards):
    "Forward calls per sampling step; the backward is one more pass: 3 with flat memory, 2 without."
    p = prior()
    z, c, noise = draw(p, 6)
    z.requires_grad_()
    n = []
    h = p.denoiser.register_forward_hook(lambda *a: n.append(1))
    generate(Sampler(p, 4), z, c, noise, chunk=3, checkpoint=checkpoint).sum().backward()
    h.remove()
    assert len(n) == forwards * 4 * 2  # steps x chunks


def peak(p, T, n, checkpoint=True):
    z, c, noise = draw(p, n)
    z.requires_grad_()
    with LiveBytes() as m:
        generate(
            Sampler(p, T), z, c.requires_grad_(), noise, chunk=10, checkpoint=checkpoint
        ).square().mean().backward()
    return m.peak


def test_memory_is_flat_in_steps_and_images():
    p = Prior.random("ldm", channels=1, size=8, width=16, generator=rng(0))
    p = Prior(
        p.autoencoder, p.denoiser, p.scheduler, torch.randn(64, 1, 16, generator=rng(0)), p.null
    )
    base = peak(p, 5, 10)
    assert peak(p, 20, 10) <= 1.2 * base and peak(p, 5, 50) <= 1.2 * base
    assert peak(p, 10, 10, False) > 2 * base  # the meter sees what is kept


@pytest.mark.parametrize("kind", SMALL)
def test_torchs_own_checkpoint_gives_the_same_bits_and_peak(kind, monkeypatch):
    def run():
        p = prior(kind)
        z, c, noise = draw(p, 6)
        leaves = [t.requires_grad_() for t in (z, c) if t is not None]
        with LiveBytes() as meter:
            generate(Sampler(p, 4), z, c, noise, chunk=3).square().sum().backward()
        return [t.grad for t in leaves], meter.peak

    def theirs(f, *inputs):
        return library(f, *inputs, use_reentrant=False, preserve_rng_state=False)

    ours, ours_peak = run()
    monkeypatch.setattr(ld3m, "recomputed", theirs)
    theirs, theirs_peak = run()
    assert all(
        torch.allclose(a, b, rtol=1e-13, atol=1e-13 * b.abs().max()) for a, b in zip(ours, theirs)
    )
    assert ours_peak < 1.05 * theirs_peak
