"Scores, a prior and judged sets, killed at random moments and called again: the same results."

import random

import torch
from kill import killed, needs_fork

from ddnb.data import load, rng
from ddnb.evaluate import baselines, evaluate
from ddnb.latent import train_prior
from ddnb.nets import net_for
from ddnb.prune import scores


def score(folder, data, make):
    s = scores(data, make, nets=4, epochs=6, generator=rng(0), folder=folder, progress=False)
    return s.values.tolist()


def train(folder, data, make):
    "The sum of the weights; nothing where the prior is there already."
    if folder.exists():
        return None
    sizes = dict(steps=(12, 12), widths=(8, 8), unet=(8, 16), batch=(16, 16))
    p = train_prior(data, generator=rng(1), path=folder, every=2, progress=False, **sizes)
    return float(sum(w.double().sum() for w in p.denoiser.parameters()))


def judge(folder, data, make):
    r = evaluate(baselines(data, 1), data, make, seeds=2, steps=30, folder=folder)
    return [(c["train"], c["accuracy"], c["loss"]) for c in r]


STAGES = {"scores": score, "prior": train, "judged": judge}


def work(folder):
    "Three stages in tiny settings; what each gives, as plain numbers."
    data = load("digits")
    data = data.keep(torch.arange(0, len(data.train.y), 4))
    make = net_for(data, "ConvNet", width=8, depth=1)
    return {name: stage(folder / name, data, make) for name, stage in STAGES.items()}


def files(folder):
    "What must be equal to the byte; seconds stand in the judged cells and in logs."
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock" and "judged" not in p.parts
    }


@needs_fork
def test_kills_change_no_stage(tmp_path):
    calm, wild, rand = tmp_path / "calm", tmp_path / "wild", random.Random(3)
    want = work(calm)
    kills = sum(killed(work, wild, after=rand.uniform(0.05, 0.7)) for _ in range(12))
    got = work(wild)
    assert (got["scores"], got["judged"]) == (want["scores"], want["judged"])
    assert kills >= 5, "too quick to be interrupted"
    assert files(calm) == files(wild)
    assert not list(tmp_path.rglob(".*.tmp")), "something half-written was left"
