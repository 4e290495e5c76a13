"Where images start and what holds them: names, seeds, labels, and sentences for what does not fit."

import pytest
import torch

from ddnb.data import load, rng
from ddnb.store import DdnbError
from ddnb.syn import Pixels, init

D = load("digits")


def test_init_takes_seeds_and_either_spelling():
    same = lambda a, b: torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert same(init(D, 2), init(D, 2, generator=rng(0))) and same(
        init(D, 2, generator=7), init(D, 2, generator=rng(7))
    )
    assert same(init(D, 2, "kmeans", generator=1), init(D, 2, "k-means", generator=1))
    for bad, words in (
        (dict(how="K-mean"), "Did you mean 'k-means'"),
        (dict(how=None), "There is no initialisation"),
        (dict(ipc=2.0), "whole number"),
        (dict(generator="1"), "generator is"),
        (dict(data="digits"), r"ddnb.data.load\('digits'\)"),
    ):
        with pytest.raises(DdnbError, match=words):
            init(**{"data": D, "ipc": 2, **bad})


def test_pixels_say_what_does_not_fit():
    x, y = init(D, 1)
    assert torch.equal(Pixels(x.numpy(), y.tolist())()[0], x)  # arrays and lists will do
    for args, words in (
        ((D, y), "expected images"),
        ((x, y.float()), "whole numbers"),
        ((x, y[:, None]), "probabilities"),
        ((x, y[0]), "one label per image"),
        (("digits", y), "expected images"),
        ((x[0], y), r"\[n,C,H,W\]"),
    ):
        with pytest.raises(DdnbError, match=words):
            Pixels(*args)
    with pytest.raises(DdnbError, match="label 9 for 5 classes"):
        Pixels(x, y, learn_labels=True, classes=5)
