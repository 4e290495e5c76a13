"Every preset runs from end to end, shortened by settings, on images of its form."

import re

import numpy as np
import pytest

from ddnb.base.rng import rng
from ddnb.latent import Prior
from ddnb.recipe import Recipe, perform
from ddnb.recipe.presets import preset, presets
from ddnb.recipe.recipe import Published, changed
from ddnb.share import load

from .command_line import run

SHORT = {
    "network.width": 4,
    "prune.epochs": 1,
    "prune.nets": 1,
    "experts.n": 1,
    "experts.epochs": None,
    "repeats": 1,
    "judge.nets": 1,
    "judge.epochs": 1,
    "judge.networks": None,
    "steps": 2,
    "ipc": 1,
    "device": "cpu",
}
TRAJECTORY = {"objective.steps": 2, "objective.batch": None, "objective.max_start": 1}
SHORTER = {
    "IADD": TRAJECTORY,
    "MTT": TRAJECTORY,
    "DM": {"objective.batch": 2},
    "DC": {"objective.batch": 2},
    "latents": {"syn.steps": 2, "syn.class_ids": None, "data.only": None},
    "generated": {"syn.sampling": 2, "syn.class_ids": None, "data.only": None, "syn.size": 32},
}
FIGURE = re.compile(r"\d\d?\.\d ± \d\.\d")


def images_of(name, folder):
    "A file with images of the form that a preset is about, two classes of them."
    _, channels, side, _ = Recipe.of(without_folder(name)).published.images or (0, 1, 8, 0)
    g = np.random.default_rng(0)

    def some(n):
        x = g.integers(0, 255, (n, channels, side, side)).astype("uint8")
        x[::2, :, : side // 2] //= 4
        return x, np.arange(n) % 2

    parts = {"train": some(12), "valid": some(4), "test": some(4)}
    arrays = {f"{v}_{s}": a for s, pair in parts.items() for v, a in zip("xy", pair)}
    np.savez(folder / "images.npz", **arrays)
    return folder / "images.npz"


def without_folder(name):
    given = preset(name)
    given.get("syn", {}).pop("folder", None)
    return given


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    "A small prior that has learned nothing, where a published one would be."
    folder = tmp_path_factory.mktemp("prior") / "random"
    made = Prior.random("ldm", generator=rng(0), channels=3, size=16, classes=2, width=16)
    return made.save(folder)


@pytest.mark.parametrize("name", presets())
def test_a_preset_runs(name, tmp_path, prior):
    recipe = Recipe.of(without_folder(name))
    short = SHORT | SHORTER[recipe.objective.name] | SHORTER.get(recipe.syn.name, {})
    if {"outer", "inner"} <= {*recipe.objective.options}:
        short |= {"objective.outer": 2, "objective.inner": 1}
    source = {"data.source": str(images_of(name, tmp_path))}
    if name != "mtt-cifar10-ipc1":  # whitening takes half a minute, once is enough
        source["data.zca"] = False
    if recipe.syn.needs_prior:
        source["syn.folder"] = str(prior)
    short |= {"steps": 0} if recipe.steps == 0 else {}
    recipe = Recipe.of(changed(preset(name), short | source))
    list(perform(recipe, tmp_path / "out", log=None))
    made = load(tmp_path / "out")
    assert len(made) == 2 and made.card["objective"] == (
        recipe.objective.name if recipe.steps else "none"
    )


def test_a_preset_is_a_word_of_the_command(tmp_path):
    short = "--steps 2 --experts.n 1 --network.width 4 --judge.nets 1 --prune.epochs 1"
    code, out, err = run("run", "digits", *short.split(), "--out", tmp_path / "out")
    assert code == 0 and load(tmp_path / "out").card["hyper"]["steps"] == 2, err


@pytest.mark.parametrize("name", presets())
def test_a_preset_says_where_its_figure_is_from_and_what_it_needs(name):
    p = Recipe.of(without_folder(name)).published
    assert p.files and (p.images or name in ("digits", "shapes"))
    if p.figure:
        assert FIGURE.fullmatch(p.figure) and re.search(r"arXiv \d{4}\.\d{5}", p.source)
    elif p.images:
        assert p.note, "why there is no figure"


def test_the_figure_goes_with_the_settings():
    recipe = Recipe.of(preset("mtt-cifar10-ipc1"))
    same = recipe.but({"seed": 1, "device": "cpu"})
    assert same.published.figure == "46.3 ± 0.8"
    other = recipe.but({"steps": 5}).published
    assert other.figure == "" and other.files and other.images
    assert "published" not in Recipe().plain() and Recipe().published == Published()


def test_presets_are_listed_and_shown(capsys):
    code, out, _ = run("presets")
    assert code == 0 and all(name in out for name in presets())
    assert re.search(r"mtt-cifar10-ipc1 +46\.3 ± 0\.8 ", out)
    code, out, _ = run("presets", "digits")
    assert code == 0 and "objective:" in out and "Files:" in out


def test_a_preset_without_its_images_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("run", "mtt-tiny-imagenet-ipc1", "--steps", "2")
    assert code == 1 and "tiny-imagenet/train/CLASS" in err and err.count("\n") == 1
    code, _, err = run("run", "mtt-cifar10-ipc2")
    assert code == 1 and "'mtt-cifar10-ipc" in err
