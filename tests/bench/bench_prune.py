"""Images per second of scoring: ddnb against a batch-size-1 DataLoader loop, and against the best forward rate of the same net.

python tests/bench/bench_prune.py [--quick] [--device cuda]
"""

import argparse, os, platform, statistics, time
from pathlib import Path

import torch
import torch.nn.functional as F

from ddnb.data import load, rng, stats
from ddnb.nets import ConvNet
from ddnb.prune import score_with

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


def forward(net, x, batch, device):
    "Nothing but forward passes over images that are encoded and on the device already."
    with torch.inference_mode(), torch.autocast(device, enabled=device == "cuda"):
        for b in x.split(batch):
            net(b)


def machine(device):
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else next(
            (l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")),
            platform.processor(),
        )
        if Path("/proc/cpuinfo").exists()
        else platform.processor()
    )
    return f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {platform.system()} {platform.machine()}"


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--quick", action="store_true", help="fewer images and repeats: does it run?")
    p.add_argument("--device", default="cpu")
    p.add_argument("--width", type=int, default=128)
    a = p.parse_args()
    n, n1, repeats = (512, 64, 2) if a.quick else (50_000 if a.device == "cuda" else 8192, 1024, 5)
    what, x, y, encode = images(n)
    net = ConvNet(3, 10, 32, width=a.width, depth=3, generator=rng(0)).eval().to(a.device)
    print(
        f"ConvNet-D3 width {a.width}, instance norm; {what}; median of {repeats} runs (lowest to highest)"
    )
    rows = [
        (
            "batch size 1, DataLoader",
            *rate(lambda: one_by_one(net, x[:n1], y[:n1], encode, a.device), n1, repeats, a.device),
        )
    ]
    xf = encode(x[:2048].to(a.device))
    compiled = a.device == "cpu"
    for name, f, batches in (
        ("eager", net, (16, 64, 256, 1024)),
        ("compiled", torch.compile(net, dynamic=False), (16, 64) if compiled else ()),
    ):
        for b in batches[:1] if a.quick else batches:
            part = xf[: len(xf) // b * b]
            forward(f, part[: 2 * b], b, a.device)
            rows.append(
                (
                    f"forward only, {name}, batches of {b}",
                    *rate(lambda: forward(f, part, b, a.device), len(part), repeats, a.device),
                )
            )
    best = max(r[1] for r in rows[1:])
    score = lambda m: score_with(
        net, x[:m], y[:m], preprocess=encode, compiled=compiled, progress=False
    )
    t = time.perf_counter()
    score(64)
    first = time.perf_counter() - t
    rows.append(("ddnb.prune.score_with", *rate(lambda: score(n), n, repeats, a.device)))
    print("| way | images/s | range | x batch 1 | of best forward |\n|---|---|---|---|---|")
    for name, m, lo, hi in rows:
        print(
            f"| {name} | {m:,.0f} | {lo:,.0f} to {hi:,.0f} | {m / rows[0][1]:.2f} | {m / best:.2f} |"
        )
    print(
        f"first call of score_with (64 images, compiling where it does): {first:.1f} s\nmachine: {machine(a.device)}"
    )


if __name__ == "__main__":
    main()
