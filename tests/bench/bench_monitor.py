"""What watching costs: a distillation with and without RunMonitor, in per cent of the step time.

    python tests/bench/bench_monitor.py [--steps 300] [--pairs 5]

Runs the quickstart's setting (IADD on the digits, ConvNet of depth 2 and width 32, one image per
class) in a background thread both times, alternating: once consumed by a bare loop and once by
RunMonitor with its refreshes, images and columns.

Two figures, with their range over the pairs: wall time against the bare loop (needs a quiet
machine), and processor time spent in RunMonitor's own code as a share of the step's (does not).
Exit 1 if the share is above --limit.
"""

import argparse
import statistics
import threading
import time

import torch

from ddnb import data as D
from ddnb import views as V
from ddnb.distill import distill
from ddnb.experts import record
from ddnb.iadd import IADD
from ddnb.nets import net_for
from ddnb.syn import Pixels, init


def fresh(data, make, experts, steps):
    syn = Pixels(*init(data, 1, "real", generator=D.rng(1)))
    obj = IADD(experts, make, generator=D.rng(2))
    opt = torch.optim.Adam([{"params": syn.parameters(), "lr": 0.1}, *obj.groups()])
    return syn, distill(syn, obj, opt, steps)


def bare(records):
    t = []

    def work():
        for r in records:
            t.append(time.perf_counter())

    th = threading.Thread(target=work)
    th.start()
    th.join()
    return t


def watched(records, syn, data, steps):
    m, t, cpu = V.RunMonitor(steps, syn=syn, data=data), [], dict(own=0.0, step=0.0)

    def counted(f, key):
        def g(*a, **kw):
            c = time.thread_time()
            try:
                return f(*a, **kw)
            finally:
                cpu[key] += time.thread_time() - c

        return g

    m.take = counted(m.take, "own")  # the worker's part
    m.repaint = counted(m.repaint, "own")  # the painter's

    def stamped():
        it = iter(records)
        ask = counted(lambda: next(it, None), "step")
        while (r := ask()) is not None:
            t.append(time.perf_counter())
            yield r

    m.start(stamped(), background=True)
    m.wait()
    return t, 100 * cpu["own"] / cpu["step"]


def per_step(t, skip=5):
    return (t[-1] - t[skip]) / (len(t) - 1 - skip)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--steps", type=int, default=300)
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--limit", type=float, default=2.0, help="per cent")
    a = p.parse_args()
    torch.set_num_threads(1)
    data = D.load("digits")
    make = net_for(data, "ConvNet", width=32, depth=2)
    experts = record(data, make, n=2, epochs=6, seed=0, log=None)
    cost, share, steps = [], [], []
    for i in range(a.pairs + 1):
        one = {}
        for kind in ("bare", "watched") if i % 2 else ("watched", "bare"):
            syn, records = fresh(data, make, experts, a.steps)
            t = bare(records) if kind == "bare" else watched(records, syn, data, a.steps)
            if kind == "watched":
                t, part = t
            one[kind] = per_step(t)
        if i:
            cost.append(100 * (one["watched"] / one["bare"] - 1))
            share.append(part)
            steps.append(one["bare"] * 1e3)  # the first pair warms up
        ms = {kind: f"{kind} {one[kind] * 1e3:.2f} ms" for kind in ("bare", "watched")}
        print(f"pair {i}: {ms['bare']}, {ms['watched']} a step", flush=True)
    med = statistics.median
    spread = f"median of {a.pairs} pairs of {a.steps} steps, {min(cost):.2f} to {max(cost):.2f} %"
    print(f"wall time: {med(cost):+.2f} % of a step of {med(steps):.1f} ms ({spread})")
    spread = f"n={a.pairs}, {min(share):.2f} to {max(share):.2f} %"
    print(f"processor time in RunMonitor: {med(share):.2f} % of the steps' ({spread})")
    return med(share) > a.limit


if __name__ == "__main__":
    raise SystemExit(main())
