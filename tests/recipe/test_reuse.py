"""What an earlier run has made is not made again; several distillations; one page of HTML."""

import json
import threading

import pytest
import torch

from ddnb.base.files import write_json
from ddnb.base.shelf import Shelf
from ddnb.data import load as load_data
from ddnb.distil import init
from ddnb.judge import baselines, evaluate
from ddnb.recipe import Recipe, folders, perform
from ddnb.recipe.page import report
from ddnb.share import load

from .command_line import counted, run, set_bytes

SHORT = {
    "network": {"width": 4},
    "prune": {"nets": 2, "epochs": 1},
    "experts": {"n": 2},
    "objective": {"name": "IADD", "steps": 2, "max_start": 1, "expert_epochs": 1},
    "judge": {"nets": 3, "full": 2},
    "steps": 3,
    "repeats": 1,
}
WORKERS = (
    ("ddnb.prune.scoring", "_Scorer"),
    ("ddnb.trajectory.recording", "piece"),
    ("ddnb.judge.grid", "piece"),
)


def done(folder):
    found = json.loads((folder / "results.json").read_text())
    return found, {r["train"]: (r["accuracy"], r["n"]) for r in found["results"]}


@pytest.mark.slow
def test_other_steps_make_neither_scores_nor_experts_nor_rivals_again(tmp_path, monkeypatch):
    calls = [counted(monkeypatch, module, name) for module, name in WORKERS]

    def made(name, shelf="auto", **more):
        before, notes = [len(c) for c in calls], []
        recipe = Recipe.of(SHORT | more)
        list(perform(recipe, tmp_path / name, log=notes.append, shelf=shelf))
        return [len(c) - b for c, b in zip(calls, before)], " ".join(notes)

    first, _ = made("a")
    # networks: three for the set, random and mean, two for the kept and all
    assert first == [2, 2, 13]
    again, notes = made("b", steps=5)
    assert again == [0, 0, 3] and "earlier run" in notes
    assert made("c", steps=5, shelf=None)[0] == [2, 2, 13]
    assert set_bytes(tmp_path / "b") == set_bytes(tmp_path / "c")
    assert done(tmp_path / "b")[1] == done(tmp_path / "c")[1]
    more = made("d", experts={"n": 3}, seed=0)[0]
    assert more[:2] == [0, 1], "one expert more"
    assert made("e", seed=1)[0][2] == 5, "of real images only those that other scores have kept"
    assert made("f", prune={"nets": 1, "epochs": 1})[0][0] == 1
    n = {name: n for name, (_, n) in done(tmp_path / "a")[1].items()}
    assert {k: v for k, v in n.items() if k.startswith("real, ")}.keys() and set(n.values()) == {
        2,
        3,
    }


@pytest.mark.slow
def test_all_images_kept_need_no_scores(tmp_path, monkeypatch):
    calls = counted(monkeypatch, *WORKERS[0])
    recipe = Recipe.of(SHORT | {"prune": {"keep": 1}, "judge": {"nets": 1}})
    list(perform(recipe, tmp_path, log=None))
    assert calls == [] and not (tmp_path / "scored").exists()
    assert load(tmp_path).card["pruning"]["kept"] == 1259


@pytest.mark.slow
def test_several_distillations_are_kept_told_and_resumed(tmp_path):
    recipe = Recipe.of(SHORT | {"repeats": 3, "judge": {"nets": 2, "baselines": True}})
    for record in perform(recipe, tmp_path / "a", log=None):
        if record["stage"] == "distil" and (tmp_path / "a" / "run-1").exists():
            break  # as if it were killed
    list(perform(recipe, tmp_path / "a", log=None))
    list(perform(recipe, tmp_path / "b", log=None, shelf=None))
    list(perform(recipe.but({"repeats": 1}), tmp_path / "one", log=None))
    found, table = done(tmp_path / "a")
    assert table == done(tmp_path / "b")[1]
    assert set_bytes(tmp_path / "a") == set_bytes(tmp_path / "b")
    assert torch.equal(load(tmp_path / "a").x, load(tmp_path / "one").x), "the first one is saved"
    mine = [r for r in found["results"] if r["train"].startswith("distilled")]
    assert [r.get("repeat") for r in mine] == [None, 1, 2]
    assert len({tuple(r["accuracy"]) for r in mine}) > 1
    words = (tmp_path / "a" / "results.md").read_text()
    assert "mean of 3 distillations" in words and "n = 3" in words
    assert "one for each distillation" in words
    assert words.count("| distilled by") == 1 and "first of 3" in words
    card = load(tmp_path / "a").card
    assert card["verdicts"] and card["spreads"]
    code, out, _ = run("show", tmp_path / "a")
    assert code == 0 and "above" in out or "no better" in out
    folders.clear(tmp_path / "a")
    assert [p.name for p in (tmp_path / "a").rglob("*") if p.name != ".lock"] == []


@pytest.mark.slow
def test_quick_distillations_are_repeated_and_that_is_told(tmp_path):
    notes = []
    recipe = Recipe.of(SHORT | {"repeats": None, "judge": {"nets": 1, "baselines": False}})
    list(perform(recipe, tmp_path, log=notes.append))
    assert any("Two more distillations" in n for n in notes)
    assert len(done(tmp_path)[0]["results"]) == 3
    list(perform(recipe, tmp_path, log=None))


@pytest.mark.slow
def test_images_per_class_as_a_list_and_a_share_and_balanced_trainings(tmp_path):
    names, counts = ["a", "b", "c"], [20, 100, 100]
    digits = load_data("digits", valid=0, test=0)
    parts = [(digits.train.y == c).nonzero()[:n, 0] for c, n in zip((1, 8, 9), counts)]
    x = digits.train.x[torch.cat(parts)]
    y = torch.arange(3).repeat_interleave(torch.tensor(counts))
    data = load_data((x, y), classes=names, valid=0.2, test=0.2)
    assert init(data, [2, 5, 5])[1].bincount().tolist() == [2, 5, 5]
    share = init(data, 0.1)[1].bincount().tolist()
    assert share == [max(1, round(0.1 * n)) for n in data.counts["train"]]
    for kind in ("DM", "IADD"):
        how = {"objective": kind, "ipc": [1] * 8 + [2] * 2, "balance": True, "experts": {"n": 1}}
        objective = SHORT["objective"] if kind == "IADD" else {"name": "DM", "batch": 8}
        recipe = Recipe.of(SHORT | how | {"objective": objective})
        list(perform(recipe, tmp_path / kind, log=None))
        assert load(tmp_path / kind).counts == [1] * 8 + [2] * 2
    assert "equally often" in (tmp_path / "DM" / "results.md").read_text()


def test_a_page_needs_nothing_else_and_shows_names_as_text(tmp_path):
    digits = load_data("digits")
    few = (digits.train.y < 3).nonzero()[:, 0]
    names = ["zero", "<script>alert(1)</script>", "<img src=x onerror=alert(2)>"]
    data = load_data((digits.train.x[few], digits.train.y[few]), classes=names)
    sets = {"<b>ours</b>": init(data, 1, "mean"), "random": baselines(data, 1)["random"]}
    table = evaluate(sets, data, "MLP", seeds=2, steps=10)
    found = {"recipe": {"data": {"source": "<i>here</i>"}}, "results": table.records}
    write_json(tmp_path / folders.DONE, found)
    page = report(tmp_path).read_text()
    for bad in ("<script", "<img src=x", "<b>ours", "<i>here", "http"):
        assert bad not in page, bad
    assert "&lt;script&gt;" in page and table.verdicts[0][:5].replace("<", "&lt;")[:4] in page
    code, out, err = run("report", tmp_path / "nothing")
    assert code == 1 and "finished run" in err


# ---- the shelf


def test_a_damaged_piece_counts_as_absent_and_a_full_shelf_loses_only_time(tmp_path):
    shelf = Shelf(tmp_path)
    drawer = shelf.drawer("scored", "cpu", 1)
    drawer["finished"] = ({"x": torch.zeros(1000)}, {})
    file = next(drawer.folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-9])
    assert drawer.get("finished") is None
    drawer["finished"] = ({"x": torch.zeros(1000)}, {})
    assert drawer.get("finished") is not None
    Shelf(tmp_path, most=10).trim()
    assert drawer.get("finished") is None and shelf.files() == []


def test_a_shelf_that_cannot_be_written_stands_in_nobodys_way(tmp_path):
    (tmp_path / "shelf").write_text("a file")
    drawer = Shelf(tmp_path).drawer("scored", "cpu", 1)
    drawer["finished"] = ({}, {"a": 1})
    assert drawer.get("finished") is None


def test_many_write_and_read_one_piece_at_once(tmp_path):
    seen, drawers = [], [Shelf(tmp_path).drawer("scored", "cpu", 1) for _ in range(8)]

    def use(drawer):
        for _ in range(20):
            drawer["finished"] = ({"x": torch.arange(5.0)}, {"a": 1})
            seen.append(drawer["finished"][0]["x"].tolist())
            drawer.give("finished", tmp_path / "run")

    threads = [threading.Thread(target=use, args=(d,)) for d in drawers]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert seen == [[0, 1, 2, 3, 4]] * 160
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["finished.safetensors"]
