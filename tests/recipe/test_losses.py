"What is lost in the middle of a run is said, and what can go on goes on, to the same bytes."

import json
import os
import pty
import shutil
import signal
import subprocess
import sys

import pytest

from ddnb.base.check import DdnbError
from ddnb.recipe import Recipe, perform
from ddnb.recipe.needs import NEEDS
from ddnb.recipe.performing import STAGES, Performance
from ddnb.recipe.saving import trouble

from .command_line import ENV, TINY, pictures, run, set_bytes

pytestmark = pytest.mark.slow
SHORT = {
    "network": {"width": 4},
    "objective": {"name": "DM", "batch": 8},
    "prune": {"nets": 1, "epochs": 1},
    "judge": {"nets": 2, "baselines": False},
    "steps": 4,
}


def recipe(source="digits"):
    return Recipe.of(SHORT | {"data": {"source": str(source), "size": 8}})


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "Two finished runs with other seeds, and their folder."
    box = tmp_path_factory.mktemp("two")
    for seed in (0, 1):
        list(perform(recipe().but({"seed": seed}), box / str(seed), log=None))
    return box


@pytest.mark.parametrize(
    "name", ["results.json", "results.md", "distilled.safetensors", "distilled.png"]
)
def test_files_of_another_run_are_named_and_made_again(two, tmp_path, name):
    shutil.copytree(two / "0", tmp_path / "run")
    shutil.copy(two / "1" / name, tmp_path / "run" / name)
    if name == "distilled.safetensors":
        shutil.copy(two / "1" / "card.json", tmp_path / "run" / "card.json")
    said = []
    records = list(perform(recipe(), tmp_path / "run", log=said.append))
    assert any("another run" in text for text in said), said
    assert not [r for r in records if r["stage"] in ("distil", "judge") and "step" in r]
    assert set_bytes(tmp_path / "run") == set_bytes(two / "0")
    again = Performance(recipe(), tmp_path / "run", log=None)
    assert trouble(tmp_path / "run", again.digest) is None


def test_the_run_is_named_in_every_log_result_and_cell(two):
    made = Performance(recipe(), two / "0", log=None)
    logs = [p.read_text().splitlines() for p in (two / "0").rglob("records.jsonl")]
    assert logs and all(json.loads(lines[0])["recipe"] == made.digest for lines in logs)
    assert json.loads((two / "0" / "results.json").read_text())["run"] == made.digest
    for p in (two / "0" / "judged").glob("network-*.json"):
        assert len(json.loads(p.read_text())["key"]) == 64


def test_a_judged_network_of_another_run_is_named_and_trained_again(two, tmp_path):
    shutil.copytree(two / "0", tmp_path / "run")
    theirs = sorted((two / "1" / "judged").glob("network-*.json"))[0]
    ours = sorted((tmp_path / "run" / "judged").glob("network-*.json"))[0]
    shutil.copy(theirs, ours)
    (tmp_path / "run" / "results.json").unlink()
    with pytest.warns(UserWarning, match=f"{ours.stem} belongs to another run"):
        list(perform(recipe(), tmp_path / "run", log=None))
    was = json.loads((two / "0" / "results.json").read_text())["results"][0]["accuracy"]
    is_ = json.loads((tmp_path / "run" / "results.json").read_text())["results"][0]["accuracy"]
    assert was == is_


def test_a_log_of_another_run_is_not_told_as_ours(two, tmp_path):
    shutil.copytree(two / "0", tmp_path / "run")
    log = "run/records.jsonl"
    shutil.copy(two / "1" / log, tmp_path / "run" / log)
    (tmp_path / "run" / "results.json").unlink()
    with pytest.warns(UserWarning, match="another run"):
        list(perform(recipe(), tmp_path / "run", log=None))
    assert "The log of the steps is lost" in (tmp_path / "run" / "results.md").read_text()
    assert set_bytes(tmp_path / "run") == set_bytes(two / "0")


def test_the_data_may_go_once_they_are_read(tmp_path):
    pets = pictures(tmp_path / "pets")
    list(perform(recipe(pets), tmp_path / "calm", log=None))
    for record in perform(recipe(pets), tmp_path / "wild", log=None):
        if record["stage"] == "distil" and pets.exists():
            pets.rename(tmp_path / "gone")
    assert set_bytes(tmp_path / "calm") == set_bytes(tmp_path / "wild")


def test_the_run_folder_may_go_while_it_is_written(two, tmp_path):
    "What was in it is lost and said; the rest is written, and the folder knows itself."
    with pytest.warns(UserWarning, match="removed while"):
        for record in perform(recipe(), tmp_path / "run", log=None):
            if record["stage"] == "distil" and record.get("step") == 2:
                shutil.rmtree(tmp_path / "run")
    assert set_bytes(tmp_path / "run") == set_bytes(two / "0")
    assert (tmp_path / "run" / "recipe.json").is_file()


def test_a_cache_may_go_while_its_images_are_used(tmp_path):
    from ddnb.data import load

    pets = pictures(tmp_path / "pets")
    data = load(pets, size=8, cache=tmp_path / "cache")
    print_ = data.fingerprint
    shutil.rmtree(tmp_path / "cache")
    assert data.train.x.float().mean() > 0 and data.fingerprint == print_
    assert load(pets, size=8, cache=tmp_path / "cache").fingerprint == print_


def test_room_for_all_stages_is_asked_for_before_the_first(tmp_path, monkeypatch):
    from collections import namedtuple

    assert set(NEEDS) == set(STAGES)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda p: usage(10**9, 10**9, 60_000))
    with pytest.raises(DdnbError, match="This needs .* but only 60"):
        list(perform(recipe(), tmp_path / "run", log=None))
    assert not list((tmp_path / "run").glob("[a-z]*"))
    monkeypatch.undo()
    monkeypatch.setattr("ddnb.recipe.needs.available", lambda: 10)
    with pytest.raises(DdnbError, match="of memory but only 10 B are free"):
        list(perform(recipe(), tmp_path / "run", log=None))
    list(perform(recipe(), tmp_path / "run", log=None, force=True))


def in_a_terminal(folder, hangs_up, heard):
    "A demo whose terminal is closed once it has begun; its exit status."
    master, slave = pty.openpty()
    argv = [sys.executable, "-c", "import sys; from ddnb.cli import main; sys.exit(main())"]
    argv += ["demo", "--out", str(folder), *TINY]
    deaf = (lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) if not heard else None
    p = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=ENV, preexec_fn=deaf)
    os.close(slave)
    told = b""
    while b"Prune" not in told:  # the first stage has begun
        told += os.read(master, 1000)
    os.close(master)
    if hangs_up:
        p.send_signal(signal.SIGHUP)
    return p.wait(timeout=300)


def test_a_run_that_was_told_to_outlive_its_terminal_does(tmp_path):
    assert in_a_terminal(tmp_path / "run", hangs_up=True, heard=False) == 0
    assert (tmp_path / "run" / "results.json").is_file()


def test_a_closed_terminal_stops_a_run_that_goes_on_later(tmp_path):
    code = in_a_terminal(tmp_path / "run", hangs_up=True, heard=True)
    assert code in (0, 75)
    assert run("demo", "--out", tmp_path / "run", *TINY)[0] == 0
    assert (tmp_path / "run" / "results.json").is_file()
