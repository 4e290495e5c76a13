"""How long a gallery takes to show another step: from tensor to encoded bytes in the widget.

The step has 100 images of 128 x 128 pixels.

    python tests/bench/bench_gallery.py [--n 30] [--limit 50]
"""

import argparse
import statistics
import time

import torch

from ddnb import views as V


def main():
    torch.set_num_threads(1)
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--n", type=int, default=30)
    p.add_argument("--limit", type=float, default=50.0, help="milliseconds")
    a = p.parse_args()
    g = torch.Generator().manual_seed(0)
    y = torch.arange(10).repeat_interleave(10)
    shots = {t: torch.rand(100, 3, 128, 128, generator=g) for t in range(4)}
    v, ms, cpu, again = V.DistilledGallery(shots, y), [], [], []
    for i in range(a.n + 3):
        v.cache.clear()
        t, c = time.perf_counter(), time.thread_time()
        v.c_step.index = (i + 1) % 4
        ms.append((time.perf_counter() - t) * 1e3)
        cpu.append((time.thread_time() - c) * 1e3)
        before = v.c_step.index
        v.c_step.index = (i + 2) % 4
        t = time.perf_counter()
        v.c_step.index = before  # in memory
        again.append((time.perf_counter() - t) * 1e3)
    ms, cpu, again = ms[3:], cpu[3:], again[3:]
    q = statistics.quantiles(ms, n=20)
    median = statistics.median
    spread = f"5 to 95 %: {q[0]:.1f} to {q[-1]:.1f} ms (n={len(ms)})"
    print(f"refresh of 100 x 128x128: median {median(ms):.1f} ms, {spread}")
    print(f"{median(cpu):.1f} ms of processor time, seen before: {median(again):.1f} ms")
    print(f"{len(v.pic.value) / 1024:.0f} KiB {v.pic.format}")
    return median(ms) > a.limit


if __name__ == "__main__":
    raise SystemExit(main())
