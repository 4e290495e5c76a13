"""Recipes carried out: every objective, killed in every stage and gone on with, made again
from the card.
"""

import pytest
import torch

from ddnb.base.check import DdnbError
from ddnb.recipe import Performance, Recipe, perform
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


@pytest.mark.slow
def test_latents_from_the_command_with_a_prior_of_either_kind(tmp_path):
    from ddnb.base.rng import rng
    from ddnb.latent import Prior

    made = Prior.random("ldm", generator=rng(0), channels=1, size=8, classes=10, width=16)
    words = "--objective DM --objective.batch 8 --network.width 4 --steps 2 --judge.nets 1"
    words += " --prune.keep 1 --judge.baselines false --syn latents --syn.steps 1"
    priors = {
        "read": ["--prior", made.save(tmp_path / "prior")],
        "own": ["--syn.training", "[2,2]"],
    }
    for name, prior in priors.items():
        code, out, err = run("run", *words.split(), *prior, "--out", tmp_path / name)
        assert code == 0, err
        found = load(tmp_path / name)
        assert set(found.extra) == {"z", "noise", "c"} and found.card["recipe"]["syn"]["steps"] == 1
    assert set_bytes(tmp_path / "read") != set_bytes(tmp_path / "own")


def test_where_all_images_stay_nobody_scores(tmp_path):
    seen = list(perform(short("DM", prune={"keep": 1}), tmp_path, log=None))
    assert not [r for r in seen if r["stage"] == "prune" and "step" in r]
    assert not (tmp_path / "scored").exists()


def test_in_memory_what_was_made_is_not_made_again():
    run = Performance(short("MTT"), log=None)
    first = list(run.until("distil"))
    x = run.images()[0]
    again = [r["stage"] for r in run.until("distil") if "step" in r]
    assert {r["stage"] for r in first if "step" in r} == {"prune", "record", "distil"}
    assert set(again) == {"distil"} and torch.equal(run.images()[0], x)
    run.take(short("MTT", seed=1))
    assert "record" in {r["stage"] for r in run.until("distil") if "step" in r}


def test_in_memory_and_in_a_folder_are_the_same_bytes(tmp_path):
    run = Performance(short("DM"), log=None)
    list(run.until("distil"))
    list(perform(short("DM"), tmp_path, log=None))
    assert torch.equal(load(tmp_path).x, run.images()[0])


def test_images_that_are_loaded_already(tmp_path):
    from ddnb.data import load as load_data

    data = load_data("digits")
    run = Performance(short("DM"), tmp_path / "own", data=data, log=None)
    list(run)
    list(perform(short("DM"), tmp_path / "named", log=None))
    assert set_bytes(tmp_path / "own") == set_bytes(tmp_path / "named")


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


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["rded", "rd3", "minimax"])
def test_a_protocol_that_asks_a_teacher_gets_one(protocol):
    judge = {"nets": 1, "baselines": False, "protocol": protocol, "epochs": 3}
    run = Performance(short("DM", judge=judge), log=None)
    list(run.until("judge"))
    assert run.results.protocol == protocol and len(run.teachers) == (protocol != "minimax")
    kept = dict(run.teachers)
    list(run.until("judge"))
    assert run.teachers == kept, "the teacher learns once"


@pytest.mark.slow
def test_experts_and_judges_by_several_processes_are_the_same_bytes(tmp_path, monkeypatch):
    short("MTT").write(tmp_path / "recipe.yaml")
    for name, more in {"one": (), "two": ("--engine", "local", "--workers", 2)}.items():
        out = tmp_path / name
        monkeypatch.setenv("DDNB_CACHE", str(tmp_path / f"cache of {name}"))
        code, said, err = run("run", tmp_path / "recipe.yaml", "--out", out, *more)
        assert code == 0, err
        assert ("pieces by several processes" in said) == (name == "two")
    assert set_bytes(tmp_path / "one") == set_bytes(tmp_path / "two")
    told = [(tmp_path / name / "results.md").read_text() for name in ("one", "two")]
    assert told[0] == told[1]
    names = [{p.name for p in (tmp_path / n).rglob("*")} for n in ("one", "two")]
    assert not [name for name in names[1] if name.startswith("part-")], "nothing of them is left"
    assert names[0] - names[1] <= {"previous.safetensors"} and names[1] <= names[0]
