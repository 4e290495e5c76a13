"""Every figure that this project wants from a GPU, as one table and a JSON with the machine.

    bash tests/bench/gpu.sh                 on a GPU: under 9 minutes
    python tests/bench/gpu.py --tiny        anywhere: does every row run?

A row says what it took beside the plain way of doing the same, and what is aimed at. Rows that the
time no longer allows are named. `--only engine` runs the rows whose name holds that word.
"""

import argparse
import json
import platform
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from bench_engine import machine, naive
from bench_evaluate import loader_loop
from bench_prune import one_by_one

import ddnb
from ddnb.base.device import computing
from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.distil import DC, DM, Distilling, Pixels, init
from ddnb.latent import Latents, random_prior
from ddnb.nets import Flat, net_for
from ddnb.nets.augment import DSA
from ddnb.nets.train import train_many
from ddnb.prune import score_with
from ddnb.trajectory import record
from ddnb.trajectory.engine import Engine, schedule, unroll


@dataclass
class Size:
    "How large the rows are."

    width: int = 128  # of the ConvNet
    side: int = 32
    depth: int = 3
    inner: int = 50  # steps of a student
    images: int = 10_000  # in a set
    batch: int = 256
    few: int = 200  # steps of a judge, images of a batch-1 loop
    repeats: int = 5
    prior: tuple = (128, 128, 5)  # side, width of the denoiser, sampling steps


TINY = Size(8, 8, 2, 3, 200, 16, 5, 1, (16, 16, 2))


class Bench:
    "The rows, what they share, and what they have found."

    def __init__(self, size, device, seconds):
        self.size, self.device, self.cuda = size, device, device == "cuda"
        self.end, self.rows = time.perf_counter() + seconds, []

    def data(self, classes=10):
        s, n = self.size, max(self.size.images, 4 * classes)
        x = torch.randint(256, (n, 3, s.side, s.side), generator=rng(0), dtype=torch.uint8)
        y = torch.arange(n) % classes
        return load((x, y), valid=0, test=0.1, device=self.device)

    def make(self, data):
        return net_for(data, "ConvNet", width=self.size.width, depth=self.size.depth)

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, f, repeats=None):
        "The least of some calls; the first is not counted."
        f()
        found = []
        for _ in range(repeats or self.size.repeats):
            self.wait()
            start = time.perf_counter()
            f()
            self.wait()
            found.append(time.perf_counter() - start)
        return min(found)

    def add(self, name, value, unit, plain=None, aim=None, **more):
        "A row; `plain` is what the plain way takes, in the same unit."
        faster = None
        if plain is not None:
            faster = plain / value if unit in ("s", "ms") else value / plain
        row = dict(name=name, value=value, unit=unit, plain=plain, faster=faster, aim=aim, **more)
        self.rows.append(row)
        print(line(row), flush=True)


def number(v):
    return "" if v is None else f"{v:.3g}" if isinstance(v, float) else str(v)


def line(row):
    kernels, waits = row.get("kernels"), row.get("waits")
    cells = [row["name"], number(row["value"]), row["unit"], number(row["plain"])]
    cells += [number(row["faster"]), row["aim"] or "", number(kernels), number(waits)]
    return f"| {' | '.join(cells)} |"


# ---- what a step costs beside its arithmetic


def kernels_and_waits(bench, f):
    "Counted by PyTorch's own profiler and by its warnings on synchronising; None without a GPU."
    if not bench.cuda:
        return {}
    from torch.profiler import ProfilerActivity, profile

    f()
    bench.wait()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        f()
    torch.cuda.set_sync_debug_mode("default")
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        f()
        bench.wait()
    on_gpu = [e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    launched = sum(not e.name.startswith(("Memcpy", "Memset")) for e in on_gpu)
    return {"kernels": launched, "waits": sum("synchroniz" in str(w.message) for w in caught)}


# ---- the rows


def engine(bench):
    "The gradient of a whole training, beside the naive unroll."
    s = bench.size
    data = bench.data()
    net = bench.make(data)(generator=rng(0)).to(bench.device)
    flat, g = Flat(net), rng(1)
    x = torch.randn(10, 3, s.side, s.side, generator=g).to(bench.device).requires_grad_()
    y = torch.arange(10).to(bench.device)
    theta, alpha = flat.theta(net), torch.tensor(0.01).to(bench.device).requires_grad_()
    there = [(i.to(bench.device), None) for i, _ in schedule(10, s.inner, generator=g)]

    def gradient(run):
        torch.autograd.grad(run().square().sum(), [x, alpha])

    plain = bench.seconds(lambda: gradient(lambda: naive(flat, theta, x, y, alpha, there)))
    kinds = {"eager": Engine(flat, compile=False, memory=2e9, graphs=False)}
    if bench.cuda:
        kinds["CUDA graphs"] = Engine(flat, compile=False, memory=2e9, graphs=True)
        kinds["compiled"] = Engine(flat, compile=True, memory=2e9, mode="reduce-overhead")
    for name, e in kinds.items():
        took = bench.seconds(lambda: gradient(lambda: unroll(e, theta, x, y, alpha, there)))
        bench.add(f"engine, J={s.inner}, {name}", took, "s", plain, "5x")


def pruning(bench):
    "Images scored a second, beside a loop of batch size 1."
    data, s = bench.data(), bench.size
    net = bench.make(data)(generator=rng(0)).to(bench.device).eval()
    x, y, encode = data.train.x, data.train.y, data.norm.encode
    alone = bench.seconds(
        lambda: one_by_one(
            net, x[: s.few].cpu(), y[: s.few].cpu(), lambda b: encode(b), bench.device
        ),
        1,
    )
    for precision in ("float32", "bfloat16"):
        ask = dict(preprocess=encode, progress=False, precision=precision)
        took = bench.seconds(lambda: score_with(net, x, y, **ask))
        bench.add(f"scoring, {precision}", len(x) / took, "images/s", s.few / alone, "20x")

    def forward():
        with torch.inference_mode():
            for b in encode(x[:2048]).split(1024):
                net(b)

    bench.add("forward alone", min(2048, len(x)) / bench.seconds(forward), "images/s")


def experts(bench):
    "Five experts, an epoch of each; the aim is for CIFAR-10's 50,000 images and 50 epochs."
    data = bench.data()
    how = dict(n=5, epochs=1, batch=bench.size.batch, progress=False, log=None)
    together = bench.seconds(lambda: record(data, bench.make(data), **how), 1)
    alone = bench.seconds(lambda: record(data, bench.make(data), workers=1, **how), 1)
    whole = together * 50 * 50_000 / len(data.train) / 60
    aim = f"10 min for CIFAR-10 x 50 epochs: {whole:.3g}"
    bench.add("5 experts, an epoch", together, "s", alone, aim)


def judges(bench):
    "Five networks on a small set, beside a DataLoader for one after the other."
    data, s = bench.data(), bench.size
    x, y = init(data, 10 if len(data.train) > 500 else 1)

    def fresh():
        return [bench.make(data)(generator=rng(k)).to(bench.device) for k in range(5)]

    plain = bench.seconds(lambda: loader_loop(fresh(), x, y, s.few), 1)
    took = bench.seconds(lambda: train_many(fresh(), x, y, epochs=s.few, batch=256), 1)
    bench.add(f"5 judges, {s.few} epochs", took, "s", plain, "5x")


def matching(bench):
    "A step of DM and DC with 10 and 100 classes."
    for classes in (10, 100):
        data = bench.data(classes)
        for kind in (DM, DC):
            syn = Pixels(*init(data, 1))
            o = kind(data, bench.make(data), batch=min(64, bench.size.batch), aug=DSA())
            adam = torch.optim.Adam(syn.parameters(), lr=0.1)
            records = iter(Distilling(syn, o, adam, 10**6))
            took = bench.seconds(lambda: next(records))
            counts = kernels_and_waits(bench, lambda: next(records))
            aim = "600 kernels, 1 wait" if kind is DM else "1 wait"
            bench.add(f"{kind.__name__}, {classes} classes", 1000 * took, "ms", None, aim, **counts)


def sampler(bench):
    "A step of latents through a prior as large as CompVis's, by DM."
    side, width, steps = bench.size.prior
    x = torch.randint(256, (40, 3, side, side), generator=rng(0), dtype=torch.uint8)
    data = load((x, torch.arange(40) % 10), valid=0, test=0, device=bench.device)
    prior = random_prior("ldm", generator=rng(0), size=side, width=width).to(bench.device)
    syn = Latents.of(prior, data, 1, generator=1, steps=steps)
    o = DM(data, bench.make(data), batch=4)
    records = iter(Distilling(syn, o, torch.optim.Adam(syn.groups()), 10**6))
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()
    took = bench.seconds(lambda: next(records), 2)
    bench.add(f"latents, {side} px, T={steps}", took, "s")
    if bench.cuda:
        bench.add("  its memory", torch.cuda.max_memory_allocated() / 1e9, "GB")


def precision(bench):
    "A step of DM by the kind of numbers, and what equal bytes cost."
    data = bench.data()
    for kind in (dict(precision="float32"), dict(precision="tf32"), dict(deterministic=True)):
        with computing(bench.device, **kind):
            o = DM(data, bench.make(data), batch=min(64, bench.size.batch), aug=DSA())
            syn = Pixels(*init(data, 1))
            adam = torch.optim.Adam(syn.parameters(), lr=0.1)
            records = iter(Distilling(syn, o, adam, 10**6))
            took = bench.seconds(lambda: next(records))
        name = ", ".join(f"{k} {v}" for k, v in kind.items())
        bench.add(f"DM, {name}", 1000 * took, "ms")


ROWS = engine, pruning, experts, judges, matching, sampler, precision


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--tiny", action="store_true", help="small sizes, once")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--seconds", type=float, default=500, help="no row begins later")
    p.add_argument("--only", default="", help="rows whose name holds this")
    p.add_argument("--json", default="gpu.json", help="where the figures go; '' for nowhere")
    given = p.parse_args()
    if given.device == "cpu" and not given.tiny:
        p.error("there is no GPU here: --tiny tries every row with small sizes")
    bench = Bench(TINY if given.tiny else Size(), given.device, given.seconds)
    print("| what | ours | unit | plainly | faster | aim | kernels | waits |")
    print("|---|---:|---|---:|---:|---|---:|---:|")
    left = []
    for row in ROWS:
        if given.only not in row.__name__:
            continue
        if time.perf_counter() > bench.end:
            left.append(row.__name__)
            continue
        row(bench)
    if left:
        print(f"\nNo time was left for {', '.join(left)}: --only runs one of them.")
    if given.json:
        versions = {m.__name__: m.__version__ for m in (torch, ddnb)}
        versions |= {"python": platform.python_version(), "cuda": torch.version.cuda}
        found = dict(machine=machine(given.device), versions=versions, rows=bench.rows, left=left)
        Path(given.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
