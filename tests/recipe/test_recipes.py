"A recipe is plain data that checks itself: what is wrong is one sentence before anything happens."

import subprocess
import sys

import pytest

from ddnb.base.check import DdnbError
from ddnb.recipe import Recipe, rows
from ddnb.recipe.performing import Performance, stages_of
from ddnb.recipe.recipe import choice_rows
from ddnb.recipe.settings import docments, options_of
from ddnb.trajectory import OBJECTIVES

MTT = {"name": "MTT", "max_start": 4}

# settings -> what the sentence names
BAD = {
    "a word": ("digits", "settings by name"),
    "no image left to train on": ({"data": {"valid": 1}}, "data.valid is 1"),
    "one class only": ({"data": {"only": [3]}}, "data.only is .3."),
    "a cut that there is not": ({"prune": {"per": "image"}}, "prune.per is 'image'.*'class'"),
    "experts without a rate": ({"experts": {"lr": 0}}, "experts.lr is 0"),
    "a figure in words": ({"published": {"accuracy": "good"}}, "published.accuracy is 'good'"),
    "an unknown part": ({"dta": {}}, "dta.*'data'"),
    "an unknown setting": ({"data": {"sze": 8}}, "data.sze.*'size'"),
    "a part that is a number": ({"prune": 0.5}, "prune is 0.5"),
    "a size in words": ({"data": {"size": "big"}}, "data.size is 'big'"),
    "a size no network takes": ({"data": {"size": 2}}, "data.size is 2"),
    "a flag in words": ({"data": {"skip": "yes"}}, "data.skip is 'yes'"),
    "nothing kept": ({"prune": {"keep": 0}}, "prune.keep is 0"),
    "percent": ({"prune": {"keep": 60}}, "prune.keep is 60.*0.6"),
    "a share in words": ({"prune": {"keep": "half"}}, "prune.keep is 'half'.*auto"),
    "no scorers": ({"prune": {"nets": 0}}, "prune.nets is 0"),
    "half an expert": ({"experts": {"n": 1.5}}, "experts.n is 1.5"),
    "an unknown objective": ({"objective": "MMT"}, "objective.name is 'MMT'.*'MTT'"),
    "an objective without name": ({"objective": {"batch": 3}}, "IADD"),
    "another objective's option": ({"objective": {"name": "DM", "mode": "mask"}}, "objective.mode"),
    "no batch": ({"objective": {"name": "DM", "batch": 0}}, "objective.batch is 0"),
    "a batch in words": ({"objective": {"name": "DC", "batch": "all"}}, "objective.batch is 'all'"),
    "an unknown mode": ({"objective": {"name": "IADD", "mode": "men1"}}, "mode.*'mean1'"),
    "an unknown augmentation": ({"objective": {"name": "DM", "aug": "autoagu"}}, "autoaug"),
    "a start in words": ({"objective": {"name": "MTT", "max_start": "x"}}, "max_start is 'x'"),
    "a window beyond the recording": ({"experts": {"epochs": 5}, "objective": MTT}, "epoch 5"),
    "a window that ends before it begins": (
        {"objective": MTT | {"min_start": 6}},
        "from epoch 6 to 4",
    ),
    "an unknown parameterisation": ({"syn": "latent"}, "'latents'"),
    "an unknown start": ({"syn": {"name": "pixels", "init": "reel"}}, "syn.init is 'reel'.*'real'"),
    "a prior that is not there": ({"syn": {"name": "latents", "folder": "./no"}}, "syn.folder"),
    "no sampling steps": ({"syn": {"name": "latents", "steps": 0}}, "syn.steps is 0"),
    "an unknown optimiser": ({"optimiser": {"name": "adam2"}}, "optimiser.name.*'Adam'"),
    "a rate of nothing": ({"optimiser": {"lr": 0}}, "optimiser.lr is 0"),
    "judged on what it was made from": ({"judge": {"split": "train"}}, "judge.split is 'train'"),
    "no images": ({"ipc": 0}, "ipc is 0"),
    "a negative seed": ({"seed": -1}, "seed is -1"),
    "the future": ({"version": 99}, "version 99"),
}

# these need the images, or at least the rooms that know the names
IMPOSSIBLE = {
    "more images than a class has": ({"ipc": 500}, "500"),
    "more images than pruning leaves": ({"ipc": 10, "prune": {"keep": 0.05}}, "10 are needed"),
    "an unknown data set": ({"data": {"source": "digit"}}, "digits"),
    "an unknown device": ({"device": "gpu"}, "'gpu'"),
    "an unknown augmentation of experts": ({"experts": {"aug": "flipp"}}, "flip"),
    "classes of no folder": ({"data": {"only": [0, 1]}}, "only"),
    "an unknown network": ({"network": {"name": "ConvNot"}}, "'ConvNet'"),
    "an unknown judge": ({"judge": {"networks": ["ConvNot"]}}, "'ConvNet'"),
    "an unknown protocol": ({"judge": {"protocol": "mt"}}, "'mtt'"),
    "an unknown score": ({"prune": {"score": "los"}}, "'loss'"),
    "an unknown order": ({"prune": {"order": "easyest"}}, "'easy'"),
}


def one_sentence(error, names):
    assert error.match(rf"(?s){names}")
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_is_one_sentence(name):
    given, names = BAD[name]
    with pytest.raises(DdnbError) as error:
        Recipe.of(given)
    one_sentence(error, names)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_contradicts_the_images_is_refused_before_anything_is_computed(name, tmp_path):
    given, names = IMPOSSIBLE[name]
    recipe = Recipe.of(given)
    with pytest.raises(DdnbError) as error:
        Performance(recipe, tmp_path)
    one_sentence(error, names)
    assert not list(tmp_path.iterdir())


def test_yaml_there_and_back(tmp_path):
    recipe = Recipe.of({"ipc": 10, "objective": MTT, "syn": "latents", "optimiser": {"lr": 1e-3}})
    assert Recipe.read(recipe.write(tmp_path / "r.yaml")) == recipe
    (tmp_path / "s.yaml").write_text("optimiser: {lr: 1e-3}\nprune: {keep: auto}\n")
    read = Recipe.read(tmp_path / "s.yaml")
    assert (read.optimiser.lr, read.prune.keep) == (0.001, "auto")


@pytest.mark.parametrize("text", ["{: [", "- 1\n- 2\n", "words", "\x00", "1: 2\n"])
def test_a_file_that_is_no_recipe_is_named(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(DdnbError, match="r.yaml"):
        Recipe.read(tmp_path / "r.yaml")


def test_settings_are_changed_by_their_full_names():
    recipe = Recipe.of({"objective": MTT}).but({"objective.alpha": 0.1, "data.size": 16})
    assert recipe.objective.options == {"max_start": 4, "alpha": 0.1} and recipe.data.size == 16
    other = recipe.but({"objective.name": "DM", "objective.batch": 8})
    assert other.objective.plain() == {"name": "DM", "batch": 8}
    with pytest.raises(DdnbError, match="'batch'"):
        other.but({"objective.batsh": 8})


def test_every_setting_has_a_default_that_passes_its_check_and_a_help():
    plain = Recipe().flat()
    for row in rows():
        assert row.help and plain[row.name] == row.default
        assert row.check is None or row.check(row.name, row.default) == row.default
    assert all(row.help for row in choice_rows())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_known_with_its_options(name):
    assert name in Recipe.of({"objective": name}).objective.plain().values()
    assert {"batch", "aug"} <= set(options_of(OBJECTIVES[name]))


def test_comments_are_read_beside_arguments_and_fields():
    def f(
        a,  # first
        b=(1, 2),  # second
        *,
        c=None,
    ): ...

    assert docments(f) == {"a": "first", "b": "second", "c": ""}


def test_stages_follow_the_recipe():
    assert stages_of(Recipe()) == ["prune", "record", "distil", "judge", "save"]
    through = stages_of(Recipe.of({"objective": "DM", "syn": "latents"}))
    assert through == ["prune", "prior", "distil", "judge", "save"]


def test_a_table_of_settings_needs_no_torch():
    code = "import sys; from ddnb.recipe import rows; list(rows()); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
