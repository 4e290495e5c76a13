"Sets that a prior makes: from a recipe, with and without a step, kept, foretold, resumed."

import pytest
import torch

from ddnb.base.rng import rng
from ddnb.latent import Prior
from ddnb.recipe import Performance, Recipe, perform
from ddnb.recipe.costs import costs
from ddnb.recipe.performing import stages_of
from ddnb.share import load

from .command_line import run

SMALL = {
    "data": {"source": "digits"},
    "prune": {"keep": 1},
    "network": {"width": 4, "depth": 2},
    "judge": {"nets": 1, "baselines": False},
    "ipc": 2,
    "repeats": 1,
    "seed": 3,
}


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    "One that has learned nothing."
    made = Prior.random("ldm", generator=rng(0), channels=1, size=8, width=16)
    return str(made.save(tmp_path_factory.mktemp("prior") / "random"))


def recipe(prior, how="modes", **more):
    syn = {"name": "generated", "how": how, "sampling": 4, "folder": prior}
    return Recipe.of(SMALL | {"steps": 0, "syn": syn} | more)


def test_stages_of_sets_that_are_made(prior):
    plain = recipe(prior)
    assert stages_of(plain) == ["prune", "prior", "generate", "distil", "judge", "save"]
    learned = recipe(prior, steps=5, objective={"name": "MTT", "max_start": 1})
    assert "record" in stages_of(learned)
    begun = recipe(prior, syn={"name": "latents", "init": "modes", "folder": prior})
    assert "generate" in stages_of(begun)
    real = recipe(prior, syn={"name": "latents", "folder": prior})
    assert "generate" not in stages_of(real)


@pytest.mark.parametrize("how", ["samples", "modes", "pruned"])
def test_a_set_is_made_and_not_optimised(how, prior, tmp_path):
    stages = {r["stage"] for r in perform(recipe(prior, how), tmp_path / "a", log=None)}
    made = load(tmp_path / "a")
    assert "record" not in stages and made.card["objective"] == "none" and len(made) == 20
    assert made.card["hyper"]["initial"] == how
    assert f"not optimised, {how}" in (tmp_path / "a" / "results.md").read_text()
    assert not list(perform(recipe(prior, how), tmp_path / "a", log=None))
    list(perform(recipe(prior, how), tmp_path / "b", log=None))
    assert torch.equal(load(tmp_path / "b").x, made.x)


def test_steps_go_on_from_what_was_made(prior, tmp_path):
    dm = {"objective": {"name": "DM", "batch": 4}}
    list(perform(recipe(prior), tmp_path / "still", log=None))
    list(perform(recipe(prior, **dm, steps=3), tmp_path / "moved", log=None))
    assert not torch.equal(load(tmp_path / "moved").x, load(tmp_path / "still").x)
    assert "distilled by DM from modes" in (tmp_path / "moved" / "results.md").read_text()
    through = {"name": "latents", "init": "modes", "folder": prior, "steps": 2}
    two = recipe(prior, syn=through, **dm, steps=2, repeats=2)
    list(perform(two, tmp_path / "through", log=None))
    assert {p.name for p in (tmp_path / "through").glob("generated*")} == {
        "generated",
        "generated-1",
    }


def test_a_run_stopped_after_making_does_not_make_again(prior, tmp_path):
    for record in perform(recipe(prior), tmp_path, log=None):
        if record["stage"] == "distil":
            break
    work = Performance(recipe(prior), tmp_path, log=None)
    made = [r for r in work if r["stage"] == "generate" and "step" in r]
    assert not made and len(load(tmp_path)) == 20


def test_costs_are_foretold(prior):
    found = dict(costs(Performance(recipe(prior, "pruned"), log=None, shelf=None)))
    assert {"generate", "distil", "judge"} <= found.keys()


def test_from_the_command(prior, tmp_path):
    words = "--prune.keep 1 --syn generated --syn.sampling 3 --steps 0 --ipc 1 --repeats 1"
    words += " --network.width 4 --judge.nets 1 --judge.baselines false"
    out = tmp_path / "out"
    code, said, err = run("run", "digits", *words.split(), "--prior", prior, "--out", out)
    assert code == 0, err
    assert "Generate." in said and "No step is asked for" in said and "not optimised, modes" in said
