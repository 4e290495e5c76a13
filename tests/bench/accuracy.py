"""What `ddnb demo` reaches, over seeds: scores, experts, images and judges are drawn anew for each.

    python tests/bench/accuracy.py [--data digits] [--ipc 1] [--seeds 5] [--keep .9]

Printed is mean ± std over seeds of the mean of `--nets` networks, on the test split.
"""

import argparse
import os
import platform
import statistics as st
import tempfile
import time
from pathlib import Path

import torch

from ddnb import cli
from ddnb.data import fork, load, rng
from ddnb.evaluate import evaluate
from ddnb.nets import net_for


def one(data, a, seed, folder):
    "Accuracies {training set: %} of one seed; seconds of pruning, experts and distilling together."
    make, g, s, t = net_for(data, width=32), rng(seed), cli.settings(a.ipc), time.perf_counter()
    kept = cli.prune(data, make, a.keep, a.ipc, fork(g))
    small = data.keep(kept)
    experts = cli.experts(
        small, make, folder / "experts", 6, s["max_start"] + s["expert_epochs"], seed
    )
    run, _ = cli.distil(
        small, make, experts, a.ipc, a.steps, folder / "run", {"seed": seed}, fork(g)
    )
    seconds = time.perf_counter() - t
    x, y = run.syn()
    sets = {"IADD": (x.detach(), y), **cli.rivals(data, kept, a.ipc)}
    results = evaluate(
        sets, data, {"ConvNet": make}, seeds=[1000 * seed + k for k in range(a.nets)]
    )
    return {r["train"]: 100 * r["mean"] for r in results.records}, seconds


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
    data, rows, seconds = load(a.data, **({"size": a.size} if a.size else {})), [], []
    for seed in range(a.seeds):
        with tempfile.TemporaryDirectory() as d:
            r, s = one(data, a, seed, Path(d))
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
