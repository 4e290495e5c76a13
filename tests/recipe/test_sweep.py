"""Sweeps: what is finished is never run again, what is killed goes on, what fails stops nobody;
on every engine the bytes of one process after the other.
"""

import json
import os
import re
import shutil
import signal
import threading
import time

import pytest
import torch

from ddnb.base.check import DdnbError
from ddnb.base.files import lock
from ddnb.base.run import Run, complete
from ddnb.data import load as load_data
from ddnb.judge import Grid, baselines
from ddnb.nets import net_for
from ddnb.recipe import Recipe, engines
from ddnb.recipe.board import Board
from ddnb.recipe.plan import jobs_of, read_sweep, recipes_of
from ddnb.recipe.presets import preset, presets
from ddnb.recipe.sweeping import Sweep, answers, attempts, sweep
from ddnb.trajectory import Recording

from .command_line import pictures, run, set_bytes

SHORT = {
    "network": {"width": 4},
    "prune": {"nets": 1, "epochs": 1},
    "judge": {"nets": 1, "baselines": False},
    "objective": {"name": "DM", "batch": 8},
    "steps": 6,
    "repeats": 1,
}

# text of a sweep file -> what the sentence names
BAD = {
    "no lists": ("steps: 3\n", "no sweep"),
    "a word": ("sweep: seeds\n", "seed: .0, 1, 2"),
    "nothing": ("sweep: {}\n", "seed: .0, 1, 2"),
    "an unknown setting": ("sweep: {sead: [1]}\n", "sweep.sead.*'seed'"),
    "an unknown part": ("sweep: {prune.kep: [1]}\n", "sweep.prune.kep.*'prune.keep'"),
    "an unknown option": ("sweep: {objective.bach: [1]}\nobjective: DM\n", "objective.bach"),
    "an empty list": ("sweep: {seed: []}\n", "sweep.seed is an empty list"),
    "one bad value": ("sweep: {ipc: [1, 0]}\n", "ipc is 0"),
    "an unknown objective": ("sweep: {objective: [DM, MMT]}\n", "'MMT'.*'MTT'"),
    "a bad setting beside": ("ipcc: 3\nsweep: {seed: [0]}\n", "ipcc.*'ipc'"),
    "a recipe that is not there": ("recipe: nowhere\nsweep: {seed: [0]}\n", "nowhere"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_sweep_is_one_sentence(name, tmp_path):
    text, names = BAD[name]
    (tmp_path / "sweep.yaml").write_text(text)
    code, out, err = run("sweep", tmp_path / "sweep.yaml", "--out", tmp_path / "out")
    assert code == 1 and err.count("\n") == 1, (out, err)
    assert re.search(names, err), err
    assert not (tmp_path / "out").exists()


def test_products_and_single_combinations(tmp_path):
    (tmp_path / "base.yaml").write_text("steps: 5\nipc: 3\n")
    blocks = "[{objective: [DM, {name: MTT, segments: 2}], seed: [0, 1]}, {prune.keep: 0.5}]"
    text = f"recipe: base.yaml\njudge: {{nets: 2}}\nsweep: {blocks}\n"
    (tmp_path / "sweep.yaml").write_text(text)
    recipes = read_sweep(tmp_path / "sweep.yaml")
    assert len(recipes) == 5 and {r.steps for r in recipes} == {5}
    assert [r.objective.name for r in recipes] == ["DM", "DM", "MTT", "MTT", "IADD"]
    assert recipes[2].objective.options == {"segments": 2}
    assert (recipes[4].prune.keep, recipes[4].judge.nets) == (0.5, 2)


def test_a_sweep_that_grows_finds_what_was_begun(tmp_path):
    base = Recipe.of(SHORT)
    (one,) = jobs_of([base])
    one.folder(tmp_path).mkdir()
    grown = jobs_of(recipes_of(base, {"seed": [0, 1], "ipc": [1, 2]}))
    assert one.folder(tmp_path) == grown[0].folder(tmp_path) != grown[1].folder(tmp_path)
    assert grown[0].name.startswith("ipc=1,seed=0-") or grown[0].name.startswith("seed=0,ipc=1-")
    assert len({job.name for job in grown}) == 4


def test_names_are_names_of_folders():
    tries = [{"data": {"source": s}} for s in ("digits", "../a b/c:d", "shapes")]
    names = [job.name for job in jobs_of(map(Recipe.of, tries))]
    assert not any(set(name) & set("/: ") for name in names), names


class Fragile(engines.Serial):
    "An engine with room for two, whose workers die together whenever they touch job 3."

    one_fate, retries_itself, room = True, False, 2
    crews, handed = [], []

    def __init__(self, f, *how):
        self.f = f

    def submit(self, jobs):
        self.handed.append(jobs)
        tickets = [object() for _ in jobs]
        self.crews.append(dict(zip(tickets, jobs)))
        return tickets

    def ready(self, tickets):
        return tickets

    def result(self, ticket):
        (crew,) = [c for c in self.crews if ticket in c]
        if 3 in crew.values():
            raise engines.Lost
        return self.f(crew[ticket]), None


def test_who_kills_its_worker_is_found_out_and_the_others_are_done(monkeypatch):
    monkeypatch.setitem(engines.ENGINES, "fragile", Fragile)
    found = list(engines.pmap(lambda job: 10 * job, [1, 2, 3, 4, 5], "fragile", retries=2))
    assert sorted(d.value for d in found if d.error is None) == [10, 20, 40, 50]
    (lost,) = [d for d in found if d.error]
    assert lost.number == 2 and "died 3 times" in lost.error
    alone = [jobs for jobs in Fragile.handed if jobs == [3]]
    assert len(alone) == 2  # once in company, twice alone


def test_an_engine_that_is_not_installed_is_named(monkeypatch):
    def missing(name):
        raise ImportError

    monkeypatch.setattr(engines.importlib, "import_module", missing)
    for name in ("ray", "slurm"):
        with pytest.raises(DdnbError, match=r"pip install 'ddnb\[scale\]'"):
            next(engines.pmap(print, [1], name))


def cells(n):
    "Recipes of `n` cells: two shares, and as many seeds as it takes."
    lists = {"prune.keep": [1.0, 0.6], "seed": list(range(n // 2))}
    return recipes_of(Recipe.of(SHORT), lists)


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    "Four cells, one after the other."
    folder = tmp_path_factory.mktemp("serial")
    assert [r["status"] for r in sweep(cells(4), folder, "serial")] == ["done"] * 4
    return folder


def folders(path):
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def sets(path):
    "The bytes of each set, by the digest of its recipe."
    return {p.name.rpartition("-")[2]: set_bytes(p) for p in folders(path)}


def kill_one(folder, killed, patience=300):
    "Kill -9 the first process that distils in the folder."
    until = time.monotonic() + patience
    while time.monotonic() < until and not killed:
        for job in folders(folder) if folder.exists() else []:
            who = attempts(job)
            if who and who[-1]["event"] == "began" and (job / "run").exists():
                os.kill(who[-1]["pid"], signal.SIGKILL)
                killed.append(job)
                return
        time.sleep(0.005)


def swept(folder, engine, n, **how):
    "The records of a sweep of which one worker is killed, and the folder of that job."
    killed = []
    killer = threading.Thread(target=kill_one, args=(folder, killed), daemon=True)
    killer.start()
    records = list(sweep(cells(n), folder, engine, workers=2, **how))
    killer.join()
    return records, killed


@pytest.mark.slow
@pytest.mark.parametrize("engine, n", [("local", 4), ("slurm", 2)])
def test_a_killed_worker_costs_nothing(engine, n, serial, tmp_path):
    "Same bytes as serial; what was finished is not done again; asked again nothing is done."
    if engine == "slurm":
        pytest.importorskip("submitit")
    how = {"cluster": "local"} if engine == "slurm" else {}
    wild = tmp_path / "wild"
    records, killed = swept(wild, engine, n, **how)
    assert [r["step"] for r in records] == list(range(1, n + 1)) and killed
    assert {r["status"] for r in records} == {"done"}
    assert sets(wild).items() <= sets(serial).items() and len(sets(wild)) == n
    events = {job: [a["event"] for a in attempts(job)] for job in folders(wild)}
    assert all(e.count("ended") == 1 for e in events.values())
    assert events[killed[0]] == ["began", "began", "ended"]
    assert [r["status"] for r in sweep(cells(n), wild, engine, **how)] == ["kept"] * n
    assert (wild / "results.md").read_text().count("\n| ") >= 2


@pytest.mark.slow
def test_ray_books_logical_gpus_and_survives_a_kill(serial, tmp_path):
    ray = pytest.importorskip("ray")
    try:
        ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    except Exception as e:
        pytest.skip(f"Ray does not start here: {e}")
    try:
        records, killed = swept(tmp_path / "wild", "ray", 4, gpus=1)
        assert {r["status"] for r in records} == {"done"} and killed
        assert sets(tmp_path / "wild") == sets(serial)
        with pytest.raises(DdnbError, match="8 GPUs.*more than 2"):
            list(sweep(cells(6), tmp_path / "wild", "ray", gpus=8))
    finally:
        ray.shutdown()


def test_slurm_lends_whole_gpus(tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(DdnbError, match="gpus is 0.5.*whole ones"):
        list(sweep(cells(2), tmp_path, "slurm", gpus=0.5))


@pytest.mark.slow
def test_failed_held_and_damaged_jobs(serial, tmp_path):
    recipes = [*cells(2), Recipe.of(SHORT | {"ipc": 500})]
    work = Sweep(recipes, tmp_path, "serial")
    with lock(work.jobs[0].folder(tmp_path)):
        seen = [r["status"] for r in work]
    assert seen == ["held", "done", "failed"]
    assert "500" in work.failed[0]["error"] and "500" in (tmp_path / "results.md").read_text()
    set_file = work.jobs[1].folder(tmp_path) / "distilled.safetensors"
    whole = set_file.read_bytes()
    set_file.write_bytes(whole[:100])
    assert [r["status"] for r in work] == ["done", "done", "failed"]
    assert set_file.read_bytes() == whole
    board = Board(work)
    lines = [board.line(r) for _, r in sorted(work.rows.items())]
    assert "done" in lines[0] and "failed\n    " in lines[2]


def test_finished_runs_of_a_folder_that_changed_are_not_taken_for_its_own(tmp_path):
    folder = pictures(tmp_path / "images", n=8)
    recipe = Recipe.of(SHORT | {"data": {"source": str(folder), "size": 8}, "steps": 1})
    for want in ("done", "kept"):
        assert [r["status"] for r in sweep([recipe], tmp_path / "out", "serial")] == [want]
    (folder / "no" / "0.png").unlink()
    (record,) = sweep([recipe], tmp_path / "out", "serial")
    assert record["status"] == "failed" and "fingerprint" in record["error"]
    shutil.rmtree(folder)
    assert [r["status"] for r in sweep([recipe], tmp_path / "out", "serial")] == ["kept"]


def test_a_sweep_may_begin_with_a_preset(tmp_path):
    name = next(iter(presets()))
    (tmp_path / "sweep.yaml").write_text(f"recipe: {name}\nsweep: {{seed: [0, 1]}}\n")
    known = Recipe.of(preset(name))
    recipes = read_sweep(tmp_path / "sweep.yaml", lambda name: Recipe.of(preset(name)))
    assert recipes == [known.but({"seed": 0}), known.but({"seed": 1})]


@pytest.mark.slow
def test_seeds_are_pooled_for_a_view(serial):
    rows = list(answers(sweep(cells(4), serial, engine="serial")))
    assert [r["seed"] for r in rows] == [0, 1, 0, 1]
    assert [r["train"] for r in rows] == ["keep=1.0", "keep=1.0", "keep=0.6", "keep=0.6"]


@pytest.mark.slow
def test_the_command_prints_a_line_for_each_run(tmp_path):
    text = Recipe.of(SHORT).text() + "sweep: [{seed: [0, 1]}, {ipc: 500}]\n"
    (tmp_path / "sweep.yaml").write_text(text)
    args = "sweep", tmp_path / "sweep.yaml", "--out", tmp_path / "out", "--engine", "serial"
    code, out, err = run(*args)
    assert code == 1 and "1 of 3 runs failed" in err and err.count("\n") == 1
    assert out.count(" done\n") == 2 and "\r" not in out and "ddnb compare" in out
    code, out, _ = run(*args)
    assert code == 1 and out.count(" kept\n") == 2
    code, out, _ = run("compare", tmp_path / "out", "--out", tmp_path / "table")
    assert code == 0 and "n = 2 distilled sets" in out
    assert {p.name for p in (tmp_path / "table").iterdir()} == {
        "compare.md",
        "compare.csv",
        "compare.html",
        "compare.png",
    }


def parts_of(kind):
    "A small work of pieces, anew; what it leaves."
    data = load_data("digits")
    data = data.keep(torch.arange(0, len(data.train.y), 8))
    make = net_for(data, "ConvNet", width=4, depth=1)
    if kind == "experts":
        return Recording(data, make, n=4, epochs=2, batch=64, seed=0)
    sets = {name: baselines(data, 1)[name] for name in ("random", "class mean", "k-means")}
    return Grid(sets, data, make, seeds=2, steps=20)


def pieces(folder):
    found = {p.name: p for p in folder.glob("*.safetensors") if p.name.startswith("expert")}
    judged = {p.name: json.loads(p.read_text()) for p in folder.glob("network-*.json")}
    told = {name: (v["confusion"], v["loss"]) for name, v in judged.items()}
    return {name: p.read_bytes() for name, p in found.items()} | told


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["experts", "cells"])
def test_a_work_in_parts_leaves_the_same_pieces(kind, tmp_path):
    complete(parts_of(kind), tmp_path / "one", progress=False, log=None)
    whole = pieces(tmp_path / "one")
    for engine, parts in (("serial", 3), ("local", 2)):
        folder = tmp_path / engine
        done = list(engines.scatter(parts_of(kind), folder, parts, engine, workers=2))
        assert [d.error for d in done] == [None] * parts
        assert pieces(folder) == whole
        again = parts_of(kind)
        records = list(Run(folder, again, log=None))
        assert again.step == again.steps and not [r for r in records if "share" in r]
