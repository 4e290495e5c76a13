"""Recipes carried out: every objective, killed in every stage and gone on with, made again
from the card.
"""

import pytest

from ddnb.base.check import DdnbError
from ddnb.recipe import Recipe, perform
from ddnb.share import load

from .command_line import run, set_bytes

SHORT = {
    "network": {"width": 4},
    "prune": {"nets": 1, "epochs": 1},
    "experts": {"n": 2},
    "judge": {"nets": 2, "baselines": False},
    "steps": 4,
    "repeats": 1,
}
LATENTS = {"name": "latents", "steps": 2, "training": [6, 6]}
WAYS = {
    "IADD": {"objective": {"name": "IADD", "steps": 2, "max_start": 1, "expert_epochs": 1}},
    "MTT": {"objective": {"name": "MTT", "steps": 2, "max_start": 1, "expert_epochs": 1}},
    "DM": {"objective": {"name": "DM", "batch": 8}},
    "DC": {"objective": {"name": "DC", "batch": 8}},
    "DM through latents": {"objective": {"name": "DM", "batch": 8}, "syn": LATENTS},
}


def short(way, **more):
    return Recipe.of(SHORT | WAYS[way] | more)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_interrupted_in_every_stage_and_has_the_same_bytes(way, tmp_path):
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    seen = {r["stage"] for r in perform(short(way), calm, log=None)}
    for stage in seen - {"save"}:
        for record in perform(short(way), wild, log=None):
            if record["stage"] == stage and "step" in record:
                break
    list(perform(short(way), wild, log=None))
    assert set_bytes(calm) == set_bytes(wild)
    assert list(perform(short(way), wild, log=None)) == []


@pytest.mark.slow
@pytest.mark.parametrize("way", ["DM", "DM through latents"])
def test_a_set_is_made_again_from_its_card(way, tmp_path):
    list(perform(short(way), tmp_path / "made", log=None))
    (tmp_path / "made" / "recipe.yaml").unlink()
    code, _, err = run("run", tmp_path / "made", "--out", tmp_path / "again")
    assert code == 0, err
    assert set_bytes(tmp_path / "made") == set_bytes(tmp_path / "again")
    assert Recipe.of(load(tmp_path / "again").card["recipe"]) == short(way)


def test_records_name_their_stage_and_what_it_took(tmp_path):
    records = list(perform(short("DM"), tmp_path, log=None))
    took = [r["stage"] for r in records if "took" in r]
    assert took == ["prune", "distil", "judge", "save"]
    assert [r["step"] for r in records if r["stage"] == "distil" and "step" in r] == [1, 2, 3, 4]


def test_soft_labels_and_sgd_are_settings_like_others(tmp_path):
    soft = {"syn": {"name": "pixels", "learn_labels": True, "init": "mean"}, "steps": 2}
    soft["judge"] = {"nets": 1, "baselines": True}
    recipe = short("DC", **soft, optimiser={"name": "SGD", "lr": 0.01, "schedule": None})
    list(perform(recipe, tmp_path, log=None))
    made = load(tmp_path)
    assert made.soft
    rival = "random real + a teacher's soft labels, 1 per class"
    assert rival in [m["train"] for m in made.card["metrics"]] and rival in made.card["verdicts"][0]


def test_another_recipe_is_refused_where_one_is_under_way(tmp_path):
    for record in perform(short("DM"), tmp_path, log=None):
        if record["stage"] == "judge":
            break
    with pytest.raises(DdnbError, match="seed was 0 and is now 1"):
        list(perform(short("DM", seed=1), tmp_path, log=None))


def test_a_recipe_is_asked_for_by_name(tmp_path):
    with pytest.raises(DdnbError, match="Recipe"):
        list(perform({"ipc": 1}, tmp_path))
