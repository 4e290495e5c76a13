"Where images start and what holds them: names, seeds, labels, and sentences for what does not fit."

import copy

import pytest
import torch

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.distil.syn import (
    Chunked,
    Configured,
    Constrained,
    Pixels,
    Random,
    Reporting,
    Seeded,
    counters,
    init,
)

D = load("digits")


def same(a, b):
    return all(torch.equal(u, v) for u, v in zip(a, b))


def test_init_takes_seeds_and_either_spelling():
    assert same(init(D, 2), init(D, 2, generator=rng(0)))
    assert same(init(D, 2, generator=7), init(D, 2, generator=rng(7)))
    assert same(init(D, 2, "kmeans", generator=1), init(D, 2, "k-means", generator=1))


def test_init_takes_a_function():
    x, y = init(D, 2, lambda x, ipc, generator: x[:ipc] * 0 + len(x))
    assert x[::2, 0, 0, 0].tolist() == [len(D.rows(c)) for c in range(10)]
    with pytest.raises(DdnbError, match=r"\[3, 1, 8, 8\].*\[2, 1, 8, 8\]"):
        init(D, 2, lambda x, ipc, generator: x[:3])


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(how="K-mean"), "how is 'K-mean'.*'k-means'"),
        (dict(how=None), "how is None"),
        (dict(ipc=2.0), "ipc is 2.0"),
        (dict(ipc=500), "500"),
        (dict(generator="1"), "generator is"),
        (dict(data="digits"), r"ddnb.data.load\('digits'\)"),
    ],
)
def test_init_names_what_does_not_fit(bad, words):
    with pytest.raises(DdnbError, match=words):
        init(**{"data": D, "ipc": 2, **bad})


def test_pixels_take_arrays_and_lists():
    x, y = init(D, 1)
    assert torch.equal(Pixels(x.numpy(), y.tolist())()[0], x)


@pytest.mark.parametrize(
    "args, words",
    [
        (lambda x, y: (D, y), "x is a Data"),
        (lambda x, y: ("digits", y), "x is a str"),
        (lambda x, y: (x[0], y), r"x is float32 \[1, 8, 8\]"),
        (lambda x, y: (D.train.x, D.train.y), "x is uint8.*norm.encode"),
        (lambda x, y: (x, y.float()), r"y is float32 \[10\]"),
        (lambda x, y: (x, y[:, None]), r"y is int64 \[10, 1\]"),
        (lambda x, y: (x, y[0]), "y is int64"),
        (lambda x, y: (x, y[:4]), "10 images but 4 labels"),
        (lambda x, y: (x, y, True, 5), "label 9.*5 classes"),
        (lambda x, y: (x, y, True, 0), "classes is 0"),
    ],
)
def test_pixels_name_what_does_not_fit(args, words):
    with pytest.raises(DdnbError, match=words):
        Pixels(*args(*init(D, 1)))


def test_learned_labels_start_where_the_labels_are():
    x, y = init(D, 1)
    hard, one = Pixels(x, y, learn_labels=True, classes=12), Pixels(x[:2], y[:2] * 0, True)
    assert hard()[1].shape == (10, 12) and hard()[1].argmax(1).equal(y)
    assert one()[1].tolist() == [[1.0], [1.0]]
    soft = torch.rand(10, 3, generator=rng(0)).softmax(1)
    assert torch.allclose(Pixels(x, soft, learn_labels=True)()[1], soft, atol=1e-5)


def test_the_loop_can_see_what_a_module_is_able_to():
    class Able(torch.nn.Module):
        settings = ("n",)
        generator = rng(0)

        def project(self):
            pass

        def halve(self):
            pass

    asked = Random, Configured, Reporting, Constrained, Chunked
    assert [isinstance(Able(), p) for p in asked] == [True, True, False, True, True]
    assert not any(isinstance(Pixels(*init(D, 1)), p) for p in asked)


def test_a_seeded_module_carries_its_stream_and_counts_in_a_buffer():
    class Counts(Seeded):
        def __init__(self, seed):
            super().__init__(seed)
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))
            self.register_buffer("table", torch.zeros(3))

    a, b = Counts(1), Counts(2)
    torch.rand(5, generator=a.generator)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    assert torch.rand(3, generator=a.generator).equal(torch.rand(3, generator=b.generator))
    assert counters(a) == [a.calls] and a.groups() == []
