"Static pictures: the numbers in them, their bytes, and what happens to empty or odd input."

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ddnb.base.check import DdnbError
from ddnb.views import plot, twins


def size(ax):
    return Image.open(io.BytesIO(ax.png())).size


def rec(n=10, **kw):
    return [dict(step=t, loss=1 / t, **{k: v(t) for k, v in kw.items()}) for t in range(1, n + 1)]


W = lambda t: {
    "a.weight": dict(mean=1 + t / 10, q50=1.0),
    "b.weight": dict(mean=1 - t / 20, q50=1.0),
}

PICTURES = dict(
    images=lambda: plot.show_images(torch.rand(6, 3, 8, 8), [0, 0, 1, 1, 2, 2]),
    curves=lambda: twins.curves(rec(loss_unweighted=lambda t: 2 / t)),
    importance=lambda: twins.importance(rec(W=W)),
    lines=lambda: twins.importance_lines(rec(W=W)),
    hist=lambda: twins.importance_hist({"a": torch.rand(50), "b": torch.rand(3, 4)}),
    losses=lambda: twins.loss_histogram(torch.rand(40), torch.arange(10)),
    bars=lambda: twins.class_bars([0, 0, 1, 2], [True, False, True, True], classes="abc"),
    keep=lambda: twins.keep_curve(
        [dict(fraction=0.5, accuracy=0.7, accuracy_std=0.1), dict(fraction=1.0, accuracy=0.6)]
    ),
    dots=lambda: twins.dots(
        [dict(train="a", net="n", mean=0.5, std=0.1, n=3)], reference={"chance": 0.1}
    ),
)


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_shows_itself_with_words(name):
    ax = PICTURES[name]()
    bundle = ax._repr_mimebundle_()
    assert bundle["image/png"][:8] == b"\x89PNG\r\n\x1a\n" and len(bundle["image/png"]) < 60_000
    assert len(bundle["text/plain"]) > 10 and not bundle["text/plain"].startswith("<")
    assert min(size(ax)) > 50


@pytest.mark.parametrize("name", [n for n in PICTURES])
def test_a_given_axis_is_used(name, monkeypatch):
    fig, (a,) = plot.panels(1, 1)
    new = []
    for room in (plot, twins):
        monkeypatch.setattr(room, "new_axis", lambda *k: new.append(1) or a)
    assert PICTURES[name]() is a and new == [1]


def test_same_bytes_twice():
    assert PICTURES["curves"]().png() == PICTURES["curves"]().png()


@pytest.mark.parametrize("shape, n", [((3, 1, 4, 6), 3), ((3, 3, 4, 6), 3), ((3, 4, 6), 3)])
def test_uint8_and_float_agree(shape, n):
    u = torch.randint(0, 256, shape, dtype=torch.uint8)
    a, b = plot.to_uint8(u), plot.to_uint8(u.float() / 255)
    assert a.shape == (n, 4, 6, 3) and (a == b).all()


def test_mosaic_against_a_loop():
    x = np.random.default_rng(0).integers(0, 256, (7, 3, 5, 3), dtype=np.uint8)
    m = plot.mosaic(x, 3, pad=2, fill=9)
    want = np.full((3 * 5 - 2, 3 * 7 - 2, 3), 9, np.uint8)
    for i in range(7):
        want[i // 3 * 5 : i // 3 * 5 + 3, i % 3 * 7 : i % 3 * 7 + 5] = x[i]
    assert (m == want).all()


def test_stretch_reaches_both_ends_per_image_and_together():
    x = torch.tensor([[[[0.0, 1.0]]], [[[2.0, 4.0]]]])
    each, both = plot.to_uint8(x, how="image"), plot.to_uint8(x, how="batch")
    assert each[:, 0, :, 0].tolist() == [[0, 255], [0, 255]]
    assert both[:, 0, :, 0].tolist() == [[0, 64], [128, 255]]


def test_not_a_number_is_drawn_as_black_and_passed_over_in_curves():
    assert plot.to_uint8(torch.tensor([[[[float("nan"), 1.0]]]]))[0, 0, :, 0].tolist() == [0, 255]
    v = twins.ema(np.array([1.0, np.nan, 3.0]), 0.5)
    assert np.isnan(v[1]) and v[2] == pytest.approx((0.25 * 1 + 0.5 * 3) / 0.75)


def test_average_without_smoothing_is_the_curve():
    v = np.random.default_rng(0).random(20)
    assert np.allclose(twins.ema(v, 0.0), v)


def test_rows_become_classes_only_when_they_are():
    x = torch.rand(6, 1, 4, 4)
    names = lambda y, **k: [t.get_text() for t in plot.show_images(x, y, **k).get_yticklabels()]
    assert names([0, 0, 1, 1, 2, 2], classes=["x", "y", "z"]) == ["x", "y", "z"]
    assert names([0, 1, 0, 1, 2, 2]) == []
    assert names(torch.eye(3).repeat_interleave(2, 0)) == ["0", "1", "2"]  # soft labels


def test_importing_draws_in_no_global_figure_list():
    "No pyplot: it keeps a list of figures that threads corrupt."
    code = (
        "import sys; from ddnb.views import twins; twins.curves([dict(step=1, loss=1.)]).png(); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "f, says",
    [
        (lambda: plot.show_images(object()), "give the images themselves"),
        (lambda: plot.show_images(None), "give the images themselves"),
        (lambda: plot.show_images(torch.zeros(3)), r"\[n,C,H,W\]"),
        (lambda: plot.show_images(torch.zeros(0, 1, 8, 8)), "at least one image"),
        (lambda: plot.show_images(torch.zeros(2, 1, 8, 8), ncols=-1), "ncols is -1"),
        (lambda: twins.curves("loss"), "list of dicts"),
        (lambda: twins.curves([1, 2]), "list of dicts"),
        (lambda: twins.curves(None), "list of dicts"),
    ],
)
def test_what_is_no_picture_or_record_is_named(f, says):
    with pytest.raises(DdnbError, match=says):
        f()
