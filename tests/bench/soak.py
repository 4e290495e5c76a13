"""10,000 tiny distillation steps under RunMonitor: does memory or the number of open files grow?

    python tests/bench/soak.py [--steps N] [--many M]

Printed are resident memory, what the lists of records weigh in it, and open files along the run,
and the slopes over its second half. `--many` is how many records a run and its monitor keep in
memory (20,000 each unless given).

Measured on 2 CPU cores, torch 2.15.0, 10,000 steps: resident +0.715 MiB per 1,000 steps, the
records' own objects +0.355; with --many 1000 resident +0.053, records 0. What grows is the list of
records (with the allocator's overhead for it); it ends at 20,000.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ddnb.base.checkpoint import MANY, remember
from ddnb.base.rng import rng
from ddnb.base.run import Run
from ddnb.data import load
from ddnb.distil import DM, Distilling, Pixels, init
from ddnb.nets import net_for
from ddnb.views import RunMonitor
from ddnb.views import monitor as room


def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def files():
    return len(os.listdir("/proc/self/fd"))


def weight(o, seen):
    "Bytes of nested plain objects, each counted once."
    if id(o) in seen:
        return 0
    seen.add(id(o))
    inside = ()
    if isinstance(o, dict):
        inside = (*o.keys(), *o.values())
    elif isinstance(o, (list, tuple)):
        inside = o
    return sys.getsizeof(o) + sum(weight(i, seen) for i in inside)


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("--steps", type=int, default=10000)
    a.add_argument("--many", type=int, default=MANY)
    a = a.parse_args()
    room.MANY, remember.__defaults__ = a.many, (a.many,)
    data = load("digits")
    syn = Pixels(*init(data, 1, "real", generator=rng(0)))
    objective = DM(data, net_for(data, "ConvNet", width=4, depth=1), batch=4, generator=rng(1))
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        adam = torch.optim.Adam(syn.parameters(), lr=0.01)
        run = Run(folder, Distilling(syn, objective, adam, a.steps), every=500)

        def watched():
            for r in run:
                if r["step"] % max(1, a.steps // 20) == 0:
                    records = [run.history, monitor.history, monitor.cols]
                    seen.append((r["step"], rss(), files(), weight(records, set()) / 2**20))
                yield r

        t = time.perf_counter()
        monitor = RunMonitor(a.steps, syn=syn, data=data)
        monitor.start(watched(), background=True)
        monitor.wait()
        seconds = time.perf_counter() - t
    step, mem, fds, records = map(np.array, zip(*seen))
    late = step > a.steps / 2
    slope, own = (np.polyfit(step[late], v[late], 1)[0] * 1000 for v in (mem, records))
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print("| step | resident MiB | of which records MiB | open files |\n|---|---|---|---|")
    for s, m, f, w in seen[:: max(1, len(seen) // 10)]:
        print(f"| {s} | {m:.1f} | {w:.2f} | {f} |")
    print(f"{a.steps} steps in {seconds:.0f} s, at most {a.many} records in memory")
    slopes = f"resident {slope:+.3f}, records {own:+.3f}, the rest {slope - own:+.3f}"
    print(f"slopes over the second half in MiB per 1,000 steps: {slopes}")
    print(f"open files {fds.min()} to {fds.max()}")


if __name__ == "__main__":
    main()
