"The sampler against diffusers' own loop and a naive one written from the formulas."

import math

import pytest
import torch
from latent_tools import SMALL, denoise, draw, prior

from ddnb.latent.denoise import predict
from ddnb.latent.kinds import CIN256
from ddnb.latent.ld3m import Sampler
from ddnb.latent.prior import noise_schedule


@pytest.mark.parametrize("T", [1, 3, 10])
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("skip", [None, "code", "paper"])
def test_skip_weight_zero_is_the_ddim_of_diffusers(kind, T, skip):
    p = prior(kind)
    z, c, noise = draw(p)
    s = Sampler(p, T, skip, strength=0.0)
    p.scheduler.set_timesteps(T)
    with torch.no_grad():
        zt = p.scheduler.add_noise(z, noise, p.scheduler.timesteps[:1])
        for t in p.scheduler.timesteps:
            zt = p.scheduler.step(
                denoise(p, zt, t, torch.arange(3) if p.how == "label" else c), t, zt
            ).prev_sample
        mine = s.chain(z, c, noise)[-1]
    assert (mine - zt).abs().max() < 2e-6 * zt.abs().max()  # diffusers keeps its alphas in float32


@pytest.mark.parametrize(
    "pred,clip",
    [("epsilon", True), ("sample", False), ("v_prediction", False), ("v_prediction", True)],
)
def test_prediction_types_and_clipping_agree_with_diffusers(pred, clip):
    p = prior(pred=pred, clip_sample=clip)
    z, c, noise = draw(p)
    s = Sampler(p, 4, None)
    p.scheduler.set_timesteps(4)
    with torch.no_grad():
        zt = s.start(z, noise)
        for t in p.scheduler.timesteps:
            zt = p.scheduler.step(denoise(p, zt, t, c), t, zt).prev_sample
        assert torch.allclose(s.chain(z, c, noise)[-1], zt, rtol=1e-5, atol=1e-6 * zt.abs().max())


def test_guidance_is_two_evaluations_combined():
    p = prior()
    z, c, _ = draw(p)
    with torch.no_grad():
        t = torch.tensor(500)
        u, o = denoise(p, z, t, p.null.expand_as(c)), denoise(p, z, t, c)
        assert torch.allclose(predict(p, z, 500, c, 3.0), u + 3 * (o - u), atol=1e-12)
        assert torch.equal(predict(p, z, 500, c), o)


def naive(p, z, c, noise, T, skip):
    "Both published forms, written from the formulas with an explicit loop over t = T..1."
    p.scheduler.set_timesteps(T)
    ab = p.scheduler.alphas_cumprod.double()
    ts = p.scheduler.timesteps.tolist()
    prev = ts[1:] + [None]
    zT = ab[ts[0]].sqrt() * z + (1 - ab[ts[0]]).sqrt() * noise
    zt = zT
    q = p.autoencoder.quantize(z)[0] if p.vq else z
    for t, (a, b) in zip(range(T, 0, -1), zip(ts, prev)):
        e = denoise(p, zt, torch.tensor(a), c)
        g, h = ab[a], ab[b] if b is not None else torch.tensor(1.0).double()
        x0 = (zt - (1 - g).sqrt() * e) / g.sqrt()
        index = t - 1
        if skip == "code" and T > 1:
            x0 = (1 - index / (T - 1)) * x0 + index / (T - 1) * q
        zt = h.sqrt() * x0 + (1 - h).sqrt() * e
        if skip == "paper":
            zt = (1 - t / T) * zt + t / T * zT
    return zt


@pytest.mark.parametrize("kind", ["ldm", "vq"])
@pytest.mark.parametrize("skip", ["code", "paper"])
@pytest.mark.parametrize("T", [1, 2, 5])
def test_both_published_skips_equal_a_naive_loop(kind, skip, T):
    p = prior(kind)
    z, c, noise = draw(p)
    with torch.no_grad():
        a, b = Sampler(p, T, skip).chain(z, c, noise)[-1], naive(p, z, c, noise, T, skip)
    assert (a - b).abs().max() < 1e-6 * b.abs().max()


def test_skip_weights_are_the_published_ones():
    p = prior()
    assert [round(Sampler(p, 10, "code").weight(i), 3) for i in (0, 1, 8, 9)] == [
        1,
        0.889,
        0.111,
        0,
    ]
    assert [Sampler(p, 10, "paper").weight(i) for i in (0, 9)] == [1, 0.1]
    assert Sampler(p, 1, "code").weight(0) == 0


def test_cin256_steps_are_those_of_the_reference():
    p = prior()
    p.scheduler = noise_schedule(
        beta_start=0.0015,
        beta_end=0.0195,
        **CIN256,
    )
    s = Sampler(p, 10)
    assert s.ts == list(range(901, 0, -100))
    assert math.isclose(s.alphas[0][0] ** 0.5, 0.029, abs_tol=5e-4) and math.isclose(
        s.alphas[-1][1], float(p.scheduler.alphas_cumprod[0])
    )
