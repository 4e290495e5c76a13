"Small untrained priors in float64, and diffusers asked the way its own pipelines ask."

import torch

from ddnb.base.rng import rng
from ddnb.latent.kinds import KINDS, random_prior

SMALL = [k for k in KINDS if k != "cin256"]


def prior(kind="ldm", channels=1, size=8, dtype=torch.float64, pred=None, **cfg):
    p = random_prior(kind, channels=channels, size=size, width=16, generator=rng(0)).to(dtype)
    if pred or cfg:
        p.scheduler = type(p.scheduler).from_config(
            p.scheduler.config, **({"prediction_type": pred} if pred else {}), **cfg
        )
    return p


def draw(p, n=3, size=4, seed=1):
    g = rng(seed)
    dt = next(p.denoiser.parameters()).dtype
    z, noise = (
        torch.randn(n, p.depth, size, size, generator=g, dtype=torch.float64).to(dt)
        for _ in range(2)
    )
    return z, p.embed(torch.arange(n)), noise


def denoise(p, z, t, c):
    "The denoiser called the way diffusers' pipelines call it."
    if p.how is None:
        return p.denoiser(z, t).sample
    if p.how == "cross":
        return p.denoiser(z, t, encoder_hidden_states=c).sample
    return p.denoiser(z, timestep=t.expand(len(z)), class_labels=c).sample[:, : p.depth]
