"""Kernels, copies and waits of a step, on the pretended device: what Python costs a GPU.

    python tests/bench/device_counts.py [--steps 3]

Prints a Markdown table. These are counts, no times: nothing here runs on a GPU. Optimisers take
their path of one tensor after the other, so the kernels of Adam are counted too high.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from pretend_cuda import pretended

from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.distil import DC, DM, Distilling, Pixels, init
from ddnb.nets import net_for
from ddnb.nets.augment import DSA
from ddnb.trajectory import IADD, MTT, record

PER_CLASS = 6


def images(classes, size=16):
    "Random images of three channels."
    n = classes * PER_CLASS
    x = torch.randint(256, (n, 3, size, size), generator=rng(0), dtype=torch.uint8)
    return load((x, torch.arange(n) % classes), valid=0, test=0, device="cuda")


def experts(data, make):
    return record(data, make, n=1, epochs=3, batch=30, progress=False, log=None)


def iadd(data, make, **options):
    return IADD(experts(data, make), steps=10, expert_epochs=1, **options)


def mtt(data, make):
    return MTT(experts(data, make), steps=4, expert_epochs=1, aug=DSA(mode="all"))


def dm(data, make):
    return DM(data, make, batch=PER_CLASS, aug=DSA())


def dc(data, make, **options):
    return DC(data, make, batch=PER_CLASS, aug=DSA(), **options)


def one_by_one(data, make):
    return dc(data, make, batched=False)


ROWS = {  # name: (objective, classes, depth of the ConvNet)
    "IADD, J=10": (iadd, 10, 2),
    "MTT, J=4, DSA of all": (mtt, 10, 2),
    "DM, 10 classes, DSA": (dm, 10, 2),
    "DM, 100 classes, DSA": (dm, 100, 2),
    "DC, 10 classes, DSA": (dc, 10, 2),
    "DC one by one, 10 classes, DSA": (one_by_one, 10, 2),
    "DC, 100 classes, DSA": (dc, 100, 2),
}


def counted(objective, classes, depth, steps):
    "Counts a step, once the first one is over."
    with pretended() as counts:
        data = images(classes)
        o = objective(data, net_for(data, "ConvNet", width=8, depth=depth))
        syn = Pixels(*init(data, 1))
        adam = torch.optim.Adam([{"params": syn.parameters(), "lr": 0.1}, *o.groups()])
        records = iter(Distilling(syn, o, adam, steps + 1))
        next(records)
        counts.reset()
        list(records)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3, help="how many to count")
    parser.add_argument("--lines", type=int, default=0, help="lines to name for each kind")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    given = parser.parse_args()
    kinds = "kernels", "copies", "sendings", "waits"
    print("| a step of | kernels | blocking copies | others | waits |\n|---|---:|---:|---:|---:|")
    for name, row in ROWS.items():
        if given.only not in name:
            continue
        counts = counted(*row, given.steps)
        cells = [f"{counts[kind] / given.steps:,.0f}" for kind in kinds]
        print(f"| {' | '.join([name, *cells])} |", flush=True)
        for kind in kinds:
            for line, n in counts.lines(kind, given.lines):
                print(f"    {kind:8} {n / given.steps:8.1f}  {line}")


if __name__ == "__main__":
    main()
