"""Distilled sets on the command line: shown, judged, exported, and asked for when they are not
there.
"""

import json
import os
import re
import shutil
import signal

import pytest
from PIL import Image

from ddnb.data import load as load_data
from ddnb.prune import keep
from ddnb.recipe.stages import rivals
from ddnb.share import EXPORTS, load, read, save

from .command_line import counted, run, stopped


def test_show_writes_a_contact_sheet(box, tmp_path):
    code, out, _ = run("show", box / "one", "--png", tmp_path / "sheet.png")
    assert code == 0 and "Classes in label order" in out
    assert Image.open(tmp_path / "sheet.png").size[0] > 50


def test_evaluate_finds_the_data_by_itself(box):
    code, out, _ = run("evaluate", box / "one", "--seeds", "2", "--device", "cpu")
    assert code == 0 and re.search(r"this set +3 +\d+\.\d ± \d", out)
    assert "width" in out and "Note:" not in out, "judged by its own network"
    again = "evaluate", box / "one", "--seeds", "2", "--data", box / "pets", "--aug", "none"
    assert run(*again)[1] == out  # the plain protocol has no augmentation


@pytest.mark.slow
def test_augmentation_is_written_down(box, tmp_path):
    args = "evaluate", box / "one", "--seeds", "1", "--aug", "randaug", "--out", tmp_path / "r"
    assert run(*args)[0] == 0 and list((tmp_path / "r").glob("network-*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("form", EXPORTS)
def test_what_is_exported_can_be_read_and_judged(box, tmp_path, form):
    assert run("export", box / "one", "--to", form, "--out", tmp_path / form)[0] == 0
    assert len(read(tmp_path / form)) == 3
    where = "--data", box / "pets", "--seeds", "1", "--split", "valid"
    assert run("evaluate", tmp_path / form, *where)[0] == 0


def test_export_writes_both_accuracies(box, tmp_path):
    args = "export", box / "one", "--to", "imagefolder", "--out", tmp_path / "x"
    assert run(*args, "--score", "--device", "cpu")[0] == 0
    m = json.loads((tmp_path / "x" / "ddnb.json").read_text())["metrics"]
    assert len(m) > 2, "the rows of the demo stay"
    assert [i["set"] for i in m[-2:]] == ["exact", "as exported"]
    assert all(0 <= i["mean"] <= 1 and i["n"] == 5 for i in m[-2:])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_stopped_evaluation_goes_on(box, tmp_path, monkeypatch):
    "What was judged is not judged again; when all is there nothing is left, unless asked for."
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    args = ["evaluate", box / "one", "--data", box / "pets", "--nets", "MLP,LeNet", "--seeds", "1"]
    code, out, err = stopped("ddnb.judge.grid", "piece", 1, signal.SIGUSR1, *args)
    assert code == 75 and err.endswith("the same command goes on from there.\n")
    assert len(list(here.rglob("network-*.json"))) == 1
    made = counted(monkeypatch, "ddnb.judge.grid", "piece")
    code, out, _ = run(*args)
    assert code == 0 and len(made) == 1 and not list(here.iterdir())
    for total in (3, 3):
        assert run(*args, "--out", tmp_path / "rows")[1].endswith(out) and len(made) == total
    assert len(list((tmp_path / "rows").glob("network-*"))) == 2


def test_other_data_are_noted(box, tmp_path):
    shutil.copytree(box / "pets", tmp_path / "pets")
    next((tmp_path / "pets" / "no").iterdir()).unlink()
    code, out, _ = run("evaluate", box / "one", "--data", tmp_path / "pets", "--seeds", "1")
    assert code == 0 and "Note: the training images" in out


def test_data_that_are_not_here_are_asked_for(box, tmp_path):
    d = load(box / "one")
    d.card["data"], d.card["recipe"] = {"name": "scans"}, None
    save(d, tmp_path / "p")
    code, _, err = run("evaluate", tmp_path / "p")
    assert code == 1 and "'scans'" in err and "--data" in err
    code, _, err = run("run", tmp_path / "p")
    assert code == 1 and "recipe" in err


def test_an_unfinished_run_is_named(box, tmp_path):
    shutil.copytree(box / "one", tmp_path / "o")
    for f in ("distilled.safetensors", "results.json", "card.json"):
        (tmp_path / "o" / f).unlink()
    for command in ("show", "evaluate"):
        code, _, err = run(command, tmp_path / "o")
        assert code == 1 and "not finished" in err and "ddnb run" in err


def test_with_all_kept_no_row_stands_twice():
    d = load_data("digits")

    def last(share):
        return list(rivals(d, keep(None, d, share, order="random"), 1))[-2:]

    assert last(0.5) == ["real, the 628 kept", "real, all 1259"]
    assert last(1.0) == ["class mean, 1 per class", "real, all 1259"]
