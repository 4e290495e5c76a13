"""Peak memory above idle of one gradient, in a fresh process for each number of inner steps.

python tests/bench/bench_memory.py [--quick] [--device cuda]
"""

import argparse
import contextlib
import ctypes
import os
import statistics
import subprocess
import sys
import threading
import time


def measure(way, J, width, size, depth, batch, memory, device):
    "Runs in a process of its own; prints bytes."
    import torch
    from bench_engine import naive

    from ddnb.base.rng import rng
    from ddnb.nets import ConvNet, Flat
    from ddnb.trajectory.engine import Engine, schedule, unroll

    net = ConvNet(3, 10, size, width=width, depth=depth, generator=rng(0)).to(device)
    flat = Flat(net)
    g = rng(1)
    x = torch.randn(batch, 3, size, size, generator=g).to(device).requires_grad_()
    y = (torch.arange(batch) % 10).to(device)
    theta, alpha = flat.theta(net), torch.tensor(0.01, device=device)
    batches = lambda J: [(i.to(device), d) for i, d in schedule(batch, J, generator=g)]
    engine = None if way == "naive" else Engine(flat, compile=way == "compiled", memory=memory)

    def run(J):
        if engine is None:
            end = naive(flat, theta, x, y, alpha, batches(J))
        else:
            end = unroll(engine, theta, x, y, alpha, batches(J))
        end.sum().backward()

    if way == "compiled":
        run(1)  # compiling is not what is measured, nor is what it leaves behind
    if device == "cpu":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        idle = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(J)
        torch.cuda.synchronize()
        print(torch.cuda.max_memory_allocated() - idle)
        return
    resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    idle, peak, stop = resident(), [0], []

    def watch():
        while not stop:
            peak[0] = max(peak[0], resident())
            time.sleep(0.002)

    t = threading.Thread(target=watch)
    t.start()
    run(J)
    stop.append(1)
    t.join()
    print(max(peak[0], resident()) - idle)


def median(way, J, shape, a):
    "Megabytes of one way, the median of some processes; nan where one failed."
    here = os.path.dirname(os.path.abspath(__file__))
    path = here + os.pathsep + os.environ.get("PYTHONPATH", "")
    options = ["--device", a.device, "--memory", str(a.memory)]
    one = ["--one", way, str(J), *map(str, shape)]
    command = [sys.executable, os.path.abspath(__file__), *options, *one]
    figures = []
    for _ in range(a.repeats):
        env = os.environ | {"PYTHONPATH": path}
        r = subprocess.run(command, capture_output=True, text=True, env=env)
        figures.append(float("nan") if r.returncode else float(r.stdout.split()[-1]) / 1e6)
    return statistics.median(figures)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--quick", action="store_true")
    p.add_argument("--device", default="cpu")
    p.add_argument("--one", nargs="*")
    p.add_argument("--memory", type=float, default=128e6)
    p.add_argument(
        "--repeats", type=int, default=3, help="processes per figure; their median is printed"
    )
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--steps", type=int, nargs="*", help="numbers of inner steps")
    a = p.parse_args()
    if a.one:
        return measure(a.one[0], *map(int, a.one[1:6]), a.memory, a.device)
    shape, Js = ((8, 8, 2, 10), (2, 10)) if a.quick else ((128, 32, 3, 10), (10, 20, 50, 100))
    Js = a.steps or Js
    ways = ["naive", "eager", *([] if a.no_compile or a.quick else ["compiled"])]
    width, size, depth, n = shape
    budget = f"budget {a.memory / 1e6:.0f} MB; median of {a.repeats} processes"
    print(f"MB above idle; width {width}, {size}x{size}, depth {depth}, {n} images; {budget}")
    print("| J | " + " | ".join(ways) + " |")
    print("|---" * (len(ways) + 1) + "|")
    table = {}
    for J in Js:
        table[J] = {w: median(w, J, shape, a) for w in ways}
        print(f"| {J} | " + " | ".join(f"{mb:.0f}" for mb in table[J].values()) + " |", flush=True)
    first, last = table[Js[0]], table[Js[-1]]
    growth = ", ".join(f"{w} {last[w] / max(first[w], 1e-9):.2f}" for w in ways)
    print(f"last / first: {growth}")


if __name__ == "__main__":
    main()
