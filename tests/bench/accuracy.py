"""What `ddnb demo` reaches, over seeds: scores, experts, images and judges are drawn anew for each.

    python tests/bench/accuracy.py [--data digits] [--ipc 1] [--seeds 5] [--keep .9]

Printed is mean ± std over seeds of the mean of `--nets` networks, on the test split.
"""

import argparse
import os
import platform
import statistics as st
import tempfile
from pathlib import Path

import torch

from ddnb.recipe import Performance, Recipe
from ddnb.recipe.commands import settings


def one(a, seed, folder):
    "Accuracies {training set: %} of one seed, and the seconds of pruning, experts and distilling."
    recipe = Recipe.of(
        {
            "data": {"source": a.data, "size": a.size},
            "prune": {"keep": a.keep},
            "network": {"width": 32},
            "objective": settings(a.ipc),
            "judge": {"nets": a.nets},
            "ipc": a.ipc,
            "steps": a.steps,
            "seed": seed,
        }
    )
    run = Performance(recipe, folder, log=None)
    for _ in run:
        pass
    seconds = sum(run.seconds[stage] for stage in ("prune", "record", "distil"))
    return {r["train"]: 100 * r["mean"] for r in run.results}, seconds


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--data", default="digits")
    p.add_argument("--size", type=int)
    p.add_argument("--ipc", type=int, default=1)
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--nets", type=int, default=2)
    p.add_argument("--steps", type=int, default=120)
    p.add_argument("--keep", type=float, default=0.9)
    a = p.parse_args()
    rows, seconds = [], []
    for seed in range(a.seeds):
        with tempfile.TemporaryDirectory() as d:
            r, s = one(a, seed, Path(d))
        rows.append(r)
        seconds.append(s)
    setting = f"{a.data}, {a.ipc} per class, keep {a.keep:g}, {a.steps} steps"
    cores = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    machine = f"{platform.machine()}, {cores}, torch {torch.__version__}"
    print(f"{setting}; {a.seeds} seeds x {a.nets} networks; {machine}")
    print("| training set | accuracy % | minus random |\n|---|---|---|")
    base = next(k for k in rows[0] if k.startswith("random"))
    for k in rows[0]:
        v = [r[k] for r in rows]
        d = [r[k] - r[base] for r in rows]
        print(f"| {k} | {st.fmean(v):.1f} ± {st.stdev(v):.1f} | {st.fmean(d):+.1f} |")
    print(f"pruning, experts and distilling: {st.fmean(seconds):.0f} s a seed")


if __name__ == "__main__":
    main()
