"The training of a prior as a work: repeatable, stopped anywhere, forecast without a trace."

import shutil
import signal

import pytest
import torch

from ddnb.base.check import DdnbError
from ddnb.base.files import sha256
from ddnb.base.rng import rng
from ddnb.base.run import Interrupted, Run
from ddnb.data import load
from ddnb.latent import Latents, PriorTraining, tiny, tiny_prior, train_prior

SMALL = dict(generator=3, steps=(7, 8), widths=(8, 8), unet=(8, 16))


def small(data, **changes):
    return train_prior(data, **{**SMALL, "progress": False, **changes})


def weights(p):
    parts = *p.autoencoder.state_dict().values(), *p.denoiser.state_dict().values()
    return [*parts, p.table, torch.tensor(p.scale)]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b)))


def stopping(part, step):
    "A watcher that ends the training at a step of one part, counted over both."

    def watch(r):
        if "share" not in r and (r["part"], r["step"]) == (part, step):
            raise RuntimeError("cable pulled")

    return watch


@pytest.mark.skipif(torch.get_num_threads() > 1, reason="sums of other lengths on more threads")
def test_a_prior_has_the_bytes_of_the_first_version(digits):
    p = train_prior(digits, generator=rng(1), steps=(20, 20), progress=False)
    digest = sha256(*p.denoiser.state_dict().values(), *p.autoencoder.state_dict().values())
    assert digest.startswith("b91e28e02aa39e71")


def test_training_keeps_to_time(digits):
    seen = []
    time = dict(steps=(10**6, 10**6), minutes=0.5 / 60, log=None, progress=seen.append)
    small(digits, **time)
    assert {r["part"] for r in seen} == {"autoencoder", "denoiser"}
    assert seen[-1]["step"] == seen[-1]["steps"] < 10**4


@pytest.mark.parametrize("size,latent", [(16, 4), (32, 8), (64, 8)])
def test_training_on_colour_images_of_any_size(size, latent):
    x = torch.randint(256, (30, 3, size, size), generator=rng(0)).to(torch.uint8)
    d = load((x, torch.arange(30) % 3))
    p = train_prior(d, generator=rng(0), steps=(1, 1), batch=(4, 4), progress=False)
    syn = Latents.of(p, d, 1, generator=rng(0), steps=1)
    assert syn.z.shape == (3, 4, latent, latent) and p.classes == d.classes
    assert syn()[0].shape == (3, 3, size, size)


def test_tiny_prior_is_trained_once(digits, tmp_path, monkeypatch):
    calls, real = [], tiny.train_prior
    monkeypatch.setattr(tiny, "train_prior", lambda *a, **k: calls.append(1) or real(*a, **k))
    a, b = (tiny_prior(digits, steps=(2, 2), cache=tmp_path) for _ in range(2))
    assert len(calls) == 1 and torch.equal(a.table, b.table)
    tiny_prior(digits, steps=(2, 1), cache=tmp_path)
    tiny_prior(digits.keep(range(1000)), steps=(2, 2), cache=tmp_path)
    tiny_prior(digits, steps=(2, 2), cache=tmp_path, log=None)  # does not matter
    assert len(calls) == 3


@pytest.mark.parametrize("every", [3, 10**6])
def test_a_stopped_training_goes_on_to_the_same_weights(digits, tmp_path, every):
    "Stopped in the autoencoder, then in the denoiser; the third call cleans up."
    for stop in (("autoencoder", 5), ("denoiser", 14)):
        with pytest.raises(RuntimeError, match="cable"):
            small(digits, path=tmp_path / "p", every=every, progress=stopping(*stop))
        assert not (tmp_path / "p").exists()
    seen = []
    (tmp_path / ".p.abc.tmp").mkdir()  # a writer that was killed
    wild = small(digits, path=tmp_path / "p", progress=seen.append)
    assert [r["step"] for r in seen if "share" not in r] == [15]
    assert same(wild, small(digits))
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_an_unfinished_training_with_other_settings_is_refused(digits, tmp_path):
    with pytest.raises(RuntimeError):
        small(digits, path=tmp_path / "p", lr=1e-3, progress=stopping("autoencoder", 1))
    with pytest.raises(DdnbError, match="lr was 0.001 and is now 0.002"):
        small(digits, path=tmp_path / "p", lr=2e-3)


def test_a_signal_stops_the_training_of_a_prior(digits, tmp_path):
    def watch(r):
        if r["step"] == 9:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="prior: stopped after step 9 of 15") as e:
        small(digits, path=tmp_path / "p", progress=watch)
    assert e.value.code == 130 and not (tmp_path / "p").exists()
    assert same(small(digits, path=tmp_path / "p"), small(digits))


def test_a_forecast_changes_nothing_and_knows_what_is_done(digits, tmp_path):
    state, steps = torch.random.get_rng_state(), dict(steps=(60, 60))
    logged = []
    a = small(digits, log=logged.append, long=0, **steps)
    b = small(digits, log=None, **steps)
    assert same(a, b) and torch.equal(state, torch.random.get_rng_state())
    assert len(logged) == 1 and "prior takes about" in logged[0]
    work = PriorTraining(digits, **{**SMALL, **steps})
    for record in Run(None, work, log=None):
        if record["step"] == 60:
            break
    work.fits["autoencoder"].forecast = None  # done: not asked
    assert work.forecast()["seconds"] > 0 and work.step == 60
    assert small(digits) and PriorTraining(digits, **SMALL).forecast() is None  # not worth it


def test_a_prior_is_refused_where_the_disk_is_full(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(DdnbError, match="only 0 B are free"):
        small(digits, path=tmp_path / "p")
    assert not list(tmp_path.iterdir())
    small(digits, path=tmp_path / "p", force=True)


def test_a_preset_is_settings_by_a_name(digits, monkeypatch, tmp_path):
    "The quick one is kept where it always was; what is given beside a preset goes before it."
    asked = []
    stub = lambda data, path, **how: asked.append((path.name, how)) or path.mkdir()
    monkeypatch.setattr(tiny, "train_prior", stub)
    monkeypatch.setattr(tiny, "load_prior", lambda path, offline: torch.zeros(1))
    for how in ({}, {"steps": (400, 120)}, {"preset": "better"}, {"preset": "better", "depth": 4}):
        tiny_prior(digits, cache=tmp_path, **how)
    (_, quick), (_, better), (_, flat) = asked
    assert len({name for name, _ in asked}) == 3 and quick["steps"] == (400, 120)
    assert better["steps"] == (1200, 2000) and (better["depth"], flat["depth"]) == (8, 4)
    with pytest.raises(DdnbError, match="preset is 'best'"):
        tiny_prior(digits, preset="best")


def test_trainings_name_what_they_need(digits):
    for f in (tiny_prior, train_prior):
        with pytest.raises(DdnbError, match="two whole numbers"):
            f(digits, steps=60)
        with pytest.raises(DdnbError, match="ddnb.data.load"):
            f("digits")
    with pytest.raises(DdnbError, match="seed is"):
        tiny_prior(digits, seed=rng(0))
    with pytest.raises(DdnbError, match="drop is 2"):
        train_prior(digits, drop=2)
