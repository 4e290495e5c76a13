"What holds for every view."

import gc
import weakref

import ipywidgets as W
import pytest
import torch

from ddnb import views as V
from ddnb.base.rng import rng
from ddnb.data import Data, Split, stats
from ddnb.prune import health
from ddnb.views.view import Picture, button

from .hands import ROWS, importance_of, png, press, steps


def sick():
    "The health of a small set with copies and a leak."
    x, y = torch.randint(256, (60, 1, 8, 8), generator=rng(0)).byte(), torch.arange(60) % 3
    x[1], x[50] = x[0], x[2]
    parts = [Split(x[a:b], y[a:b]) for a, b in ((0, 40), (40, 45), (45, 60))]
    data = Data("small <b>", ["a", "<i>b</i>", "c"], *parts, stats(parts[0].x))
    return health(data, generator=0, progress=False)


EXAMPLES = dict(
    pruning=lambda: V.PruningExplorer(torch.rand(30), torch.arange(30) % 3),
    health=lambda: V.HealthReport(sick()),
    importance=lambda: V.ImportanceExplorer([dict(step=t, W=importance_of(t)) for t in (1, 2)]),
    gallery=lambda: V.DistilledGallery(torch.rand(4, 1, 8, 8)),
    run=lambda: V.RunMonitor(3).start(steps(3, 0)),
    cross=lambda: V.CrossArchitecture(ROWS),
    studio=V.Studio,
)
NAMES = [*V.VIEWS, "studio"]  # Studio has a band of its own, above the recipe


def test_the_strict_fixture_sees_a_swallowed_exception(strict):
    b = button("x", "y", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        press(b)
    assert {type(e) for e in strict} == {ZeroDivisionError}
    strict.clear()


def test_a_defect_in_an_observer_is_shown_and_raised(strict):
    v = V.View()
    s = W.IntSlider()
    v.watch(s, call=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        s.value = 3
    assert "ZeroDivisionError" in v.trouble.value and isinstance(v.problem, ZeroDivisionError)
    strict.clear()


def test_every_view_has_an_example():
    assert [*EXAMPLES] == NAMES, "add a line to EXAMPLES"


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_notebook_has_a_picture_and_words_but_no_state(name, tmp_path):
    v = EXAMPLES[name]()
    im, text = png(v)
    assert (
        min(im.size) > 60
        and text.startswith(type(v).__name__ + ": ")
        and len(v.still()["image/png"]) < 150_000
    )
    assert v.save(tmp_path / "v.png").stat().st_size > 1000
    assert f"ddnb-{name}" in v._dom_classes and isinstance(v.values(), dict)


@pytest.mark.parametrize("name", NAMES)
def test_every_control_has_a_name_and_a_tooltip(name):
    def walk(w):
        yield w
        for c in getattr(w, "children", ()):
            yield from walk(c)

    kinds = (
        W.Button,
        W.IntSlider,
        W.FloatSlider,
        W.Dropdown,
        W.ToggleButtons,
        W.ToggleButton,
        W.SelectMultiple,
        W.Text,
        W.BoundedIntText,
    )
    for w in walk(EXAMPLES[name]()):
        if isinstance(w, kinds):
            assert w.description and (w.tooltip or getattr(w, "tooltips", None)), w
        if isinstance(w, Picture):
            assert w.width and w.height


@pytest.mark.parametrize("name", NAMES)
def test_what_is_closed_leaves_the_kernel(name):
    "A view is freed with its controls; at most a few spare styles of ipywidgets' own stay."
    known = W.widgets.widget._instances
    before = set(known)
    view = EXAMPLES[name]()
    opened = len(set(known) - before)
    view.close()
    assert len(set(known) - before) <= opened // 10
    last = weakref.ref(view)
    del view
    gc.collect()
    assert last() is None
