"""What a diffusion model contributes: training sets with and without it, in cells kept in files.

    python tests/bench/latent_study.py --out OUT --list            the cells, and which are done
    python tests/bench/latent_study.py --out OUT --budget 30       go on for 30 minutes
    python tests/bench/latent_study.py --out OUT --table           what has been measured
    python tests/bench/latent_study.py --out OUT --smoke           everything tiny

A cell is one training set of one method, data set, number of images per class and seed, judged on
the test split by fresh networks: the ConvNet that distilled it, and three that it never saw. Rates,
the pull and which generated images are kept are chosen once for each data set and number of images,
by ConvNet on the validation split, with seeds that no cell has. Images, classes and priors come
from the seed of the data set alone: differences between methods are paired by seed.
"""

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from ddnb.base.check import DdnbError
from ddnb.base.files import write_json
from ddnb.base.forms import read_json
from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.distil import DM, Pixels, distill, init
from ddnb.judge import evaluate
from ddnb.latent import Latents, Sampler, generated, load_prior, train_prior
from ddnb.latent.generating import taught
from ddnb.nets import net_for
from ddnb.nets.fit import cosine

# ---- what is measured


@dataclass(frozen=True)
class Place:
    "A data set, its prior and its lengths."

    name: str
    source: str
    size: int
    training: dict  # of the prior
    options: dict
    steps: int = 40  # of every distillation
    batch: int = 25  # real images of a class


PRIORS = {
    "digits": dict(steps=(600, 900)),
    "shapes": dict(steps=(600, 900)),
}
PLACES = {
    "digits16": Place("digits16", "digits", 16, PRIORS["digits"], {}),
    "shapes32": Place("shapes32", "shapes", 32, PRIORS["shapes"], {}),
    "shapes64": Place("shapes64", "shapes", 64, PRIORS["shapes"], {}),
    "cifar10": Place(
        "cifar10",
        "",
        32,
        dict(widths=(16, 32, 32), depth=8, unet=(32, 64), steps=(1200, 2000), batch=(32, 128)),
        dict(valid=0.1, test=1 / 6),
    ),
}
TRIED = {  # chosen on the validation split
    "lr": (0.1, 0.3),
    "lr_pixels": (0.1, 0.3),
    "pull": (0.05, 0.1),
    "guidance": (1.0, 4.0),
}
FIRST = {"lr": 0.1, "lr_pixels": 0.1, "pull": 0.1, "guidance": 4.0}
NETS = "ConvNet", "MLP", "LeNet", "ResNet18"  # the first one distils


class Decoded(nn.Module):
    "A control: latents, decoded, and no diffusion at all."

    def __init__(self, place, z, y):
        super().__init__()
        self.place, self.z = place, nn.Parameter(z.clone())
        self.register_buffer("y", y)

    def forward(self):
        return self.place.data.norm.encode(self.place.prior.decode(self.z)), self.y


# ---- where


class Bench:
    "One data set, with what all its cells share."

    def __init__(self, place: Place, a):
        self.place, self.a, self.out = place, a, Path(a.out)

    @cached_property
    def data(self):
        p = self.place
        source = self.a.data if p.name == "cifar10" else p.source
        if not source:
            raise DdnbError("Where is CIFAR-10? Give --data FOLDER.")
        size = {} if p.name == "cifar10" else {"size": p.size}
        d = load(source, **size, **p.options)
        if self.a.smoke:
            d = d.keep(torch.cat([d.rows(c)[:12] for c in range(d.num_classes)]))
        return d

    @cached_property
    def prior(self):
        folder = self.out / f"prior-{self.place.name}"
        if not folder.exists():
            how = {"steps": (4, 4)} if self.a.smoke else {}
            how = self.place.training | how
            train_prior(self.data, path=folder, generator=0, progress=False, log=None, **how)
        return load_prior(folder, offline=True)

    @cached_property
    def blank(self):
        return self.prior.untrained(77)

    @cached_property
    def make(self):
        return net_for(self.data, "ConvNet", width=32, depth=2 if self.data.size < 32 else 3)

    @cached_property
    def judge(self):
        "Who prunes what was generated: trained on the real training images."
        return taught(self.data, self.make, rng(11), epochs=1 if self.a.smoke else 12)

    @cached_property
    def nets(self):
        made = {"ConvNet": self.make, "MLP": "MLP", "LeNet": "LeNet"}
        made["ResNet18"] = net_for(self.data, "ResNet18", width=8)
        return {name: made[name] for name in self.a.nets}

    # ---- methods

    def made(self, how, ipc, seed, chosen):
        "A generated set."
        pull = {"pull": chosen["pull"]} if how == "modes" else {}
        steps = 4 if self.a.smoke else 50
        guided = dict(steps=steps, guidance=chosen["guidance"], **pull)
        judge = {"classifier": self.judge} if how == "pruned" else {}
        return generated(self.prior, self.data, ipc, how, generator=rng(seed), **judge, **guided)

    def latents_of(self, xy, seed, prior=None, **sampling):
        "Latents of images that are there, real or generated."
        x, y = xy
        p = prior or self.prior
        pictures = self.data.norm.decode(x)
        with torch.no_grad():
            z = torch.cat([p.encode(b) for b in pictures.split(64)])
        sampler = Sampler(p, **{"steps": 5, "checkpoint": False, "chunk": 100} | sampling)
        return Latents(sampler, self.data.norm, z, y, p.embed(y), generator=rng(seed))

    def learned(self, syn, seed, lr):
        "Distribution matching, and the images that come out."
        objective = DM(self.data, self.make, generator=rng(1000 + seed), batch=self.place.batch)
        groups = [{"params": syn.parameters(), "lr": lr}]
        steps = 2 if self.a.smoke else self.place.steps
        optimiser = torch.optim.Adam(groups)
        for _ in distill(syn, objective, optimiser, steps, schedule=cosine):
            pass
        with torch.no_grad():
            return syn()

    def start(self, how, ipc, seed, chosen):
        if how in ("real", "mean", "k-means"):
            return init(self.data, ipc, how, generator=rng(seed))
        return self.made(how, ipc, seed, chosen)

    def through(self, how, ipc, seed, chosen, prior=None, skip="code"):
        xy = self.start(how, ipc, seed, chosen)
        syn = self.latents_of(xy, seed, prior, skip=skip)
        return self.learned(syn, seed, chosen["lr"])

    def decoded(self, how, ipc, seed, chosen, learn=True):
        syn = self.latents_of(self.start(how, ipc, seed, chosen), seed)
        syn = Decoded(self, syn.z.detach(), syn.y)
        if learn:
            return self.learned(syn, seed, chosen["lr"])
        with torch.no_grad():
            return syn()

    def pixels(self, how, ipc, seed, chosen):
        syn = Pixels(*self.start(how, ipc, seed, chosen))
        return self.learned(syn, seed, chosen["lr_pixels"])


METHODS = {  # name -> function of (bench, ipc, seed, chosen)
    "real": lambda b, *k: b.start("real", *k),
    "class mean": lambda b, *k: b.start("mean", *k),
    "k-means": lambda b, *k: b.start("k-means", *k),
    "samples": lambda b, *k: b.made("samples", *k),
    "samples, pruned": lambda b, *k: b.made("pruned", *k),
    "modes": lambda b, *k: b.made("modes", *k),
    "autoencoder, real": lambda b, *k: b.decoded("real", *k, learn=False),
    "autoencoder, DM": lambda b, *k: b.decoded("real", *k),
    "LD3M code, real": lambda b, *k: b.through("real", *k),
    "LD3M code, modes": lambda b, *k: b.through("modes", *k),
    "LD3M code, samples": lambda b, *k: b.through("samples", *k),
    "LD3M code, pruned": lambda b, *k: b.through("pruned", *k),
    "untrained denoiser, code": lambda b, *k: b.through("real", *k, prior=b.blank),
    "LD3M no skip, real": lambda b, *k: b.through("real", *k, skip=None),
    "LD3M no skip, modes": lambda b, *k: b.through("modes", *k, skip=None),
    "LD3M paper, real": lambda b, *k: b.through("real", *k, skip="paper"),
    "pixels DM, real": lambda b, *k: b.pixels("real", *k),
    "pixels DM, modes": lambda b, *k: b.pixels("modes", *k),
}
STEERED = {  # by which method a setting is chosen
    "guidance": "samples",
    "pull": "modes",
    "lr": "LD3M code, real",
    "lr_pixels": "pixels DM, real",
}

# ---- carrying out


def chosen_for(bench, ipc) -> dict:
    "Settings by the validation split; kept with all that was tried."
    file = bench.out / f"chosen-{bench.place.name}-{ipc}.json"
    if file.exists():
        return read_json(file)["chosen"]
    chosen, tried = dict(FIRST), []
    for setting, method in STEERED.items():
        means = {}
        for value in TRIED[setting]:
            with_it = chosen | {setting: value}
            sets = [METHODS[method](bench, ipc, seed, with_it) for seed in (100, 101)]
            judged = [
                _accuracy(bench, s, {"ConvNet": bench.make}, k, "valid") for k, s in enumerate(sets)
            ]
            means[value] = statistics.fmean(j["ConvNet"] for j in judged)
            tried.append(
                {"setting": setting, "value": value, "method": method, "valid": means[value]}
            )
        chosen[setting] = max(means, key=means.get)
        print(f"  {bench.place.name} {ipc}: {setting} {chosen[setting]} of {means}", flush=True)
    write_json(file, {"chosen": chosen, "tried": tried})
    return chosen


def _accuracy(bench, xy, nets, seed, split="test") -> dict:
    "Per cent, by network."
    steps = {"steps": 10} if bench.a.smoke else {}
    found = evaluate({"x": xy}, bench.data, nets, seeds=[seed], split=split, log=None, **steps)
    return {r["net"]: 100 * r["mean"] for r in found}


def done(a, cell) -> dict | None:
    "What was measured of a cell, if by all networks that are asked for."
    file = file_of(a.out, cell)
    row = read_json(file) if file.exists() else {"accuracy": {}}
    return row if {*a.nets} <= {*row["accuracy"]} else None


def file_of(out, cell):
    place, ipc, method, seed = cell
    return (
        Path(out)
        / "cells"
        / f"{place}-{ipc}-{method.replace(', ', '_').replace(' ', '-')}-{seed}.json"
    )


def measure(bench, cell):
    "One cell, written down."
    place, ipc, method, seed = cell
    chosen = chosen_for(bench, ipc)
    _ = bench.prior, bench.judge  # shared: no cell pays for them
    start = time.process_time()
    xy = METHODS[method](bench, ipc, seed, chosen)
    seconds = time.process_time() - start
    accuracy = _accuracy(bench, xy, bench.nets, seed)
    row = dict(place=place, ipc=ipc, method=method, seed=seed, cpu=seconds, chosen=chosen)
    file = file_of(bench.out, cell)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, row | {"accuracy": accuracy, "prior": bench.prior.quality})


def cells(a) -> list:
    "All of them: first few seeds of everything, then more."
    rounds = [(s, ipc, place) for s in range(a.seeds) for ipc in a.ipc for place in a.places]
    names = [m for m in METHODS if not a.methods or m in a.methods]
    return [
        (place, ipc, m, s)
        for s, ipc, place in rounds
        for m in names
        if not (m == "class mean" and ipc > 1) and not (m == "k-means" and ipc == 1)
    ]


def go_on(a):
    until = time.time() + 60 * a.budget
    torch.set_num_threads(1)
    benches = {name: Bench(PLACES[name], a) for name in a.places}
    for cell in cells(a):
        if done(a, cell):
            continue
        if time.time() > until:
            print("The budget is spent; the same call goes on.")
            return
        start = time.time()
        measure(benches[cell[0]], cell)
        print(f"{time.strftime('%H:%M:%S')} {cell} {time.time() - start:.0f} s", flush=True)


# ---- the table


def found(a) -> dict:  # (place, ipc, method) -> {seed: row}
    out = {}
    for cell in cells(a):
        if row := done(a, cell):
            out.setdefault(cell[:3], {})[cell[3]] = row
    return out


def spread(v):
    return f"{statistics.fmean(v):.1f} ± {statistics.stdev(v):.1f}" if len(v) > 1 else f"{v[0]:.1f}"


def paired(rows, others, net) -> str:
    "The mean difference, in standard errors if there are any."
    seeds = rows.keys() & others.keys()
    d = [rows[s]["accuracy"][net] - others[s]["accuracy"][net] for s in seeds]
    if len(d) < 2:
        return ""
    error = statistics.stdev(d) / len(d) ** 0.5
    sure = "*" if abs(statistics.fmean(d)) > 2 * error else ""
    return f"{statistics.fmean(d):+.1f} ± {error:.1f}{sure}"


AGAINST = {  # the start that an optimisation has to beat, or the control
    "LD3M code, real": "autoencoder, DM",
    "LD3M code, modes": "modes",
    "LD3M code, samples": "samples",
    "LD3M code, pruned": "samples, pruned",
    "LD3M no skip, modes": "modes",
    "LD3M no skip, real": "samples",
    "untrained denoiser, code": "LD3M code, real",
    "modes": "samples",
    "samples, pruned": "samples",
    "samples": "real",
    "autoencoder, DM": "pixels DM, real",
    "pixels DM, modes": "pixels DM, real",
}


def print_table(a):
    rows = found(a)
    done, all_ = sum(map(len, rows.values())), len(cells(a))
    print(f"{done} of {all_} cells measured; test accuracy in per cent, mean ± std over n seeds;")
    print("difference: paired by seed, ± standard error; * beyond two of them.\n")
    for place, ipc in dict.fromkeys(k[:2] for k in rows):
        first = next(iter(rows[next(k for k in rows if k[:2] == (place, ipc))].values()))
        nets = a.nets
        print(f"**{place}, {ipc} per class** (settings {first['chosen']})\n")
        head = ["method", "n", *nets, "others", "against", "ConvNet", "others", "CPU s"]
        print("| " + " | ".join(head) + " |")
        print("|" + "---|" * len(head))
        for method in METHODS:
            mine = rows.get((place, ipc, method))
            if mine:
                print("| " + " | ".join(_line(rows, place, ipc, method, mine, nets)) + " |")
        print()


def _line(rows, place, ipc, method, mine, nets):
    for row in mine.values():
        row["accuracy"]["others"] = statistics.fmean(row["accuracy"][n] for n in nets[1:])
    columns = [spread([r["accuracy"][n] for r in mine.values()]) for n in [*nets, "others"]]
    other = rows.get((place, ipc, AGAINST.get(method)), {})
    for row in other.values():
        row["accuracy"]["others"] = statistics.fmean(row["accuracy"][n] for n in nets[1:])
    gains = [paired(mine, other, n) for n in ("ConvNet", "others")]
    cpu = statistics.fmean(r["cpu"] for r in mine.values())
    return [method, str(len(mine)), *columns, AGAINST.get(method, ""), *gains, f"{cpu:.1f}"]


def list_all(a):
    for cell in cells(a):
        print(f"{'done' if done(a, cell) else 'not measured':13} {cell}")


def arguments(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--data", help="CIFAR-10, as Parquet files or pictures")
    p.add_argument("--places", nargs="+", choices=PLACES, default=["digits16", "shapes32"])
    p.add_argument("--methods", nargs="+", choices=METHODS)
    p.add_argument("--nets", nargs="+", default=list(NETS), choices=NETS, help="judges")
    p.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--budget", type=float, default=1e6, help="minutes")
    p.add_argument("--list", action="store_true")
    p.add_argument("--table", action="store_true")
    p.add_argument("--smoke", action="store_true")
    return p.parse_args(argv)


def main(argv=None):
    a = arguments(sys.argv[1:] if argv is None else argv)
    if a.list:
        return list_all(a)
    if not a.table:
        go_on(a)
    print_table(a)


if __name__ == "__main__":
    try:
        main()
    except DdnbError as e:
        sys.exit(str(e))
