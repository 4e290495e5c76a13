"""The demo from end to end: its story, equal bytes, resumption, and what a careless person
does next.
"""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddnb.recipe import folders, story
from ddnb.share import load

from .command_line import ENV, TINY, counted, pictures, run, set_bytes, stopped


def rows(folder):
    results = json.loads((folder / "results.json").read_text())["results"]
    return [(r["train"], r["accuracy"]) for r in results]


def test_the_demo_tells_its_story_and_leaves_everything(box):
    printed = (box / "printed.txt").read_text()
    stages = "1 Prune", "KEPT", "2 Record", "3 Distil", "4 Judge"
    sets = "distilled by IADD", "random real", "class mean", "real, all"
    for words in (*stages, *sets, "Done; "):
        assert words in printed, words
    assert "\r" not in printed
    files = "distilled.safetensors card.json distilled.png curves.png results.json results.md"
    assert {*files.split(), "settings.yaml", "recipe.yaml"} <= set(os.listdir(box / "one"))
    found = json.loads((box / "one" / "results.json").read_text())["results"]
    assert [(m["n"], m["split"]) for m in found] == [(1, "test")] * 5
    assert all(Image.open(box / "one" / f).size[0] > 50 for f in ("distilled.png", "curves.png"))


def test_the_card_says_everything_needed(box):
    d = load(box / "one")
    c = d.card
    assert d.classes == ["may-be", "no", "yes"] and d.x.shape == (3, 3, 8, 8) and d.alpha > 0
    assert (c["seed"], c["objective"], c["network"]["name"]) == (0, "IADD", "ConvNet")
    assert c["hyper"]["steps"] == c["recipe"]["steps"] == 3
    assert c["pruning"]["kept"] < c["data"]["train"] and "ask their owner" in c["licence"]
    assert c["w"]["mean"] == pytest.approx(1, abs=1e-4)
    assert {"ddnb", "torch", "python"} <= set(c["versions"])
    assert [m["split"] for m in c["metrics"]] == ["test"] * 5
    assert str(box) not in json.dumps(c)  # what is handed on does not tell where it was made


@pytest.mark.slow
def test_one_seed_one_set(box):
    args = "demo", "--data", box / "pets", *TINY
    assert run(*args, "--out", box / "two")[0] == 0
    assert run(*args, "--out", box / "three", "--seed", "1")[0] == 0
    assert set_bytes(box / "one") == set_bytes(box / "two") != set_bytes(box / "three")
    assert not torch.equal(load(box / "one").x, load(box / "three").x)


@pytest.mark.slow
def test_forecasts_are_printed_and_change_nothing(box, tmp_path, monkeypatch):
    printed = (box / "printed.txt").read_text()
    for words in ("Recording 1 of 1 experts takes about", "5 networks takes about"):
        assert words in printed
    monkeypatch.setattr(story, "line", None)
    code, out, _ = run("demo", "--data", box / "pets", "--out", tmp_path / "o", *TINY)
    assert code == 0 and "takes about" not in out
    assert set_bytes(tmp_path / "o") == set_bytes(box / "one")
    assert rows(tmp_path / "o") == rows(box / "one")


def test_a_finished_run_is_not_repeated(box):
    def files():
        found = [p for p in (box / "one").rglob("*") if p.is_file() and p.name != ".lock"]
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in found}

    before = files()
    code, out, _ = run("demo", "--data", box / "pets", "--out", box / "one", *TINY)
    assert code == 0 and "already holds this very run" in out and "| class mean" in out
    assert before == files()


def test_another_run_spoils_nothing(box, monkeypatch, tmp_path):
    args = "demo", "--data", box / "pets", *TINY
    code, _, err = run(*args, "--out", box / "one", "--ipc", "2")
    assert code == 1 and "ipc was 1 and is now 2" in err and "--overwrite" in err
    monkeypatch.chdir(tmp_path)
    shutil.copytree(box / "one", "runs/demo")
    Path("runs/demo/mine.txt").write_text("mine")
    identity = json.loads(Path("runs/demo/recipe.json").read_text())
    place, demo, other = folders.place, Path("runs/demo"), identity | {"seed": 9}
    assert place(None, identity) == demo and place(None, other) == Path("runs/demo-2")
    assert place("runs/demo", other, overwrite=True) == demo
    left = {p.name for p in demo.iterdir() if p.name != ".lock"}
    assert left == {"mine.txt", "recipe.json"}  # claimed for the new run


def test_settings_come_from_a_file(box):
    code, out, err = run("demo", "--config", box / "one" / "settings.yaml", "--out", box / "one")
    assert code == 0 and "already holds this very run" in out, err
    code, out, err = run("run", box / "one" / "recipe.yaml", "--out", box / "one")
    assert code == 0 and "already holds this very run" in out, err


STAGES = (
    ("ddnb.prune.scoring", "_Scorer", 2, signal.SIGINT, 1),
    ("ddnb.trajectory.recording", "piece", 2, signal.SIGTERM, 2),
    ("ddnb.distil.loop", "_step", 5, signal.SIGUSR1, 3),
    ("ddnb.judge.grid", "piece", 3, signal.SIGINT, 4),
)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_stopped_in_every_stage_and_resumed_equals_undisturbed(box, tmp_path, monkeypatch):
    "One sentence, its exit status; the same command ends with the same bytes, repeating nothing."
    args = ["demo", "--data", box / "pets", *TINY, "--steps", "20", "--experts", "3"]
    a, b = tmp_path / "a", tmp_path / "b"
    for module, name, at, sig, stage in STAGES:
        code, out, err = stopped(module, name, at, sig, *args, "--out", a)
        assert code == (130 if sig == signal.SIGINT else 75), (out, err)
        assert f"\n{stage} " in out and f"\n{stage + 1} " not in out, (out, err)
        said = r"ddnb: (Interrupted|SIGTERM|SIGUSR1): .*stopped.*the same command goes on.*\.\n"
        assert re.fullmatch(said, err), err
    assert not (a / "results.json").exists() and not list(a.rglob(".*.tmp"))
    calls = [counted(monkeypatch, module, name) for module, name, *_ in STAGES]
    assert run(*args, "--out", a)[0] == 0
    assert [len(c) for c in calls] == [0, 0, 0, 2], "scores, experts, steps and networks were there"
    monkeypatch.setenv("DDNB_CACHE", str(tmp_path / "another"))
    assert run(*args, "--out", b)[0] == 0
    assert [len(c) for c in calls] == [2, 3, 20, 7]
    assert set_bytes(a) == set_bytes(b) and rows(a) == rows(b)


def test_what_a_demo_leaves_can_be_cleared_away(box, tmp_path):
    shutil.copytree(box / "one", tmp_path / "o")
    folders.clear(tmp_path / "o")
    assert [p.name for p in (tmp_path / "o").rglob("*") if p.name != ".lock"] == []


@pytest.mark.slow
def test_overwrite_spares_files_of_others(box, tmp_path):
    out = shutil.copytree(box / "one", tmp_path / "o")
    names = "notes.txt", "experts/notes.md", "experts/expert_mine.safetensors", "run/mine.txt"
    mine = [out / p for p in names]
    for p in mine:
        p.write_text("mine")
    args = "demo", "--data", box / "pets", "--out", out, *TINY, "--seed", "5", "--overwrite"
    assert run(*args)[0] == 0
    assert all(p.read_text() == "mine" for p in mine)


def test_a_damaged_result_is_made_again(box, tmp_path):
    shutil.copytree(box / "one", tmp_path / "o")
    file = tmp_path / "o" / "distilled.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:200])
    (tmp_path / "o" / "run" / "records.jsonl").write_text("")  # and the log is lost
    code, out, _ = run("demo", "--data", box / "pets", "--out", tmp_path / "o", *TINY)
    assert code == 0 and "made again" in out and file.read_bytes() == whole


@pytest.mark.slow
def test_a_broken_picture_is_skipped_when_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pictures(tmp_path / "data")
    (data / "no" / "3.png").write_bytes(b"\x89PNG nothing")
    code, _, err = run("demo", "--data", data, "--out", "made", *TINY)
    assert code == 1 and "3.png" in err and "--skip" in err and "errors=" not in err
    assert run("demo", "--data", data, "--out", "made", *TINY, "--skip")[0] == 0
    for argv in (
        ("evaluate", "made", "--seeds", "1"),
        ("export", "made", "--to", "imagefolder", "--score"),
    ):
        code, out, err = run(*argv)
        assert code == 0 and "no/3.png" in err and "not those" not in out
    code, out, err = run("demo", "--config", "made/settings.yaml", "--out", "made")
    assert code == 0 and "already holds this very run" in out


def fake_proxy(monkeypatch, proxy):
    from ddnb.recipe import stages

    monkeypatch.setattr(stages, "dm_proxy", lambda make, ipc: proxy)


@pytest.mark.slow
def test_the_validation_split_may_choose_what_stays(box, tmp_path, monkeypatch):
    total, tried = load(box / "one").card["data"]["train"], []

    def proxy(data, generator):
        tried.append(len(data))
        return 1.0 if 0.5 < len(data) / total < 0.7 else 0.0

    fake_proxy(monkeypatch, proxy)
    args = "demo", "--data", box / "pets", "--out", tmp_path / "o", *TINY, "--keep", "auto"
    code, out, err = run(*args)
    assert code == 0, err
    assert "validation accuracy by share: 20 %" in out and "60 %: 100.0 ± 0.0" in out
    card = load(tmp_path / "o").card
    assert card["pruning"]["recipe"]["fraction"] == 0.6 and card["hyper"]["keep"] == "auto"
    trials = len(tried)
    (tmp_path / "o" / "results.json").unlink()
    assert run(*args)[0] == 0 and len(tried) == trials, "the trials are kept"


@pytest.mark.slow
def test_trials_of_a_stopped_choice_are_kept_but_not_taken_by_another_run(
    box, tmp_path, monkeypatch
):
    seen, stop = [], [4]

    def proxy(data, generator):
        if len(seen) == stop[0]:
            stop[0] = -1
            raise KeyboardInterrupt
        seen.append(len(data))
        return 0.5

    fake_proxy(monkeypatch, proxy)

    def go(out, *more):
        before, keep = len(seen), ("--keep", "auto", "--out", tmp_path / out)
        return run("demo", "--data", box / "pets", *TINY, *keep, *more)[0], len(seen) - before

    assert go("a") == (130, 4)
    code, rest = go("a")
    assert code == 0 and rest > 0
    stop[0] = len(seen) + 4
    assert go("b") == (130, 4)
    assert go("b", "--seed", "7") == (0, 4 + rest), "stopped before experts, a run makes room"


@pytest.mark.slow
def test_a_full_disk_refuses_the_demo_unless_it_is_forced(box, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(100, 100, 0))
    args = ["demo", "--data", box / "pets", "--out", tmp_path / "a", *TINY]
    code, _, err = run(*args)
    assert code == 1 and re.search(r"only 0 B are free", err) and err.count("\n") == 1
    assert run(*args, "--force")[0] == 0 and set_bytes(tmp_path / "a") == set_bytes(box / "one")


@pytest.mark.slow
def test_two_processes_on_one_demo(box, tmp_path):
    "The second is refused while the first lives, and goes on where it was killed."
    words = ["demo", "--data", str(box / "pets"), "--out", str(tmp_path / "a"), *TINY]
    code = "import sys; from ddnb.cli import main; sys.exit(main())"
    long = [sys.executable, "-c", code, *words, "--steps", "4000"]
    p = subprocess.Popen(long, env=ENV, stdout=subprocess.PIPE, text=True)
    for line in p.stdout:
        if line.startswith("3 "):
            break
    try:
        for more in ([], ["--seed", "5", "--overwrite"]):
            code, _, err = run(*words, "--steps", "4000", *more)
            assert code == 1 and "Another process is working in" in err
        assert list((tmp_path / "a" / "experts").glob("expert_*")) and p.poll() is None
    finally:
        p.kill()
        p.wait()
        p.stdout.close()
    code, _, err = run(*words)
    assert code == 1 and "steps was 4000 and is now 3" in err, "the lock died, its settings did not"


def test_a_forecast_does_not_end_up_in_the_line_of_a_bar(monkeypatch):
    both = io.StringIO()
    both.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both)
    bar = story.Bar("record")
    bar.show({"step": 1, "steps": 3, "share": 0.5, "part": "expert 1"})
    story.line("Recording.")
    bar.close()
    assert " " * 11 + "Recording." in re.split("[\r\n]", both.getvalue())


@pytest.mark.slow
def test_groups_are_split_whole_written_down_and_used_again_by_evaluate(box, tmp_path, monkeypatch):
    from ddnb.recipe import sets

    monkeypatch.chdir(tmp_path)
    data, seen, images_of = shutil.copytree(box / "pets", "scans"), [], sets.images_of
    for p in list(Path(data).rglob("*.png")):
        p.rename(p.with_name(f"patient{int(p.stem) // 2}_{int(p.stem) % 2}.png"))
    monkeypatch.setattr(
        sets, "images_of", lambda *a, **kw: seen.append(images_of(*a, **kw)) or seen[-1]
    )
    pattern = r"(\w+-?\w*/patient\d+)_"  # each class has patients of its own
    args = "demo", "--data", data, "--groups", pattern, *TINY
    assert run(*args, "--out", "made")[0] == 0
    card = load("made").card
    assert card["hyper"]["groups"] == pattern == card["recipe"]["data"]["groups"]
    for more in ([], ["--data", data, "--groups", pattern]):
        code, out, err = run("evaluate", "made", "--seeds", "1", *more)
        assert code == 0 and "not those" not in out, err
        assert seen[-1].fingerprint == card["data"]["fingerprint"]
    parts = [seen[0].split(s).paths for s in ("train", "valid", "test")]
    who = [{p.rsplit("_", 1)[0] for p in paths} for paths in parts]
    assert sum(map(len, who)) == len(set.union(*who)) == 24
    assert "not those" in run("evaluate", "made", "--seeds", "1", "--data", data)[1]
    for bad, names in ((r"person\d", "0 of 48 paths"), ("(", "regular expression")):
        code, out, err = run("demo", "--data", data, "--groups", bad, *TINY, "--out", "x")
        assert code == 1 and names in err and not Path("x").exists()
