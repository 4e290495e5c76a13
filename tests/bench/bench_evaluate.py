"""Five seeds of one network trained on a small set: ours beside a one-by-one eager loop.

    python tests/bench/bench_evaluate.py            10, 100, 500 images of 32x32, ConvNet-D3-128
    python tests/bench/bench_evaluate.py --quick    a thinner network, fewer steps: does it run?

Further options: --device cuda, --threads N, --images 10 100, --seeds 5, --width 128, --no-compile,
--cpu-time.

Both train the same networks on the same images with the same steps of SGD, in one process. Each is
warmed up (compiling is reported apart), then they take turns and the median of the turns counts.
The reference is what evaluation code usually does: for every seed, a TensorDataset in a shuffling
DataLoader with batches of 256, `net(x)`, `backward()`, `step()`.
"""

import argparse
import os
import platform
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from ddnb.data import rng
from ddnb.nets import ConvNet
from ddnb.train import train_many


def loader_loop(nets, x, y, epochs):
    "One network after the other, eager, with a DataLoader."
    for net in nets:
        net.train()
        opt = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        loader = DataLoader(
            TensorDataset(x, y), batch_size=256, shuffle=True, num_workers=0, generator=rng(0)
        )
        for _ in range(epochs):
            for a, b in loader:
                opt.zero_grad()
                F.cross_entropy(net(a), b).backward()
                opt.step()


def processor():
    "Its name, where the system tells."
    if os.path.exists("/proc/cpuinfo"):
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor()


def machine(device):
    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{processor()}, {cores}{gpu}, torch {torch.__version__}{load}"


def timed(f, device, clock):
    if device == "cuda":
        torch.cuda.synchronize()
    t = clock()
    f()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - t


def ways_of(a):
    "{name: settings of train_many}."
    one, together = dict(together=False), dict(together=True)
    beside = dict(together=False, workers=torch.get_num_threads())
    cpu = a.device == "cpu"
    ways = {"ours, one by one": one, "ours, together": together}
    if cpu:
        ways["ours, side by side"] = beside
    if not a.no_compile:
        ways["ours, one by one, compiled"] = one | dict(compile=True)
        ways["ours, together, compiled"] = together | dict(compile=True)
    if not a.no_compile and cpu:
        ways["ours, side by side, compiled"] = beside | dict(compile=True)
    return ways


def compare(n, ways, a, clock):
    "Median milliseconds for an epoch of every way with n images, and seconds of the first calls."
    x = torch.randn(n, 3, 32, 32, generator=rng(0)).to(a.device)
    y = torch.randint(10, (n,), generator=rng(1)).to(a.device)
    epochs = 2 if a.quick else max(1, (3000 if a.device == "cuda" else 40) // n)
    nets = [
        ConvNet(3, 10, 32, width=a.width, generator=rng(s)).to(a.device) for s in range(a.seeds)
    ]

    def ours(kw):
        return lambda: train_many(nets, x, y, epochs=epochs, batch=256, lr=0.01, **kw)

    runs = {"ref": lambda: loader_loop(nets, x, y, epochs)}
    runs |= {k: ours(kw) for k, kw in ways.items()}
    first = {k: timed(f, a.device, clock) for k, f in runs.items()}
    times = {k: [] for k in runs}
    for _ in range(a.turns):
        for k, f in runs.items():
            times[k].append(timed(f, a.device, clock) / epochs * 1e3)
    return {k: statistics.median(v) for k, v in times.items()}, first


def main(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--quick", action="store_true")
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--cpu-time", action="store_true")
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int)
    p.add_argument("--images", type=int, nargs="+", default=[10, 100, 500])
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--width", type=int, default=128)
    p.add_argument("--turns", type=int, default=3)
    a = p.parse_args(argv)
    if a.threads:
        torch.set_num_threads(a.threads)
    if a.quick:
        a.width, a.turns, a.images, a.no_compile = 16, 2, [10, 60], True
    clock = time.process_time if a.cpu_time else time.perf_counter
    print(machine(a.device))
    time_of = "CPU" if a.cpu_time else "wall"
    print(f"{a.seeds} seeds of ConvNet-D3, width {a.width}, instance norm, 32x32")
    print(f"{time_of} milliseconds for one epoch of all seeds, median of {a.turns} turns")
    ways = ways_of(a)
    head = " ".join(f"{k:>29}" for k in ways)
    print(f"{'images':>6} {'DataLoader loop':>16} {head}   (reference / ours)")
    for n in a.images:
        t, first = compare(n, ways, a, clock)
        ours = " ".join(f"{t[k]:>20.1f} ({t['ref'] / t[k]:>4.2f}x)" for k in ways)
        firsts = ", ".join(f"{first[k]:.0f} s" for k in ways)
        print(f"{n:>6} {t['ref']:>16.1f} {ours}   first call: {firsts}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
