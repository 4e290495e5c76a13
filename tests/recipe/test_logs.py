"Logs for others: every record once, after a kill too; nothing of the run changes."

import csv
import json

import pytest

from ddnb.base.check import DdnbError
from ddnb.recipe import Recipe
from ddnb.recipe.logs import Logs, read_log
from ddnb.recipe.performing import Performance

SHORT = {
    "objective": "DM",
    "steps": 6,
    "network": {"width": 4},
    "prune": {"nets": 1, "epochs": 1},
    "judge": {"nets": 1, "baselines": False},
    "repeats": 2,
}


def performed(folder, kinds):
    run = Performance(Recipe.of(SHORT), folder, log=None, shelf=None)
    records = Logs(folder, kinds).along(run) if kinds else run
    for _ in records:
        pass
    return folder


def rows(path):
    with open(path) as f:
        return list(csv.DictReader(f))


def test_csv_has_every_record_and_the_set_its_bytes(tmp_path):
    bare, logged = performed(tmp_path / "a", []), performed(tmp_path / "b", ["csv"])
    name = "distilled.safetensors"
    assert (bare / name).read_bytes() == (logged / name).read_bytes()
    for part in ("run", "run-1"):
        records = read_log(logged / part / "records.jsonl")
        found = rows(logged / "log" / f"{part}.csv")
        assert [int(r["step"]) for r in found] == list(range(1, 7))
        assert [float(r["loss"]) for r in found] == [r["loss"] for r in records]


def test_a_step_made_twice_is_told_once(tmp_path):
    (tmp_path / "run").mkdir()
    lines = [{"step": s, "loss": float(s)} for s in (1, 2, 3)] + [{"step": 2, "loss": 9.0}]
    (tmp_path / "run" / "records.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for _ in Logs(tmp_path, ["csv"]).along([{"took": 1.0}]):
        pass
    assert [r["loss"] for r in rows(tmp_path / "log" / "run.csv")] == ["1.0", "9.0"]


def test_a_log_of_another_kind_is_refused_by_name(tmp_path):
    with pytest.raises(DdnbError, match="csv, tensorboard"):
        Logs(tmp_path, ["wandb"])


def test_tensorboard_has_every_record_once_however_often_it_is_begun(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tmp_path / "run").mkdir()
    lines = [{"step": s, "loss": 1 / s, "W": {"first": {"mean": 2.0}}} for s in range(1, 9)]
    for n in (5, 8):  # killed after five, gone on with
        text = "\n".join(map(json.dumps, lines[:n]))
        (tmp_path / "run" / "records.jsonl").write_text(text)
        for _ in Logs(tmp_path, ["tensorboard"]).along([{"took": 1.0}]):
            pass
    seen = events.EventAccumulator(str(tmp_path / "log" / "tensorboard" / "run"))
    seen.Reload()
    assert [e.step for e in seen.Scalars("loss")] == list(range(1, 9))
    assert seen.Scalars("W/first")[-1].value == 2.0
