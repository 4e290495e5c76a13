"Buttons carry out the recipe that is shown; stages pause, stop and go on."

import threading
import time

import ipywidgets as W
import pytest
import torch

from ddnb import data as D
from ddnb import views as V
from ddnb.base.check import DdnbError
from ddnb.recipe import PARAMETERISATIONS, Recipe, rows
from ddnb.recipe.presets import preset, presets
from ddnb.studio.forms import LISTS, Form
from ddnb.studio.pages import PAGES, of_page
from ddnb.trajectory import OBJECTIVES

from .hands import front, interrupt_the_wait, png, press, until

QUICK = {
    "network": {"width": 8},
    "prune": {"keep": 1},
    "experts": {"n": 1},
    "objective": {"name": "DM", "batch": 8},
    "steps": 2,
}
LATENTS = {"name": "latents", "steps": 1}
SHORT = dict.fromkeys(("IADD", "MTT"), {"steps": 2, "max_start": 1})
SHORT["TGDD"] = {"batch": 8, "max_start": 1, "ahead": 1}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    "What a test saves lies in a folder of its own."
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def prior(data):
    from ddnb.latent import Prior

    return Prior.random("ldm", generator=D.rng(0), channels=1, size=8, classes=10, width=16)


def studio(data, settings=None, **more):
    "A studio that is about to do something quick."
    return V.Studio(data, recipe=Recipe.of(QUICK | (settings or {})), **more)


def do(s, *pages):
    for page in pages:
        press(s.go[page])
        s.wait()
    return s


def same_images(s, **given):
    "The studio's code gives the studio's images."
    exec(s.code, given)
    return torch.equal(given["run"].images()[0], s.run.images()[0])


def hidden(s):
    "Controls that nothing on screen shows."
    seen = [
        c for front, more in s.forms.values() for c in (*front.children, *more.children[0].children)
    ]
    return {k for k, c in s.c.items() if c not in seen}


def test_every_setting_and_choice_has_a_control():
    form = Form(lambda: None)
    assert {r.name for r in rows()} - {"version"} <= set(form.c)
    on_pages = {k for page in PAGES for names in of_page(form, page) for k in names}
    assert set(form.c) == on_pages
    for name, options in {"objective.name": OBJECTIVES, "syn.name": PARAMETERISATIONS}.items():
        assert LISTS[name] == tuple(options)
        assert [value for _, value in form.c[name].options] == [*options]


@pytest.mark.parametrize("name", ["objective.name", "syn.name"])
def test_what_is_registered_later_appears_by_itself(name, monkeypatch):
    class New(torch.nn.Module):
        "A new one."

        def __init__(self, data, make=None, *, generator=None, warmth=0.5):  # warmth of it
            super().__init__()

    registry = {"objective.name": OBJECTIVES, "syn.name": PARAMETERISATIONS}[name]
    monkeypatch.setitem(registry, "New", New)
    monkeypatch.setitem(LISTS, name, tuple(registry))
    form = Form(lambda: None)
    form.c[name].value = "New"
    assert form.c[f"{name.split('.')[0]}.warmth"].value == 0.5


def test_every_preset_can_be_shown():
    form = Form(lambda: None)
    for name in presets():
        given = preset(name)
        given.get("syn", {}).pop("folder", None)
        theirs = Recipe.of(given)
        form.show(theirs)
        seen = {k: setting.default for k, setting in form.rows.items()} | form.recipe().flat()
        meant = {k: v for k, v in theirs.flat().items() if not k.startswith("published.")}
        assert {k: v for k, v in meant.items() if seen[k] != v} == {}, name


@pytest.mark.parametrize("method", OBJECTIVES)
def test_studio_code_is_what_it_runs(data, method):
    own = SHORT.get(method, {"batch": 8})
    s = do(studio(data, {"objective": {"name": method, **own}}), "Distil")
    assert same_images(s, data=data)
    assert not s.go["Save"].disabled and s.monitor.state == "done"


def test_studio_says_what_is_wrong(strict):
    s = V.Studio()
    assert s.go["Prune"].disabled and s.go["Save"].disabled
    s.c["data.source"].value = "digts"
    press(s.go["Data"])
    assert isinstance(s.problem, DdnbError) and "'digits'" in s.trouble.value.replace("&#x27;", "'")
    strict.clear()
    s.c["data.source"].value = "digits"
    press(s.go["Data"])
    assert s.problem is None and not s.go["Prune"].disabled and "digits" in s.summary()


def test_a_bad_setting_is_one_sentence_beside_the_controls(data, strict):
    s = studio(data)
    s.c["prune.keep"].value = "half"
    assert "prune.keep is" in s.codes["Prune"].value and s.problem is None
    press(s.go["Distil"])
    assert isinstance(s.problem, DdnbError) and s.running is None
    strict.clear()
    s.c["prune.keep"].value = "0.5"
    do(s, "Distil")
    assert s.problem is None and s.run.kept.share == pytest.approx(0.5, abs=0.01)


def test_other_images_have_to_be_loaded_first(strict):
    s = do(V.Studio(recipe=Recipe.of(QUICK)), "Data")
    s.c["data.size"].value = "16"
    press(s.go["Distil"])
    assert "press Load" in str(s.problem)
    strict.clear()


def test_studio_saves_what_the_command_can_make_again(data, strict):
    from ddnb.recipe import perform
    from ddnb.share import load

    s = do(studio(data, folder="mine"), "Distil", "Compare", "Save")
    mine = load("mine")
    assert torch.equal(mine.x, s.run.images()[0]) and len(mine.card["metrics"]) > 2
    again = Recipe.read("mine/recipe.yaml").but({"judge.nets": 1, "judge.baselines": False})
    list(perform(again, "again", log=None))
    assert torch.equal(load("again").x, mine.x)
    press(s.go["Save"])
    assert "holds a distilled set already" in str(s.problem)
    strict.clear()


def test_studio_shows_only_what_the_choice_needs(data, prior):
    s = studio(data)
    code = s.codes["Distil"].value
    assert {"experts.n", "optimiser.momentum"} <= hidden(s) and "&#x27;DM&#x27;" in code
    front(s.c["syn.name"], index=list(PARAMETERISATIONS).index("latents"))
    assert "syn.training" not in hidden(s) and "latents" in s.codes["Distil"].value
    s.c["objective.name"].value = "MTT"
    assert "experts.n" not in hidden(s) and "objective.max_start" in s.c
    s = studio(data, {"syn": LATENTS}, prior=prior)
    assert {"syn.training", "syn.folder"} <= hidden(s)


def test_the_picture_of_a_studio_that_is_still_reading(threads, monkeypatch):
    "Shown before the data are there: no error, and a picture."
    from ddnb.recipe import performing

    gate, read = threading.Event(), performing.images_of
    monkeypatch.setattr(performing, "images_of", lambda *a, **k: gate.wait(10) and read(*a, **k))
    s = V.Studio()
    press(s.go["Data"])
    assert png(s)[1].endswith("Data: working ...")
    gate.set()
    s.wait()
    assert s.problem is None and s.ran


@pytest.mark.parametrize("method", OBJECTIVES)
def test_studio_distils_latents_by_any_objective(data, prior, method):
    from ddnb.share import load

    own = SHORT.get(method, {"batch": 8})
    settings = {"syn": LATENTS | {"skip": "paper"}, "objective": {"name": method, **own}}
    s = do(studio(data, settings, prior=prior, folder="mine"), "Distil", "Save")
    x = s.run.images()[0]
    assert not torch.equal(x, s.monitor.gallery.shots[0]), "nothing was learned"
    kept = load("mine")
    assert torch.equal(kept.x, x) and set(kept.extra) == {"z", "noise", "c"}
    assert kept.card["recipe"]["syn"]["skip"] == "paper"


def test_studio_trains_a_prior_once_and_keeps_it(data, monkeypatch):
    settings = {"syn": LATENTS | {"training": [40, 4], "skip": "none"}}
    said = []
    monkeypatch.setattr(V.Studio, "period", 0.0)

    def watched(s):
        said.clear()
        s.sentence.observe(lambda c: said.append(c["new"]), "value")
        return do(s, "Distil")

    s = watched(studio(data, settings))
    assert s.run.syn.sampler.skip is None and s.steering.layout.display == "none"
    assert any("autoencoder" in t for t in said) and same_images(s, data=data)
    watched(s)
    assert not any("autoencoder" in t for t in said)
    again = watched(studio(data, settings))
    assert not any("autoencoder" in t for t in said), "it lies in the folder"
    assert torch.equal(again.run.images()[0], s.run.images()[0])


def test_studio_prunes_then_learns_latents_of_a_folder(data, prior, tmp_path):
    prior.save(tmp_path / "prior")
    settings = {"syn": LATENTS, "prune": {"nets": 1, "epochs": 1}}
    s = studio(data, settings, prior=tmp_path / "prior")
    s.c["syn.folder"].value = str(tmp_path / "prior")
    do(s, "Prune")
    s.explorer.c_keep.value = 0.5
    assert s.c["prune.keep"].value == "0.5"
    do(s, "Distil")
    assert len(s.run.small.train) < 0.51 * len(data.train)
    assert s.monitor.state == "done" and s.run.prior is not prior


def test_studio_says_what_is_wrong_with_a_prior(data, tmp_path, strict):
    with pytest.raises(DdnbError, match="prior is a int"):
        V.Studio(data, prior=3)
    s = studio(data, prior=str(tmp_path))
    front(s.c["syn.name"], index=list(PARAMETERISATIONS).index("latents"))
    assert s.c["syn.folder"].value == str(tmp_path)
    press(s.go["Distil"])
    assert isinstance(s.problem, DdnbError) and "No diffusers pipeline" in s.trouble.value
    assert s.steering.layout.display == "none" and not s.go["Distil"].disabled
    strict.clear()


def test_the_recipe_pane_copies_saves_and_loads(data, tmp_path, strict):
    s = studio(data)
    pane = s.pane
    assert Recipe.of(from_text(pane)) == s.form.recipe() and "download=" in pane.copy.value
    press(pane.b["Save"])
    assert Recipe.read("recipe.yaml") == s.form.recipe()
    pane.text.value = pane.text.value.replace("steps: 2", "steps: 7")
    press(pane.b["Apply"])
    assert s.c["steps"].value == 7
    press(pane.b["Load"])
    assert s.c["steps"].value == 2
    pane.preset.value = "dm-cifar10-ipc10"
    assert s.c["ipc"].value == 10 and "48.9" in pane.note.value
    pane.text.value = "steps: many"
    press(pane.b["Apply"])
    assert "steps is 'many'" in str(s.problem)
    strict.clear()


def from_text(pane):
    from ddnb.base.forms import from_yaml

    return from_yaml(pane.text.value)


LONG = {"syn": LATENTS | {"training": [10_000, 3000]}}


def test_the_training_of_a_prior_pauses_stops_and_goes_on(data, threads):
    s = studio(data, LONG)
    s.wait()
    press(s.go["Distil"])
    pause, resume, stop = s.b_pause, s.b_resume, s.b_stop
    until(
        lambda: s.record is not None and s.steering.layout.display == "" and not pause.disabled, 300
    )
    assert s.running == "Distil" and s.go["Distil"].disabled
    until(lambda: s.sentence.value.count("Training the prior takes about") == 1, 300)
    press(pause)
    until(lambda: "paused at autoencoder" in s.sentence.value, 300)
    at = s.record["step"]
    time.sleep(0.3)
    assert s.record["step"] == at and pause.disabled and not resume.disabled
    front(s.c["ipc"], value=2)  # the kernel is free meanwhile
    assert "paused at autoencoder" in s.sentence.value
    press(resume)
    until(lambda: s.record["step"] > at, 300)
    press(stop)
    s.wait()
    cut = s.record["step"]
    assert s.problem is None and s.running is None
    assert f"Distil was stopped at autoencoder {cut} of 13000" in s.sentence.value
    assert "go on from there" in s.sentence.value
    assert "Distil" not in s.ran and s.go["Compare"].disabled
    press(s.go["Distil"])
    until(lambda: s.record is not None, 300)
    assert s.record["step"] > cut, "the training does not go on from where it was stopped"
    press(stop)
    s.wait()


def test_the_recording_of_experts_stops_too(data, threads):
    s = studio(data, {"objective": {"name": "MTT", "max_start": 1}, "experts": {"n": 200}})
    s.wait()
    press(s.go["Distil"])
    until(lambda: s.record is not None, 300)  # so many experts are worth compiling first
    assert "Recording 200 of 200 experts" in s.forecast
    press(s.b_stop)
    s.wait()
    assert s.problem is None and "go on from there" in s.summary() and s.monitor is None
    press(s.b_stop)  # after the end nothing comes of it
    assert s.running is None


def test_an_interrupt_while_the_studio_waits_stops_the_training(data, threads, monkeypatch):
    s = studio(data, LONG)
    s.wait()
    press(s.go["Distil"])
    until(lambda: s.record is not None, 300)
    interrupt_the_wait(monkeypatch)
    s.wait()
    assert "Distil was stopped at autoencoder" in s.summary()


def test_what_is_replaced_leaves_the_kernel(data):
    "Controls of an objective that is no longer chosen, results of a page that is done again."
    known, s = W.widgets.widget._instances, studio(data)
    do(s, "Prune", "Distil")
    before = len(known)
    for name in ("IADD", "DM") * 2:
        s.c["objective.name"].value = name
        do(s, "Distil") if name == "DM" else None
    assert len(known) <= before + 60, "two further results and their spare styles"
