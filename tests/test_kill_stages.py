"Scores, a prior and a grid of evaluations, killed at random moments and called again: the same results, and nothing half-written."

import os, random, signal, time

import pytest
import torch

from ddnb.data import load, rng
from ddnb.evaluate import baselines, evaluate
from ddnb.latent import train_prior
from ddnb.nets import net_for
from ddnb.prune import scores


def work(folder):
    "Three stages in tiny settings; what each gives, as plain numbers."
    data = load("digits")
    data = data.keep(torch.arange(0, len(data.train.y), 4))
    make = net_for(data, "ConvNet", width=8, depth=1)
    s = scores(
        data, make, nets=4, epochs=6, generator=rng(0), folder=folder / "scores", progress=False
    )
    p = (
        train_prior(
            data,
            generator=rng(1),
            steps=(12, 12),
            widths=(8, 8),
            unet=(8, 16),
            batch=(16, 16),
            path=folder / "prior",
            every=2,
            progress=False,
        )
        if not (folder / "prior").exists()
        else None
    )
    r = evaluate(baselines(data, 1), data, make, seeds=2, steps=30, folder=folder / "judged")
    return (
        s.values.tolist(),
        None if p is None else float(sum(w.double().sum() for w in p.denoiser.parameters())),
        [(c["train"], c["accuracy"], c["loss"]) for c in r],
    )


def files(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock" and "judged" not in p.parts
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to kill often enough")
def test_kills_change_no_stage(tmp_path):
    calm = tmp_path / "calm"
    want = work(calm)
    rand, killed = random.Random(3), 0
    for k in range(12):
        if (pid := os.fork()) == 0:
            try:
                work(tmp_path / "wild")
                os._exit(0)
            except BaseException as e:
                print(repr(e), flush=True)
                os._exit(1)
        time.sleep(rand.uniform(0.05, 0.7))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        killed += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    got = work(tmp_path / "wild")
    assert (got[0], got[2]) == (want[0], want[2])
    assert killed >= 5, "too quick to be interrupted"
    assert files(calm) == files(tmp_path / "wild") and not list(tmp_path.rglob(".*.tmp")), (
        "a file differs, or something half-written was left"
    )
