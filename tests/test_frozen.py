"""Files of the first version of the format, as it wrote them: read for ever, byte for byte.

A change that cannot read them raises FORMAT, keeps reading version 1, and adds a folder here.
"""

import json
import shutil
from pathlib import Path

import pytest

from ddnb.base.check import DdnbError
from ddnb.base.checkpoint import Checkpoint, Log
from ddnb.base.files import FORMAT, sha256
from ddnb.judge import Results
from ddnb.prune import Kept
from ddnb.recipe import Recipe
from ddnb.recipe.folders import identity_in
from ddnb.recipe.saving import trouble
from ddnb.share import load, read, to_markdown

FROZEN = Path(__file__).parent / "frozen" / "format1"
SETS = {
    ".": "8280ba9a69ec35b9",
    "soft": "d09abd1180e4a182",
    "imagefolder": "5d13bd22172da27b",
    "mtt": "4dbda62bc16ec972",
    "parquet": "a07508a29adb2864",
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_the_first_version_has_its_numbers(name):
    d = read(FROZEN / name)
    assert sha256(d.x, d.y, d.classes)[:16] == SETS[name]
    assert to_markdown(d)


def test_the_card_of_the_first_version_says_what_it_said():
    d = load(FROZEN)
    assert json.loads((FROZEN / "card.json").read_text())["format"] == 1 <= FORMAT
    assert d.card["data"]["name"] == "digits" and d.card["metrics"][0]["n"] == 2
    assert Recipe.of(d.card["recipe"]) == Recipe.read(FROZEN / "recipe.yaml")
    soft = load(FROZEN / "soft")
    assert (
        soft.classes == ["犬", "a|b"] and soft.alpha == 0.5 and soft.extra["W"].tolist() == [1] * 3
    )


def test_a_run_folder_of_the_first_version_is_understood(tmp_path):
    assert identity_in(FROZEN)["objective.name"] == "DM"
    done = json.loads((FROZEN / "results.json").read_text())
    assert Results.from_json(FROZEN / "results.json").cell()["n"] == 2
    for picture in ("distilled.png", "curves.png"):
        done["files"].pop(picture)  # pictures are not kept here
    shutil.copytree(FROZEN, tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text(json.dumps(done))
    assert trouble(tmp_path / "run", done["run"]) is None
    state, card = Checkpoint(FROZEN / "run").read()
    assert card["step"] == 3 and state
    head = json.loads((FROZEN / "run" / "records.jsonl").read_text().splitlines()[0])
    log = Log(tmp_path / "run" / "run" / "records.jsonl", head["run"], head["recipe"])
    assert [r["step"] for r in log.cut(3)] == [1, 2, 3]
    assert head["recipe"] == done["run"]
    kept = Kept.from_json(FROZEN / "kept.json")
    assert len(kept) == sum(kept.counts)
    pieces = [json.loads(p.read_text()) for p in (FROZEN / "judged").glob("*.json")]
    assert len({p["key"] for p in pieces}) == 1 and sorted(p["seed"] for p in pieces) == [0, 1]


@pytest.mark.parametrize("version", [FORMAT + 1, 99, 0, -1, True, "1", None, 10**400])
def test_versions_from_the_future_are_refused(version, tmp_path):
    shutil.copytree(FROZEN / "soft", tmp_path / "set")
    card = json.loads((tmp_path / "set" / "card.json").read_text()) | {"format": version}
    (tmp_path / "set" / "card.json").write_text(json.dumps(card))
    with pytest.raises(DdnbError, match="format version"):
        load(tmp_path / "set")
    shutil.copytree(FROZEN / "imagefolder", tmp_path / "pictures")
    note = json.loads((tmp_path / "pictures" / "ddnb.json").read_text()) | {"format": version}
    (tmp_path / "pictures" / "ddnb.json").write_text(json.dumps(note))
    with pytest.raises(DdnbError, match="format version"):
        read(tmp_path / "pictures")
