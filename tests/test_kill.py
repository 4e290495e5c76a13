"Whatever kills a run, the same call ends with the same bytes, and nothing half-written is left."

import json
import random

import torch
from kill import killed, needs_fork

from ddnb.artifact import Distilled, save
from ddnb.base.rng import rng
from ddnb.base.run import Run
from ddnb.data import load
from ddnb.distil import Distilling, Pixels, init
from ddnb.nets import net_for
from ddnb.trajectory import IADD, record

KILLS = 50


def work(folder):
    "Experts, IADD and the saved set in tiny settings; every stage resumes by being called again."
    torch.set_num_threads(1)
    data = load("digits")
    data = data.keep(torch.arange(0, len(data.train.y), 4))
    make = net_for(data, "ConvNet", width=8, depth=1)
    small = dict(n=12, epochs=3, batch=64, seed=3)
    experts = record(data, make, folder / "experts", log=lambda *a: None, **small)
    syn = Pixels(*init(data, 1, "real", generator=rng(1)))
    objective = IADD(experts, make, expert_epochs=1, steps=4, generator=rng(2))
    groups = [{"params": list(syn.parameters()), "lr": 0.1}, *objective.groups()]
    distilling = Distilling(syn, objective, torch.optim.Adam(groups), 100, schedule="cosine")
    recipe = {"seed": 1, "data": data.fingerprint}
    list(Run(folder / "run", distilling, every=5, recipe=recipe, log=None))
    x, y = syn()
    alpha = objective.alpha.item()
    found = Distilled(x.detach(), y, data.classes, data.norm, alpha=alpha, card={"seed": 1})
    save(found, folder / "set", overwrite=True)


def content(folder):
    "Every file's bytes, the measured seconds and the locks aside."
    out = {}
    for p in sorted(folder.rglob("*")):
        if not p.is_file() or p.name == ".lock":
            continue
        raw = p.read_bytes()
        if p.name == "records.jsonl":
            raw = [json.loads(line) for line in raw.splitlines()]
            for record in raw:
                record.pop("seconds", None)
        out[str(p.relative_to(folder))] = raw
    return out


@needs_fork
def test_fifty_kills_change_nothing(tmp_path):
    "In as many folders as it takes: where the work got through, the next kills hit another one."
    calm, rand, kills, wild = tmp_path / "calm", random.Random(7), 0, [tmp_path / "0"]
    killed(work, calm, after=None)
    while kills < KILLS:
        if killed(work, wild[-1], after=rand.uniform(0.02, 0.9)):
            kills += 1
        else:
            wild.append(tmp_path / str(len(wild)))
    killed(work, wild[-1], after=None)
    want = content(calm)
    assert {f.split("/")[0] for f in want} == {"experts", "run", "set"}
    for folder in wild:
        got = content(folder)
        assert sorted(want) == sorted(got), "a file is missing, or something half-written was left"
        assert [f for f in want if want[f] != got[f] and "previous" not in f] == []
