"What a prior says of itself."

import warnings

import pytest
import torch

from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.latent import Latents, Prior, PriorTraining, tiny, train_prior
from ddnb.latent.quality import in_words, native_size, samples, unexplained


class Half:
    "A prior that gives back half of every image."

    quality, device, how = None, torch.device("cpu"), None
    encode = staticmethod(lambda x: x)
    decode = staticmethod(lambda z: z / 2)


def test_what_is_lost_is_the_error_over_the_spread():
    x = torch.rand(10, 1, 8, 8, generator=rng(0))
    want = (x / 2).square().sum() / (x - x.mean(0)).square().sum()
    assert unexplained(Half(), x, batch=3) == pytest.approx(want.item(), rel=1e-4)
    same = Half()
    same.decode = lambda z: z
    assert unexplained(same, x) == 0
    mean = Half()
    mean.decode = lambda z: x.mean(0, keepdim=True).expand(len(z), -1, -1, -1)
    assert unexplained(mean, x) == pytest.approx(1, rel=1e-4)
    assert unexplained(same, x, 4) > 0.3  # half the side loses what lies between
    assert native_size(same, (8, 8)) == (8, 8)


def test_words():
    q = {"reconstruction": 0.1, "samples": 0.75, "real": 0.95, "chance": 0.1}
    said = in_words(q | {"steps": [400, 120], "size": 32})
    assert "0.10 of the spread" in said and "75%" in said and "chance 10%" in said
    assert "400 + 120 steps" in said and "at 32 pixels" in said and in_words({}) == ""


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def short(digits):
    "A prior after a few steps: mush."
    return train_prior(digits, generator=1, steps=(5, 5), progress=False)


@pytest.fixture(scope="module")
def good(digits):
    return train_prior(digits, generator=1, steps=(400, 120), progress=False)


def test_a_prior_confesses(short, digits, tmp_path):
    q = short.quality
    assert q["reconstruction"] > 0.5 and q["steps"] == [5, 5] and q["chance"] == 0.1
    assert q["real"] > 0.85 and q["samples"] < 0.5 and "reconstruction error" in repr(short)
    back = Prior.load(short.save(tmp_path / "prior"))
    assert back.quality == q and repr(back) == repr(short)


def test_confessing_disturbs_nothing(digits):
    before = torch.get_rng_state()
    work = PriorTraining(digits, generator=1, steps=(2, 2))
    list(work)
    stream = work.generator.get_state()
    work.prior, work.prior
    assert torch.equal(stream, work.generator.get_state())
    assert torch.equal(before, torch.get_rng_state())


def test_latents_of_mush_are_warned_of(short, good, digits):
    with pytest.warns(UserWarning, match="loses .* cannot show more .* train it longer"):
        Latents.of(short, digits, 1, generator=0, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Latents.of(good, digits, 1, generator=0, steps=1)
    assert good.quality["reconstruction"] < 0.2 and good.quality["samples"] > 0.3


def test_samples_repeat_and_follow_their_class(good):
    y = torch.tensor([0, 0, 1])
    a, b = (samples(good, y, (4, 4, 4), generator=2) for _ in range(2))
    assert torch.equal(a, b) and a.shape == (3, 1, 8, 8) and 0 <= a.min() <= a.max() <= 1
    assert not torch.equal(samples(good, y, (4, 4, 4), generator=3), a)


def big():
    x = torch.randint(256, (24, 1, 64, 64), generator=rng(0)).to(torch.uint8)
    return load((x, torch.arange(24) % 3))


@pytest.mark.parametrize("minutes, size", [(100, 64), (20, 32), (5, 16), (0.1, 16)])
def test_minutes_choose_a_size(minutes, size, monkeypatch):
    seconds = lambda self: {"seconds": 60 * 60 * (self.size / 64) ** 2, "peak": None}
    monkeypatch.setattr(tiny.PriorTraining, "forecast", seconds)
    data = big()
    if size == 64:
        assert tiny.size_for(data, minutes) == 64
        return
    with pytest.warns(UserWarning, match=f"at {size} pixels, not at 64"):
        assert tiny.size_for(data, minutes) == size


def test_a_smaller_prior_makes_images_of_the_data(digits):
    data = big()
    p = train_prior(data, generator=0, size=16, steps=(2, 2), batch=(4, 4), progress=False)
    assert p.quality["size"] == 16
    syn = Latents.of(p, data, 1, generator=0, steps=1)
    assert syn.z.shape[-1] == 4 and syn()[0].shape == (3, 1, 64, 64)


def test_small_sets_keep_their_size(digits, monkeypatch):
    monkeypatch.setattr(tiny.PriorTraining, "forecast", lambda self: {"seconds": 1e9, "peak": None})
    assert tiny.size_for(digits, 1) == 8
