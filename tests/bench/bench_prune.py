"""Images per second of scoring: ddnb, a DataLoader of batch size 1, and the best forward rate.

python tests/bench/bench_prune.py [--quick] [--device cuda] [--precision bfloat16]
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from ddnb.base.rng import rng
from ddnb.data import load, stats
from ddnb.nets import ConvNet
from ddnb.prune import PRECISIONS, score_with

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"


def images(n):
    "CIFAR-10 where it lies beside the project, else random images of its size."
    if CIFAR.exists():
        d = load(str(CIFAR), valid=0)
        return f"{d.name} (first {n} images)", d.train.x[:n], d.train.y[:n], d.norm.encode
    x = torch.randint(0, 256, (n, 3, 32, 32), generator=rng(0), dtype=torch.uint8)
    return (
        f"{n} random images 3x32x32",
        x,
        torch.randint(0, 10, (n,), generator=rng(1)),
        stats(x).encode,
    )


def rate(f, n, repeats, device):
    "Images per second: median, and the range."
    out = []
    for _ in range(repeats):
        t = time.perf_counter()
        f()
        if device == "cuda":
            torch.cuda.synchronize()
        out.append(n / (time.perf_counter() - t))
    return statistics.median(out), min(out), max(out)


def one_by_one(net, x, y, encode, device):
    "The reference's way, with no_grad added."
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(encode(x), y), batch_size=1)
    with torch.no_grad():
        for xb, yb in loader:
            F.cross_entropy(net(xb.to(device)), yb.to(device)).item()


def forward(net, x, batch, device, kind=None):
    "Nothing but forward passes over images that are encoded and on the device already."
    with torch.inference_mode(), torch.autocast(device, dtype=kind, enabled=kind is not None):
        for b in x.split(batch):
            net(b)


def processor():
    "Its name, where the system tells."
    if Path("/proc/cpuinfo").exists():
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor()


def machine(device):
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    cores = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    load_ = f"load {os.getloadavg()[0]:.1f}"
    system = f"{platform.system()} {platform.machine()}"
    return f"{name}, {cores}, {load_}, torch {torch.__version__}, {system}"


def arguments():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--quick", action="store_true", help="fewer images and repeats: does it run?")
    p.add_argument("--device", default="cpu")
    p.add_argument("--width", type=int, default=128)
    p.add_argument("--precision", default="float32", choices=PRECISIONS)
    return p.parse_args()


def forward_rows(net, x, a, repeats):
    "Rates of forward passes alone, compiled or not, in batches of several sizes."
    ways = [("eager", net, (16, 64, 256, 1024))]
    if a.device == "cpu":
        ways.append(("compiled", torch.compile(net, dynamic=False), (16, 64)))
    for name, f, batches in ways:
        for b in batches[:1] if a.quick else batches:
            part, kind = x[: len(x) // b * b], PRECISIONS[a.precision]
            forward(f, part[: 2 * b], b, a.device, kind)
            timed = rate(lambda: forward(f, part, b, a.device, kind), len(part), repeats, a.device)
            yield f"forward only, {name}, batches of {b}", *timed


def main():
    a = arguments()
    n, n1, repeats = (512, 64, 2) if a.quick else (50_000 if a.device == "cuda" else 8192, 1024, 5)
    what, x, y, encode = images(n)
    net = ConvNet(3, 10, 32, width=a.width, depth=3, generator=rng(0)).eval().to(a.device)
    runs = f"median of {repeats} runs (lowest to highest)"
    print(f"ConvNet-D3 width {a.width}, instance norm, {a.precision}; {what}; {runs}")
    single = lambda: one_by_one(net, x[:n1], y[:n1], encode, a.device)
    rows = [("batch size 1, DataLoader", *rate(single, n1, repeats, a.device))]
    rows += forward_rows(net, encode(x[:2048].to(a.device)), a, repeats)
    best = max(r[1] for r in rows[1:])
    how = dict(preprocess=encode, compiled=a.device == "cpu", precision=a.precision, progress=False)
    score = lambda m: score_with(net, x[:m], y[:m], **how)
    t = time.perf_counter()
    score(64)
    first = time.perf_counter() - t
    rows.append(("ddnb.prune.score_with", *rate(lambda: score(n), n, repeats, a.device)))
    print("| way | images/s | range | x batch 1 | of best forward |\n|---|---|---|---|---|")
    for name, m, lo, hi in rows:
        shares = f"{m / rows[0][1]:.2f} | {m / best:.2f}"
        print(f"| {name} | {m:,.0f} | {lo:,.0f} to {hi:,.0f} | {shares} |")
    print(f"first call of score_with (64 images, compiling where it does): {first:.1f} s")
    print(f"machine: {machine(a.device)}")


if __name__ == "__main__":
    main()
