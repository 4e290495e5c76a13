"""Which method for which budget, on CIFAR-10: a row for each, one at a time, kept in files.

    python tests/bench/cifar10.py --data FOLDER --out OUT --list       what there is, and its price
    python tests/bench/cifar10.py --data FOLDER --out OUT              all that is not there yet
    python tests/bench/cifar10.py --data FOLDER --out OUT --only tgdd-10 --budget 240
    python tests/bench/cifar10.py --out OUT --table                    what has been measured
    python tests/bench/cifar10.py --out OUT --smoke                    all of it on 200 digits

FOLDER holds CIFAR-10 as Parquet files or as folders of pictures. A row is a small training set,
made from all training images and judged by fresh networks of one kind: ConvNet, 3 blocks, width
128, instance norm, trained as in MTT's published evaluation (SGD .01, or the learned step size,
momentum .9, weight decay 5e-4, 1000 epochs, a tenth of the rate for the second half, DSA). The test
split is read once by each judge, at its end; nothing is chosen by it.

Every row is a process of its own, so that its peak of memory is its own. A row that was stopped, by
--budget, Ctrl-C or a kill, goes on where it was. Experts that several rows share are recorded once;
their cost is told apart and added to each of those rows.

Settings are tried out with --valid .1 in another OUT, such as the group `tuning`: judges then read
that share of the training images, which nobody learns from. --width, --images, --share and
--judging shorten everything.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from ddnb import __version__
from ddnb.base.check import DdnbError
from ddnb.base.files import write_json
from ddnb.base.forms import read_json
from ddnb.base.measure import duration, human, resident
from ddnb.base.rng import rng
from ddnb.base.run import Run
from ddnb.data import load
from ddnb.distil import DC, DM, Distilling, Formations, Pixels, best_crops, init, loops, tiled
from ddnb.distil.formations import pictures
from ddnb.judge import Grid, baselines
from ddnb.judge.rivals import herd
from ddnb.nets import net_for
from ddnb.nets.augment import DSA
from ddnb.prune import keep, scores
from ddnb.share import Distilled, card, load as load_set, save
from ddnb.trajectory import IADD, MTT, TGDD, Experts, Recording, Snapshots

# ---- what is measured


@dataclass(frozen=True)
class Recorded:
    "Experts that rows share."

    name: str
    n: int
    epochs: int
    zca: bool = False  # on whitened images
    how: dict = field(default_factory=dict)  # of their training


@dataclass(frozen=True)
class Row:
    "A training set, how it is made, and by how many networks it is judged."

    name: str
    ipc: int  # stored images per class
    method: str  # a key of CHOSEN or LEARNED
    options: dict = field(default_factory=dict)  # of its objective
    experts: str | None = None  # a Recorded
    factor: int = 1  # tiles along a side of a stored image
    begin: str = "real"
    optimiser: str = "SGD"  # momentum .5, or Adam
    lr: float = 1.0
    schedule: str | None = None
    steps: int = 0
    share: float = 1.0  # of the training images that pruning keeps, easiest first
    zca: bool = False
    seed: int = 0
    judges: int = 3
    nets: tuple = ("ConvNet",)
    group: str = "table"


# The field's experts; and faster ones, whose early epochs are as far as late ones of those.
SLOW = {"lr": 0.01, "momentum": 0.0, "batch": 256, "aug": DSA()}
FAST = {"lr": 0.05, "momentum": 0.5, "batch": 128, "aug": DSA()}
EXPERTS = [
    Recorded("fast", 4, 20, how=FAST),
    Recorded("short", 10, 4, zca=True, how=SLOW),
    Recorded("long", 3, 22, zca=True, how=SLOW),
]

# Published: SGD of momentum .5 on pixels, rates and steps as below; DC and MTT end earlier here.
_DM = dict(method="DM", lr=1.0, steps=5000, options={"batch": 256})
_TGDD = dict(method="TGDD", experts="fast", options={"batch": 128, "weight": 2.5})
_PIXELS = dict(optimiser="Adam", lr=0.05)  # of trajectory matching: the rate asks for no tuning
_MTT = {
    1: dict(zca=True, experts="short", steps=4000, **_PIXELS),
    10: dict(zca=True, experts="long", steps=1000, **_PIXELS),
}
_INNER = {
    1: dict(steps=50, max_start=2, alpha=0.01),
    10: dict(steps=30, max_start=20, alpha=0.001),
}


def _plain(ipc) -> list:
    "Sets that nobody learned."
    names = {"random": "random", "k-means": "kmeans", "herding": "herding"}
    rows = [Row(f"{short}-{ipc}", ipc, name) for name, short in names.items()]
    rows += [Row(f"mean-{ipc}", ipc, "class mean")] if ipc == 1 else []
    rows += [Row(f"tiles-{ipc}", ipc, "random", factor=2)]
    return rows + [Row(f"rded-{ipc}", ipc, "rded", factor=2, experts="fast")]


def _matched(ipc) -> list:
    "Sets by DC, DM and what was built on it."
    dc = {"batch": 256} | loops(ipc)
    tgdd = _TGDD | {"lr": 0.01 * ipc}
    tiles = dict(factor=2, steps=8000)
    return [
        Row(f"dc-{ipc}", ipc, "DC", dc, lr=0.1, steps=1000),
        Row(f"dm-{ipc}", ipc, **_DM),
        Row(f"dm-tiles-{ipc}", ipc, factor=2, **_DM),
        Row(f"dm-snapshots-{ipc}", ipc, experts="fast", **_DM),
        Row(f"tgdd-plain-{ipc}", ipc, steps=10_000, **tgdd),
        Row(f"tgdd-{ipc}", ipc, **tgdd, **tiles, judges=5),
    ]


def _trajectories(ipc) -> list:
    "MTT, and importance on top of it; the same experts, starts and draws."
    common, inner = _MTT[ipc], _INNER[ipc]
    return [
        Row(f"mtt-{ipc}", ipc, "MTT", inner, **common),
        Row(f"iadd-{ipc}", ipc, "IADD", inner | {"mode": "mean1"}, **common),
    ]


def _further() -> list:
    "The questions beside the table."
    best = {r.name: r for ipc in (1, 10) for r in [*_matched(ipc), *_trajectories(ipc)]}
    tgdd, mtt = best["tgdd-10"], best["mtt-1"]
    rows = [
        replace(r, name=f"{r.name}-keep{share:g}", share=share, group="pruning")
        for r in (tgdd, best["tgdd-plain-10"])
        for share in (0.2, 0.6)
    ]
    for mode in ("uniform", "mask", "paper"):
        options = mtt.options | {"mode": mode}
        name = f"iadd-1-{mode}"
        rows.append(replace(mtt, name=name, method="IADD", options=options, group="importance"))
    for distance in ("ncfm", "hyperbolic"):
        options = tgdd.options | {"distance": distance}
        name = f"tgdd-10-{distance}"
        rows.append(replace(tgdd, name=name, options=options, judges=3, group="distances"))
    mixed = tgdd.options | {"nets": "mixed"}
    rows.append(replace(tgdd, name="tgdd-10-mixed", options=mixed, judges=3, group="distances"))
    for seed in (1, 2):
        rows.append(replace(tgdd, name=f"tgdd-10-seed{seed}", seed=seed, group="seeds"))
        rows.append(replace(best["tgdd-1"], name=f"tgdd-1-seed{seed}", seed=seed, group="seeds"))
    return rows


def _tuning() -> list:
    "Rates for TGDD's images, which were published for another loop; never judged on the test."
    tgdd = _TGDD | dict(factor=2, steps=1500, judges=2, group="tuning")
    rates = {"SGD": (0.1, 1.0, 10.0), "Adam": (0.01, 0.05)}
    tries = [(kind, lr) for kind, rs in rates.items() for lr in rs]
    return [Row(f"tune-{kind}-{lr:g}", 10, optimiser=kind, lr=lr, **tgdd) for kind, lr in tries]


OTHERS = ("AlexNet", "VGG11", "ResNet18", "ViT")


def table_rows() -> list:
    "Every row of the table, cheap ones first."
    ipcs = (1, 10)
    rows = [row for ipc in ipcs for row in _plain(ipc)]
    rows += [row for ipc in reversed(ipcs) for row in _matched(ipc)]
    rows += [row for ipc in ipcs for row in _trajectories(ipc)]
    return rows + _further() + [_across(r) for r in rows if r.name in WINNERS] + _tuning()


WINNERS = ("tgdd-1", "tgdd-10", "mtt-1", "random-10")


def _across(row) -> Row:
    "The set of another row, judged by other architectures."
    return replace(row, name=f"{row.name}-others", nets=OTHERS, judges=3, group="architectures")


# ---- where it is measured


class Bench:
    "The images, the networks and the folder of all rows."

    def __init__(self, a):
        self.a, self.out = a, Path(a.out)
        self.until = a.until or (time.time() + 60 * a.budget if a.budget else float("inf"))
        self._data = {}

    @cached_property
    def experts(self) -> dict:  # name -> Recorded
        if self.a.smoke:
            return {e.name: replace(e, n=2, epochs=4) for e in EXPERTS}
        share = self.a.share
        return {e.name: replace(e, n=max(1, round(e.n * share**0.5))) for e in EXPERTS}

    @cached_property
    def rows(self) -> dict:  # name -> Row
        return {row.name: self.scaled(row) for row in table_rows()}

    def scaled(self, row) -> Row:
        "Shorter, where that was asked for."
        if not self.a.smoke:
            return replace(row, steps=round(row.steps * self.a.share))
        options = {k: min(v, 8) if k == "batch" else v for k, v in row.options.items()}
        options |= {"max_start": 1, "steps": 2} if row.method in ("MTT", "IADD") else {}
        options |= {"outer": 1, "inner": 1} if row.method == "DC" else {}
        nets = row.nets if len(row.nets) == 1 else ("MLP",)
        few = dict(ipc=min(row.ipc, 2), share=max(row.share, 0.6), judges=2, nets=nets)
        return replace(row, options=options, steps=min(row.steps, 2), **few)

    def data(self, zca=False):
        "All training images, decoded once; or a few."
        if zca not in self._data:
            found = self._digits() if self.a.smoke else self._images(zca)
            self._data[zca] = found
        return self._data[zca]

    def _digits(self):
        d = load("digits")
        return d.keep(torch.cat([d.rows(c)[:20] for c in range(10)]))

    def _images(self, zca):
        if not self.a.data:
            raise DdnbError("Where are the images? Give --data FOLDER, or --smoke for digits.")
        how = dict(valid=self.a.valid, test=1 / 6, zca=zca, device=self.a.device)
        d = load(self.a.data, cache=self.out / "images", **how)
        if self.a.images is None:
            return d
        each, g = self.a.images // d.num_classes, rng(0)
        some = [d.rows(c)[torch.randperm(len(d.rows(c)), generator=g)[:each]] for c in range(10)]
        return d.keep(torch.cat(some))

    def make(self, data, name="ConvNet"):
        "The network of experts, students and judges."
        width = 8 if self.a.smoke else self.a.width
        return net_for(data, name, **({"width": width} if name == "ConvNet" else {}))

    @property
    def split(self) -> str:
        return "valid" if self.a.valid else "test"

    def epoch(self) -> float:
        "Seconds of one epoch of one network here, all cores busy: measured once for an OUT."
        file = self.out / "epoch.json"
        if not file.exists():
            work = Recording(self.data(), self.make(self.data()), n=2, epochs=1, **FAST)
            write_json(file, {"seconds": work.forecast()["seconds"] / 2, "machine": machine()})
        return read_json(file)["seconds"]


def machine() -> dict:
    "What the numbers were made on."
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "ddnb": __version__,
        "load": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


# ---- carrying out


class OutOfTime(Exception):
    "The budget is spent; what is done is saved."


def carry(bench, run, what):
    "A run to its end, or until the budget is spent; a line a minute."
    said = time.time()
    with closing(iter(run)) as records:
        for record in records:
            now = time.time()
            if now - said > 60:
                said = now
                at = record["step"] + record.get("share", 0)
                print(f"  {what}: {100 * at / record['steps']:.1f} %", flush=True)
            if now > bench.until:
                raise OutOfTime


@contextmanager
def spent(folder):
    "Adds what a block costs to folder/spent.json, also where it is interrupted."
    wall, cpu = time.time(), _cpu()
    try:
        yield
    finally:
        file = Path(folder) / "spent.json"
        old = read_json(file) if file.exists() else {"seconds": 0.0, "cpu": 0.0, "peak": 0}
        seconds, used = time.time() - wall, _cpu() - cpu
        found = {"seconds": old["seconds"] + seconds, "cpu": old["cpu"] + used}
        write_json(file, old | found | {"peak": max(old["peak"], resident() or 0)})


def _cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def foretold(folder, work):
    "What a work will take, written down before it begins."
    file = Path(folder) / "forecast.json"
    if not file.exists() and work.step == 0:
        cost = work.forecast() if hasattr(work, "forecast") else None
        write_json(file, cost or {"seconds": None, "peak": None})


def experts_of(bench, name) -> Experts:
    "Recorded, if they are not there yet."
    if name is None:
        return None
    plan, folder = bench.experts[name], bench.out / f"experts-{name}"
    data = bench.data(plan.zca)
    work = Recording(data, bench.make(data), n=plan.n, epochs=plan.epochs, **plan.how)
    if not (folder / "done.json").exists():
        with spent(folder):
            foretold(folder, work)
            carry(bench, Run(folder, work, log=None), f"experts {name}")
        write_json(folder / "done.json", asdict(plan) | {"how": repr(plan.how)})
    return Experts(folder, n=plan.n, device=data.device)


# ---- sets that nobody learned


def _drawn(data, row, experts):
    "Random images, others for every judge."
    if row.factor == 1:
        return baselines(data, row.ipc)["random"]

    def draw(generator):
        stored = init(data, row.ipc, tiled(row.factor), generator=generator)
        return pictures(*stored, row.factor)

    draw.recipe = f"random tiles {row.ipc} {row.factor} {data.fingerprint}"
    draw.factor = row.factor
    return draw


def _begun(how):
    return lambda data, row, experts: init(data, row.ipc, how, generator=rng(row.seed))


def _crops(data, row, experts):
    net = Snapshots(experts).trained().to(data.device)
    pool = min(300, min(len(data.rows(c)) for c in range(data.num_classes)))
    return best_crops(data, net, row.ipc, row.factor, pool=pool, generator=rng(row.seed))


CHOSEN = {
    "random": _drawn,
    "class mean": _begun("mean"),
    "k-means": _begun("k-means"),
    "herding": _begun(herd),
    "rded": _crops,
}


# ---- sets that are learned


def _dm(data, make, experts, **how):
    return DM(data, make if experts is None else Snapshots(experts), chunk=64, **how)


def _dc(data, make, experts, **how):
    return DC(data, make if experts is None else Snapshots(experts), **how)


def _tgdd(data, make, experts, **how):
    return TGDD(experts, make, data=data, chunk=64, **how)


def _mtt(data, make, experts, **how):
    return MTT(experts, make, **how)


def _iadd(data, make, experts, **how):
    return IADD(experts, make, **how)


LEARNED = {"DM": _dm, "DC": _dc, "TGDD": _tgdd, "MTT": _mtt, "IADD": _iadd}


def learning(bench, row, experts) -> Distilling:
    "The work that learns a set."
    data = pruned(bench, row, experts)
    begin = tiled(row.factor, row.begin) if row.factor > 1 else row.begin
    x, y = init(data, row.ipc, begin, generator=rng(row.seed))
    norm = data.norm if row.factor > 1 else None
    syn = Formations(x, y, row.factor, norm) if row.factor > 1 else Pixels(x, y)
    how = row.options | {"aug": DSA(), "generator": rng(10_000 + row.seed)}
    objective = LEARNED[row.method](data, bench.make(data), experts, **how).to(data.device)
    groups = [{"params": syn.parameters(), "lr": row.lr}, *objective.groups()]
    if row.optimiser == "SGD":
        optimiser = torch.optim.SGD(groups, lr=row.lr, momentum=0.5)
    else:
        optimiser = torch.optim.Adam(groups)
    return Distilling(syn, objective, optimiser, row.steps, schedule=row.schedule)


def pruned(bench, row, experts):
    "The training images, or the share of them that an expert finds easiest."
    data = bench.data(row.zca)
    if row.share == 1:
        return data
    easy = scores(data, classifier=Snapshots(experts).trained().to(data.device), progress=False)
    return data.keep(keep(easy, data, row.share, ipc=row.ipc * row.factor**2))


def set_of(bench, row):
    "The training set of a row: a Distilled that is kept, or a function that draws one."
    experts, folder = experts_of(bench, row.experts), bench.out / base_name(row)
    data = bench.data(row.zca)
    if row.method == "random":
        return _drawn(data, row, experts)
    if (folder / "set").exists():
        return load_set(folder / "set")
    with spent(folder):
        made = _made(bench, row, experts, folder, data)
    save(made, folder / "set")
    return made


def _made(bench, row, experts, folder, data) -> Distilled:
    if row.method in CHOSEN:
        x, y = CHOSEN[row.method](data, row, experts)
        return _story(bench, row, data, x, y, None)
    work = learning(bench, row, experts)
    foretold(folder, work)
    run = Run(folder / "run", work, recipe={"seed": row.seed}, log=None)
    carry(bench, run, row.name)
    x, y = (t.detach() for t in _stored(work.syn))
    alpha = getattr(work.objective, "alpha", None)
    made = _story(bench, row, data, x, y, None if alpha is None else float(alpha.detach()))
    write_json(folder / "losses.json", {"losses": _thinned(run.history)})
    return made


def _stored(syn):
    return syn.stored() if hasattr(syn, "stored") else syn()


def _story(bench, row, data, x, y, alpha) -> Distilled:
    settings = asdict(row) | {"images": len(data.train), "width": bench.make(data).spec["width"]}
    about = card(data=data, network=bench.make(data).spec, objective=row.method, hyper=settings)
    return Distilled(
        x, y, data.classes, data.norm, alpha, about | {"seed": row.seed}, {}, row.factor
    )


def _thinned(history, most=200):
    "Losses over the steps, few enough to be looked at."
    step = max(1, len(history) // most)
    names = ("step", "loss", "loss_unweighted", "loss_DM", "loss_Calibrate", "alpha")
    return [{k: r[k] for k in names if k in r} for r in history[::step]]


def base_name(row) -> str:
    "The row whose set it is."
    return row.name.removesuffix("-others")


# ---- judging


def grid_of(bench, row, training_set) -> Grid:
    "The networks that judge."
    data = bench.data(row.zca)
    nets = {name: bench.make(data, name) for name in row.nets}
    epochs = 2 if bench.a.smoke else bench.a.judging
    how = dict(seeds=row.judges, split=bench.split, protocol="mtt", epochs=epochs)
    return Grid({row.name: training_set}, data, nets, **how)


def carry_out(bench, row):
    "One row: experts, set, judges, and its file."
    folder, start = bench.out / row.name, machine()
    training_set = set_of(bench, row)
    grid = grid_of(bench, row, training_set)
    with spent(folder / "judged"):
        carry(bench, Run(folder / "judged", grid, log=None), f"judges of {row.name}")
    write_json(bench.out / "rows" / f"{row.name}.json", told(bench, row, grid, start))


def told(bench, row, grid, start) -> dict:
    "Everything that a row says."
    made, stored = bench.out / base_name(row), row.ipc * grid.data.num_classes
    shown = ("net", "mean", "std", "n", "accuracy", "images", "protocol", "split", "data")
    return {
        **asdict(row),
        "stored": stored,
        "pictures": stored * row.factor**2,
        "results": [{k: r[k] for k in shown} for r in grid.results],
        "made": _read(made / "spent.json"),
        "forecast": _read(made / "forecast.json"),
        "judged": _read(bench.out / row.name / "judged" / "spent.json"),
        "shared": _read(bench.out / f"experts-{row.experts}" / "spent.json"),
        "losses": _read(made / "losses.json").get("losses", [])[-1:],
        "epoch": bench.epoch(),
        "width": bench.make(grid.data).spec["width"],
        "images": len(grid.data.train),
        "judging": 2 if bench.a.smoke else bench.a.judging,
        "machine": start,
    }


def _read(file) -> dict:
    return read_json(file) if file.exists() else {}


# ---- what it will take


def stand_in(bench, name) -> Experts:
    "Experts of the right form that have learned nothing: a forecast needs no others."
    if name is None:
        return None
    plan = bench.experts[name]
    data = bench.data(plan.zca)
    make = bench.make(data)
    work = Recording(data, make, n=1, epochs=plan.epochs, **plan.how)
    nets = [make(generator=rng(k)) for k in range(work.card["rows"])]
    rows = torch.stack(
        [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]
    )
    return Experts(theta=[rows], info=work.card, device=data.device)


def price(bench, row) -> dict:
    "Seconds of making and of judging a set, and the peak of memory so far."
    data, made = bench.data(row.zca), 0.0
    if row.method in LEARNED and base_name(row) == row.name and not _has_set(bench, row):
        work = learning(bench, replace(row, share=1.0), stand_in(bench, row.experts))
        cost = work.forecast() or {"seconds": 0.0}
        made = cost["seconds"]
    x, y = init(data, row.ipc, "real", generator=rng(0))
    shown = pictures(x, y, row.factor)
    return {"made": made, "judged": grid_of(bench, row, shown).costs()["seconds"]}


def _has_set(bench, row):
    return (bench.out / base_name(row) / "set").exists()


def state_of(bench, row) -> str:
    if (bench.out / "rows" / f"{row.name}.json").exists():
        return "done"
    begun = (bench.out / row.name).exists() or _has_set(bench, row)
    return "begun" if begun else "new"


def list_all(bench, wanted):
    "Every row with its state and its price here."
    epoch, total = bench.epoch(), 0.0
    print(f"An epoch of one network takes {duration(epoch)} here.\n")
    for name in dict.fromkeys(row.experts for row in wanted if row.experts):
        plan, folder = bench.experts[name], bench.out / f"experts-{name}"
        seconds = plan.n * plan.epochs * epoch
        state = "done" if (folder / "done.json").exists() else "new"
        total += seconds if state == "new" else 0
        what = f"{plan.n} experts of {plan.epochs} epochs"
        print(f"  experts {name:22} {state:6} {duration(seconds):>9}  {what}")
    for row in wanted:
        total += _list_one(bench, row, epoch)
    print(f"\nAll that is left takes about {duration(total)}, {total / epoch:.0f} epochs.")
    print(f"Peak of memory of these forecasts together: {human(resident() or 0)}.")


def _list_one(bench, row, epoch) -> float:
    "Print a line; the seconds that are left."
    state = state_of(bench, row)
    if state == "done":
        print(f"  {row.name:30} {state}")
        return 0.0
    cost = price(bench, row)
    seconds = cost["made"] + cost["judged"]
    steps = f"{row.steps} steps {duration(cost['made'])}, " if cost["made"] else ""
    judged = f"{row.judges * len(row.nets)} judges {duration(cost['judged'])}"
    epochs = f"{seconds / epoch:.0f} epochs"
    print(
        f"  {row.name:30} {state:6} {duration(seconds):>9}  {steps}{judged}; {epochs}", flush=True
    )
    return seconds


# ---- the table


def found(out) -> list:
    "The rows that have been measured, in the order of the list."
    files = [Path(out) / "rows" / f"{row.name}.json" for row in table_rows()]
    return [json.loads(f.read_text()) for f in files if f.exists()]


def _minutes(cost):
    return cost.get("cpu", 0.0) / 60


def line_of(row, result) -> list:
    "A row of the table for one architecture."
    spread = f" ± {100 * result['std']:.1f}" if result["n"] > 1 else ""
    tiles = "" if row["factor"] == 1 else f", seen as {row['pictures']}"
    cost = row["made"].get("seconds", 0.0) + row["shared"].get("seconds", 0.0)
    peak = max(row["made"].get("peak", 0), row["shared"].get("peak", 0))
    return [
        row["name"],
        f"{row['stored']}{tiles}",
        result["net"],
        f"{100 * result['mean']:.1f}{spread}",
        str(result["n"]),
        f"{_minutes(row['made']):.0f}",
        f"{_minutes(row['shared']):.0f}",
        f"{cost / row['epoch']:.0f}",
        human(peak) if peak else "",
    ]


HEAD = ["row", "images", "network", "accuracy %", "n", "CPU min", "experts", "epochs", "memory"]


def print_table(out):
    "Markdown, with what it is about."
    rows = found(out)
    if not rows:
        print(f"Nothing has been measured in {out} yet.")
        return
    lines = [HEAD, ["---"] * len(HEAD)]
    lines += [line_of(row, result) for row in rows for result in row["results"]]
    print("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    for text in captions(rows):
        print(f"\n{text}")


def captions(rows) -> list:
    "What the numbers are, in sentences."
    first = rows[0]
    told = {(r["width"], r["images"], r["judging"], r["results"][0]["split"]) for r in rows}
    settings = [
        f"width {w}, {n} training images, {e} judging epochs, {s} split" for w, n, e, s in told
    ]
    epochs = sorted({round(r["epoch"], 1) for r in rows})
    out = [
        f"Accuracy: mean ± sample standard deviation over n fresh networks; {'; '.join(settings)}; "
        "judged as in MTT's published evaluation.",
        "CPU min: processor minutes of making the set; experts: of the experts that it shares with "
        f"others; epochs: both, in units of one training epoch ({epochs} s here, with "
        f"{first['machine']['cores']} cores).",
    ]
    if any(r["factor"] > 1 for r in rows):
        out.append("'seen as': formations, whose tiles are pictures; not the same as plain sets.")
    if white := sorted({r["method"] for r in rows if r["zca"]}):
        out.append(f"Whitened images (ZCA), for experts, sets and judges: {', '.join(white)}.")
    return out + _seeds(rows) + _forecasts(rows)


def _forecasts(rows) -> list:
    "How far the forecasts were from what came."
    told = [(r["forecast"].get("seconds"), r["made"].get("seconds")) for r in rows]
    ratios = sorted(made / forecast for forecast, made in told if forecast and made)
    if not ratios:
        return []
    middle = statistics.median(ratios)
    return [
        f"Real time by forecast, {len(ratios)} learned sets: {ratios[0]:.2f} to {ratios[-1]:.2f}, "
        f"median {middle:.2f}; load when they began: "
        f"{max(r['machine']['load'] for r in rows):g} at most."
    ]


def _seeds(rows) -> list:
    "Several distillations of one row."
    out = []
    for name in ("tgdd-1", "tgdd-10"):
        same = [r for r in rows if r["name"] == name or r["name"].startswith(f"{name}-seed")]
        means = [100 * r["results"][0]["mean"] for r in same]
        if len(means) > 1:
            spread = f"{statistics.fmean(means):.1f} ± {statistics.stdev(means):.1f}"
            out.append(f"{name}: {spread} over {len(means)} distillations.")
    return out


# ---- the command


def chosen(bench, a) -> list:
    "The rows that were asked for: by name, by group, or all."
    if not a.only:
        return [row for row in bench.rows.values() if row.group != "tuning"]
    names = [n for n in bench.rows if n in a.only or bench.rows[n].group in a.only]
    unknown = {*a.only} - {*bench.rows} - {row.group for row in bench.rows.values()}
    if unknown:
        raise DdnbError(f"There is no row {min(unknown)!r}: --list names all of them.")
    rows = [bench.rows[n] for n in names]
    if bench.split == "test" and any(row.group == "tuning" for row in rows):
        raise DdnbError("Settings are not chosen by the test split: tune with --valid .1.")
    return rows


def jobs(bench, wanted) -> list:
    "Names of what is not there yet: a row's experts stand before it."
    names = []
    for row in wanted:
        if state_of(bench, row) != "done":
            names += [f"experts-{row.experts}"] if row.experts else []
            names.append(row.name)
    there = [n for n in names if (bench.out / n / "done.json").exists()]
    return [n for n in dict.fromkeys(names) if n not in there]


def do(bench, name):
    "One job, here."
    if name.startswith("experts-"):
        return experts_of(bench, name.removeprefix("experts-"))
    return carry_out(bench, bench.rows[name])


def in_a_process(bench, name) -> bool:
    "A job in a process of its own; whether the budget allows another one."
    until = [] if bench.until == float("inf") else ["--until", str(bench.until)]
    done = subprocess.run([sys.executable, __file__, *bench.a.argv, "--job", name, *until])
    if done.returncode not in (0, 75):
        raise SystemExit(f"{name} ended with status {done.returncode}; the same call goes on.")
    return done.returncode == 0


def go_on(bench, wanted):
    "Job after job, until all are there or the time is over."
    for name in jobs(bench, wanted):
        print(f"{time.strftime('%H:%M')} {name}", flush=True)
        if bench.a.smoke:
            do(bench, name)
        elif time.time() > bench.until or not in_a_process(bench, name):
            print("The budget is spent; the same call goes on.")
            return


def arguments(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data", help="CIFAR-10: a folder of Parquet files, or of pictures")
    p.add_argument("--out", required=True, help="folder for everything that is made")
    p.add_argument("--only", nargs="+", default=[], help="rows or groups by name")
    p.add_argument("--budget", type=float, help="minutes")
    p.add_argument("--list", action="store_true", help="rows, their state, and what they will take")
    p.add_argument("--table", action="store_true", help="print what has been measured")
    p.add_argument("--smoke", action="store_true", help="everything tiny, on 200 digits")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--width", type=int, default=128, help="of the ConvNet")
    p.add_argument("--images", type=int, help="training images; all of them if not given")
    p.add_argument("--valid", type=float, default=0.0, help="share that judges instead of the test")
    p.add_argument("--share", type=float, default=1.0, help="of the steps of every row")
    p.add_argument("--judging", type=int, default=1000, help="epochs of a judge")
    p.add_argument("--job", help=argparse.SUPPRESS)
    p.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return p.parse_args(argv)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    a = arguments(argv)
    a.argv = argv
    if a.table:
        return print_table(a.out)
    bench = Bench(a)
    if a.job:
        try:
            return do(bench, a.job)
        except OutOfTime:
            sys.exit(75)
    wanted = chosen(bench, a)
    if a.list:
        return list_all(bench, wanted)
    go_on(bench, wanted)
    print_table(a.out)


if __name__ == "__main__":
    try:
        main()
    except DdnbError as e:
        sys.exit(str(e))
