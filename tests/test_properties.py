"""Whatever the shapes, labels, fractions and images per class.

Counts add up, classes survive, nothing is mixed up.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddnb.artifact import Distilled
from ddnb.data import load, rng
from ddnb.prune import keep
from ddnb.store import DdnbError
from ddnb.syn import Pixels, init

sets = st.builds(
    dict,
    classes=st.integers(2, 5),
    per=st.lists(st.integers(6, 14), min_size=5, max_size=5),
    channels=st.sampled_from([1, 3]),
    size=st.integers(2, 9),
    seed=st.integers(0, 99),
)


def make(s):
    "A set with unbalanced classes in shuffled order; each image's first pixel tells its class."
    g = rng(s["seed"])
    y = torch.cat([torch.full((n,), c) for c, n in zip(range(s["classes"]), s["per"])])
    y = y[torch.randperm(len(y), generator=g)]
    x = torch.randint(
        256, (len(y), s["channels"], s["size"], s["size"]), generator=g, dtype=torch.uint8
    )
    x[:, 0, 0, 0] = y.to(torch.uint8) * 50
    return x, y


@settings(max_examples=40, deadline=None)
@given(sets)
def test_splits_lose_and_mix_nothing(s):
    x, y = make(s)
    data = load((x, y), seed=s["seed"])
    assert sum(len(data.split(k).y) for k in ("train", "valid", "test")) == len(y)
    for k in ("train", "valid", "test"):
        part = data.split(k)
        assert torch.equal(part.x[:, 0, 0, 0].long(), part.y * 50)
    assert (torch.bincount(data.train.y, minlength=s["classes"]) > 0).all()
    assert load((x, y), seed=s["seed"]).fingerprint == data.fingerprint


@settings(max_examples=40, deadline=None)
@given(sets, st.floats(0.01, 1), st.sampled_from(["easy", "hard", "random", "band", "stratified"]))
def test_keeping_is_exact_for_any_fraction(s, fraction, order):
    x, y = make(s)
    data = load((x, y), seed=0)
    values = torch.rand(len(data.train.y), generator=rng(s["seed"]))
    least = torch.bincount(data.train.y).min().item()
    if int(fraction * least + 1e-9) < 1:
        with pytest.raises(DdnbError, match="would keep 0 of its"):
            keep(
                values,
                data,
                fraction,
                order=order if order != "random" else "easy",
                generator=rng(1),
            )
        return
    kept = keep(
        None if order == "random" else values, data, fraction, order=order, generator=rng(1)
    )
    counts, totals = (
        torch.bincount(data.train.y[kept.indices], minlength=s["classes"]),
        torch.bincount(data.train.y),
    )
    assert torch.equal(counts, torch.tensor([int(fraction * n + 1e-9) for n in totals.tolist()]))
    assert torch.equal(kept.indices, kept.indices.unique())
    if order == "easy":
        for c in range(s["classes"]):
            inside = torch.zeros(len(values), dtype=torch.bool)
            inside[kept.indices] = True
            mine = data.train.y == c
            if (~inside & mine).any():
                assert values[inside & mine].max() <= values[~inside & mine].min()
    assert len(data.keep(kept).train.y) == len(kept)


@settings(max_examples=40, deadline=None)
@given(sets, st.integers(1, 20), st.sampled_from(["real", "noise", "mean", "kmeans"]))
def test_starting_images_for_any_ipc_or_a_sentence(s, ipc, how):
    x, y = make(s)
    data = load((x, y), seed=0)
    least = torch.bincount(data.train.y).min().item()
    if ipc > least:
        with pytest.raises(DdnbError, match="lower ipc"):
            init(data, ipc, how, generator=rng(0))
        return
    xs, ys = init(data, ipc, how, generator=rng(0))
    assert (
        xs.shape == (s["classes"] * ipc, s["channels"], s["size"], s["size"])
        and torch.bincount(ys).tolist() == [ipc] * s["classes"]
        and xs.isfinite().all()
    )
    if how == "real":
        assert torch.allclose(data.norm.decode(xs)[:, 0, 0, 0] * 255, ys * 50.0, atol=0.51)


@settings(max_examples=40, deadline=None)
@given(sets)
def test_norm_is_a_way_there_and_back(s):
    x, y = make(s)
    data = load((x, y), seed=0)
    assert torch.allclose(
        data.norm.decode(data.norm.encode(x), clamp=False), x.float() / 255, atol=1e-4
    )


@settings(max_examples=25, deadline=None)
@given(st.one_of(st.floats(max_value=0), st.floats(min_value=1.0001), st.just(float("nan"))))
def test_impossible_fractions_are_named(fraction):
    with pytest.raises(DdnbError):
        keep(torch.arange(6.0), torch.tensor([0, 0, 0, 1, 1, 1]), fraction)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_a_distilled_set_agrees_with_itself_or_is_refused(n, k, soft):
    x, y = torch.rand(n, 1, 2, 2), torch.arange(n)
    if soft:
        y = torch.eye(max(n, k))[:n, :k]
    classes = [f"c{i}" for i in range(k)]
    if not soft and n > k:
        with pytest.raises(DdnbError):
            Distilled(x, y, classes)
    else:
        assert len(Distilled(x, y, classes)) == n
    xs, ys = Pixels(x, y)()
    assert len(xs) == len(ys) == n
