"Buttons run the code that is shown; stages pause, stop and go on."

import threading
import time

import pytest
import torch

from ddnb import data as D
from ddnb import views as V
from ddnb.base.check import DdnbError
from ddnb.views.script import METHODS

from .hands import front, interrupt_the_wait, png, press, until


LATENT = ("skip", "sampling", "prior", "prior_steps")


@pytest.fixture
def prior(data):
    from ddnb.latent import Prior

    return Prior.random("ldm", generator=D.rng(0), channels=1, size=8, classes=10, width=16)


def latents(s, steps=2, **more):
    "A studio that is about to distil latents, quickly."
    for k, v in (dict(method="DM", images="latents", steps=steps, sampling=1) | more).items():
        s.c["Distil"][k].value = v
    s.c["Prune"]["width"].value = 8
    return s


def same_images(s, **ns):
    "The studio's script gives the studio's images."
    exec(s.code, ns)
    ns["monitor"].wait()
    return torch.equal(ns["syn"]()[0], s.ns["syn"]()[0])


def test_studio_code_is_what_it_runs(data):
    s = V.Studio(data)
    s.c["Distil"]["method"].value, s.c["Distil"]["steps"].value = "MTT", 2
    s.c["Distil"]["experts"].value, s.c["Distil"]["epochs"].value, s.c["Prune"]["width"].value = (
        1,
        2,
        8,
    )
    press(s.go["Distil"])
    s.wait()
    ns = {"data": data}
    exec(s.code, ns)
    assert torch.equal(ns["syn"]()[0], s.ns["syn"]()[0]) and "kept, pruned = None, data" in s.code
    assert not s.go["Save"].disabled and s.ns["monitor"].state == "done"


def test_studio_says_what_is_wrong(strict):
    s = V.Studio()
    assert s.go["Prune"].disabled and s.go["Save"].disabled
    s.c["Data"]["source"].value = "digts"
    press(s.go["Data"])
    assert isinstance(s.problem, DdnbError) and "Did you mean 'digits'" in s.trouble.value.replace(
        "&#x27;", "'"
    )
    strict.clear()
    s.c["Data"]["source"].value = "digits"
    press(s.go["Data"])
    assert s.problem is None and not s.go["Prune"].disabled and "digits" in s.summary()


def test_studio_saves_and_reads_back(data, tmp_path):
    from ddnb import artifact

    s = V.Studio(data, folder=str(tmp_path / "mine"))
    s.c["Distil"]["method"].value, s.c["Distil"]["steps"].value, s.c["Prune"]["width"].value = (
        "DM",
        2,
        8,
    )
    for k in ("Distil", "Save"):
        press(s.go[k])
        s.wait()
    assert torch.equal(artifact.load(tmp_path / "mine").x, s.ns["syn"]()[0].detach())


def test_studio_shows_only_what_the_choice_needs(data, prior):
    shown = lambda s: {
        k for k in LATENT if k in s.c["Distil"] and s.c["Distil"][k].layout.display != "none"
    }
    s = V.Studio(data)
    assert (
        shown(s) == set()
        and "Pixels(" in s.codes["Distil"].value
        and "prior" not in s.codes["Distil"].value
    )
    front(s.c["Distil"]["images"], index=1)
    assert (
        shown(s) == {*LATENT} and "tiny_prior(pruned, steps=(400, 120)" in s.codes["Distil"].value
    )
    s.c["Distil"]["prior"].value = "my/prior "
    assert (
        shown(s) == {"skip", "sampling", "prior"}
        and "Prior.load(&#x27;my/prior&#x27;" in s.codes["Distil"].value
    )
    assert (
        shown(s := latents(V.Studio(data, prior=prior))) == {"skip", "sampling"}
        and s.c["Distil"]["experts"].layout.display == "none"
    )
    s.c["Distil"]["method"].value = "MTT"
    assert s.c["Distil"]["experts"].layout.display == ""


def test_the_picture_of_a_studio_that_is_still_reading(threads, monkeypatch):
    "Shown before the data are there: no error, and a picture."
    gate, load = threading.Event(), D.load
    monkeypatch.setattr(D, "load", lambda *a, **k: gate.wait(10) and load(*a, **k))
    s = V.Studio()
    press(s.go["Data"])
    assert png(s)[1].endswith("Data: working ...")
    gate.set()
    s.wait()
    assert s.problem is None and s.ran


@pytest.mark.parametrize("method", METHODS.values())
def test_studio_distils_latents_by_any_objective(data, prior, method, tmp_path):
    from ddnb import artifact

    s = latents(
        V.Studio(data, folder=str(tmp_path / "mine"), prior=prior),
        method=method,
        experts=1,
        epochs=2,
        skip="paper",
    )
    for k in ("Distil", "Save"):
        press(s.go[k])
        s.wait()
    x = s.ns["syn"]()[0].detach()
    assert not torch.equal(x, s.ns["monitor"].gallery.shots[0]), "nothing was learned"
    kept = artifact.load(tmp_path / "mine")
    assert (
        torch.equal(kept.x, x)
        and set(kept.extra) == {"z", "noise", "c"}
        and kept.card["hyper"]["skip"] == "paper"
    )


def test_studio_trains_a_prior_once(data, tmp_path, monkeypatch):
    monkeypatch.setenv("DDNB_CACHE", str(tmp_path / "cache"))
    s = latents(V.Studio(data), prior_steps=4, skip="none")
    said = []
    s.sentence.observe(lambda c: said.append(c["new"]), "value")
    monkeypatch.setattr(V.Studio, "period", 0.0)
    press(s.go["Distil"])
    s.wait()
    assert s.ns["syn"].sampler.skip is None and s.steering.layout.display == "none"
    said.clear()
    assert same_images(s, data=data)
    press(s.go["Distil"])
    s.wait()
    assert not any("autoencoder" in t for t in said)


def test_studio_prunes_then_learns_latents_of_a_folder(data, prior, tmp_path):
    prior.save(tmp_path / "prior")
    s = latents(V.Studio(data, prior=tmp_path / "prior"))
    s.c["Prune"]["nets"].value = s.c["Prune"]["epochs"].value = 1
    for k in ("Prune", "Distil"):
        press(s.go[k])
        s.wait()
    assert (
        len(s.ns["pruned"].train) < len(data.train)
        and s.ns["monitor"].state == "done"
        and s.ns["prior"] is not prior
    )


def test_studio_says_what_is_wrong_with_a_prior(data, tmp_path, strict):
    with pytest.raises(DdnbError, match="prior is a int"):
        V.Studio(data, prior=3)
    s = latents(V.Studio(data, prior=str(tmp_path)))
    press(s.go["Distil"])
    assert (
        isinstance(s.problem, DdnbError)
        and "No diffusers pipeline was found" in s.trouble.value
        and s.steering.layout.display == "none"
        and not s.go["Distil"].disabled
    )
    strict.clear()


def test_the_training_of_a_prior_pauses_stops_and_goes_on(data, threads):
    s = latents(V.Studio(data), prior_steps=10**4)
    press(s.go["Distil"])
    pause, resume, stop = s.b_pause, s.b_resume, s.b_stop
    until(
        lambda: s.record is not None and s.steering.layout.display == "" and not pause.disabled, 60
    )
    assert s.running == "Distil" and s.go["Distil"].disabled
    until(lambda: s.sentence.value.count("Training the prior takes about") == 1)
    press(pause)
    until(lambda: "paused at autoencoder" in s.sentence.value)
    at = s.record["step"]
    time.sleep(0.3)
    assert s.record["step"] == at and pause.disabled and not resume.disabled
    front(s.c["Distil"]["ipc"], value=2)  # the kernel is free meanwhile
    assert "paused at autoencoder" in s.sentence.value
    press(resume)
    until(lambda: s.record["step"] > at)
    press(stop)
    s.wait()
    cut = s.record["step"]
    assert (
        s.problem is None
        and s.running is None
        and f"Distil was stopped at autoencoder {cut} of 13000" in s.sentence.value
        and "go on from there" in s.sentence.value
        and "Distil" not in s.ran
        and s.go["Compare"].disabled
    )
    press(s.go["Distil"])
    until(lambda: s.record is not None, 300)
    assert s.record["step"] > cut, "the training does not go on from where it was stopped"
    press(stop)
    s.wait()


def test_the_recording_of_experts_stops_too(data, threads):
    s = V.Studio(data)
    for k, v in dict(experts=200, epochs=2).items():
        s.c["Distil"][k].value = v
    s.c["Prune"]["width"].value = 8
    press(s.go["Distil"])
    until(lambda: s.record is not None, 300)  # so many experts are worth compiling first
    assert "Recording 200 of 200 experts" in s.forecast
    press(s.b_stop)
    s.wait()
    assert s.problem is None and "go on from there" in s.summary() and "monitor" not in s.ns
    press(s.b_stop)  # after the end nothing comes of it
    assert s.running is None


def test_an_interrupt_while_the_studio_waits_stops_the_training(data, threads, monkeypatch):
    s = latents(V.Studio(data), prior_steps=10**4)
    press(s.go["Distil"])
    until(lambda: s.record is not None, 300)
    interrupt_the_wait(monkeypatch)
    s.wait()
    assert "Distil was stopped at autoencoder" in s.summary()
