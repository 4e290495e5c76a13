"""Engine against the naive unroll, side by side in one process.

    python tests/bench/bench_engine.py [--quick] [--device cuda] [--threads N]

Each row: seconds for one gradient of a J-step run, forward and back. 'limit' is the share of the
machine's own convolution rate (measured here, on the row's largest convolution) that the needed
arithmetic (9 convolution passes a step) reaches.
"""

import argparse
import os
import platform
import time

import torch
import torch.nn.functional as F

from ddnb.base.rng import rng
from ddnb.nets import ConvNet, Flat
from ddnb.trajectory.engine import Engine, schedule, unroll


def naive(flat, theta, x, y, alpha, batches):
    theta = theta.clone().requires_grad_()
    for i, _ in batches:
        (g,) = torch.autograd.grad(
            F.cross_entropy(flat(theta, x[i]), y[i]), theta, create_graph=True
        )
        theta = theta - alpha * g
    return theta


def sync(x):
    if x.is_cuda:
        torch.cuda.synchronize()


def best(f, x, n):
    "Least seconds of n calls; the first is not counted."
    # CPU time where there is one thread, so that neighbours count less
    alone = not x.is_cuda and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    f()
    sync(x)
    out = []
    for _ in range(n):
        t = clock()
        f()
        sync(x)
        out.append(clock() - t)
    return min(out)


def rate(width, size, batch, x):
    "FLOP/s of a convolution width -> width at half size: forward and both gradients together."
    h = torch.randn(batch, width, size // 2, size // 2, device=x.device)
    w = torch.randn(width, width, 3, 3, device=x.device)
    up = torch.randn_like(h)
    if not x.is_cuda:
        h, up = (t.contiguous(memory_format=torch.channels_last) for t in (h, up))

    def f():
        F.conv2d(h, w, padding=1)
        torch.ops.aten.convolution_backward(
            up, h, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
        )

    with torch.no_grad():
        return 3 * 2 * batch * width * width * 9 * (size // 2) ** 2 / best(f, x, 10)


def need(width, size, depth, batch, channels):
    "FLOP of 9 convolution passes; 6 in the first layer, whose input has no tangent."
    total, c, s = 0, channels, size
    for d in range(depth):
        total += (9 if d else 6) * 2 * batch * c * width * 9 * s * s
        c, s = width, s // 2
    return total


def row(width, size, depth, batch, J, device, compile, n, channels=3, memory=2e9):
    net = ConvNet(channels, 10, size, width=width, depth=depth, generator=rng(0)).to(device)
    flat = Flat(net)
    g = rng(1)
    x = torch.randn(batch, channels, size, size, generator=g).to(device).requires_grad_()
    y = (torch.arange(batch) % 10).to(device)
    theta = flat.theta(net)
    alpha = torch.tensor(0.01, device=device, requires_grad=True)
    lam = torch.randn(flat.numel, generator=g).to(device)
    batches = [(i.to(device), d) for i, d in schedule(batch, J, generator=g)]
    run = lambda f: lambda: torch.autograd.grad(f() @ lam, [x, alpha])
    engines = {
        "flat, eager": Engine(flat, compile=False, memory=0),
        "eager": Engine(flat, compile=False, memory=memory),
    }
    if compile:
        mode = "reduce-overhead" if device == "cuda" else None
        engines["compiled"] = Engine(flat, compile=True, memory=memory, mode=mode)
        engines["compiled, small budget"] = Engine(flat, compile=True, memory=3e7)
    ref = best(run(lambda: naive(flat, theta, x, y, alpha, batches)), x, n)
    times = {
        k: best(run(lambda e=e: unroll(e, theta, x, y, alpha, batches)), x, n)
        for k, e in engines.items()
    }
    limit = J * need(width, size, depth, batch, channels) / rate(width, size, batch, x)
    return ref, times, limit


QUICK = [(8, 8, 2, 10, 5)]
ROWS = [
    (128, 32, 3, 10, 20),
    (128, 32, 3, 10, 50),
    (128, 32, 3, 100, 10),
    (32, 16, 2, 10, 50),
    (32, 8, 2, 10, 20),
    (32, 16, 2, 100, 20),
]


def machine(device):
    if device == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()}"
    return f"{name}, {threads}, load {os.getloadavg()[0]:.1f}"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--quick", action="store_true")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--repeats", type=int, default=0)
    p.add_argument("--rows", type=int, nargs="*", help="numbers of the rows to run; default all")
    a = p.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    print(f"torch {torch.__version__} on {machine(a.device)}; ratio = naive seconds / ours")
    rows = QUICK if a.quick else ROWS
    rows = rows if a.rows is None else [rows[i] for i in a.rows]
    ways = ["flat, eager", "eager"]
    if not a.no_compile:
        ways += ["compiled", "compiled, small budget"]
    head = "width, size, depth, batch, J | naive s | naive, of limit"
    print(f"| {head} | {' | '.join(ways)} | best, of limit |")
    print("|---" * (len(ways) + 3) + "|")
    n = a.repeats or (1 if a.quick else 3)
    for r in rows:
        ref, times, limit = row(*r, a.device, not a.no_compile, n)
        setting = ", ".join(map(str, r))
        ratios = " | ".join(f"{ref / t:.2f}" for t in times.values())
        reached = f"{limit / min(times.values()):.0%}"
        line = f"| {setting} | {ref:.3g} | {limit / ref:.0%} | {ratios} | {reached} |"
        print(line, flush=True)


if __name__ == "__main__":
    main()
