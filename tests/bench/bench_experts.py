"""Training experts: seconds an epoch against the plain eager DataLoader loop.

    python tests/bench/bench_experts.py [--quick] [--device cuda] [--threads N]

Ways: whole batches, micro-batches that fit the cache, compiled micro-batches, several experts at
once on one core each, several stacked by vmap. 'limit' is the share of the machine's own
convolution rate that the three convolution passes of a step reach.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from bench_engine import machine, rate
from torch.utils.data import DataLoader, TensorDataset

from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.nets import Flat, net_for
from ddnb.nets.speed import micro_size, one_core
from ddnb.trajectory.training import Learner


def sync(device):
    if device == "cuda":
        torch.cuda.synchronize()


def clock(f, device, n):
    f()
    sync(device)
    out = []
    for _ in range(n):
        t = time.perf_counter()
        f()
        sync(device)
        out.append(time.perf_counter() - t)
    return min(out)


def plain(data, make, batch, steps, device):
    "What everybody writes: a DataLoader, zero_grad, backward, step."
    net = make(generator=rng(0)).to(device)
    x, y = data.xy()
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    loader = DataLoader(
        TensorDataset(x.cpu(), y.cpu()), batch, shuffle=True, drop_last=True, generator=rng(0)
    )

    def f():
        for j, (xb, yb) in zip(range(steps), loader):
            opt.zero_grad()
            F.cross_entropy(net(xb.to(device)), yb.to(device)).backward()
            opt.step()

    return f


def ours(data, make, batch, steps, device, micro, compile=False, experts=1):
    net = make(generator=rng(0)).to(device)
    x, y = data.xy()
    learners = [Learner(net, micro_size(net, x, batch, micro), compile) for _ in range(experts)]

    def one(learner):
        if experts > 1:
            torch.set_num_threads(1)
        for j in range(steps):
            i = torch.randint(len(y), (batch,), device=device)
            learner.gradient(x[i], y[i])
            learner.theta.sub_(0.01 * learner.grad)

    with one_core() if experts > 1 else nullcontext():
        one(learners[0])  # compiles before there are threads

    def f():
        if experts == 1:
            return one(learners[0])
        with one_core(), ThreadPoolExecutor(experts) as pool:
            list(pool.map(one, learners))

    return f


def stacked(data, make, batch, steps, device, experts):
    net = make(generator=rng(0)).to(device)
    x, y = data.xy()
    flat = Flat(net)
    theta0 = torch.stack([flat.theta(make(generator=rng(k)).to(device)) for k in range(experts)])
    grad = torch.func.vmap(torch.func.grad(lambda t, x, y: F.cross_entropy(flat(t, x), y)))

    def f():
        theta = theta0
        for j in range(steps):
            i = torch.randint(len(y), (experts, batch), device=device)
            theta = theta - 0.01 * grad(theta, x[i], y[i])

    return f


SETTINGS = [(128, 32, 256, 3), (32, 16, 256, 8), (32, 8, 128, 20)]  # width, size, batch, steps


def forward_and_back(width, size, depth, batch):
    "FLOP of the three convolution passes of a step; the first layer needs no input gradient."
    flop, c, s = 0, 3, size
    for d in range(depth):
        flop += (3 if d else 2) * 2 * batch * c * width * 9 * s * s
        c, s = width, s // 2
    return flop


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--quick", action="store_true")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--no-compile", action="store_true")
    a = p.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    ratio = "ratio = plain loop seconds / ours, for the same number of experts"
    print(f"torch {torch.__version__} on {machine(a.device)}; {ratio}")
    head, cores = [], max(2, torch.get_num_threads())
    for width, size, batch, steps in [(8, 8, 64, 2)] if a.quick else SETTINGS:
        data = load("shapes", size=size, counts=(steps * batch + batch, 50, 50)).to(a.device)
        make = net_for(data, width=width)
        n = 1 if a.quick else 3

        def way(*args, experts=1, **kw):
            f = ours(data, make, batch, steps, a.device, *args, experts=experts, **kw)
            return clock(f, a.device, n) / experts

        t = {
            "plain": clock(plain(data, make, batch, steps, a.device), a.device, n),
            "whole": way(None),
            "micro": way("auto"),
        }
        if a.device != "cuda":
            t[f"{cores} workers"] = way("auto", experts=cores)
        if not (a.no_compile or a.quick):
            t["compiled"] = way("auto", True)
            torch.compiler.reset()  # code compiled for one core
            if a.device != "cuda":
                t[f"{cores} workers, compiled"] = way("auto", True, experts=cores)
        t["vmap of 2"] = clock(stacked(data, make, batch, steps, a.device, 2), a.device, n) / 2
        depth = make(generator=rng(0)).spec["depth"]
        flop = forward_and_back(width, size, depth, batch)
        limit, least = flop / rate(width, size, batch, data.train.x), min(t.values()) / steps
        if not head:
            head = list(t)[1:]
            print(f"| width, size, batch | plain ms a step | {' | '.join(head)} | best, of limit |")
            print("|---" * (len(head) + 3) + "|")
        plain_ms = f"{t['plain'] / steps * 1e3:.3g}"
        ratios = " | ".join(f"{t['plain'] / t[k]:.2f}" for k in head)
        setting = f"{width}, {size}, {batch}"
        print(f"| {setting} | {plain_ms} | {ratios} | {limit / least:.0%} |", flush=True)


if __name__ == "__main__":
    main()
