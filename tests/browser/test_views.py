"Every view in a real JupyterLab: a control is worked, and its effect is read from the screen."

import time

import numpy as np
import pytest

from .lab import OUT, Notebook, until
from .pages import notebook

# ---- scripts that run in the page; each takes the CSS of a notebook's outputs
# Class names of the controls that carry neither a title nor a label.
NAMELESS = """
outputs => {
    const kinds = ['button', 'toggle-button', 'hslider', 'dropdown', 'select-multiple'];
    const control = kinds.map(k => `.widget-${k}`).join(',');
    const name = '[title]:not([title=""]), label[for]';
    return [...document.querySelectorAll(outputs + ' .ddnb-view .jupyter-widgets')]
        .filter(e => e.matches(control) && !e.title && !e.querySelector(name))
        .map(e => e.className);
}
"""
WIDTHS = "outputs => [...document.querySelectorAll(outputs + ' img')].map(e => e.naturalWidth)"
VISIBLE_TEXT = """
outputs => [...document.querySelectorAll(outputs)]
    .filter(e => e.offsetParent)
    .map(e => e.innerText)
    .join(' ')
"""


@pytest.fixture(scope="module")
def views(server, browser):
    "The four views that stand still, in one notebook."
    with Notebook(
        server, browser, notebook("pruning", "importance", "gallery", "cross"), "views.ipynb"
    ) as nb:
        nb.run()
        assert nb.errors() == []
        yield nb


def test_pruning_slider_moves_text_and_pictures(views):
    views.says(r"kept 751 of 1259 images")
    kept, hist = views.pixels(".ddnb-pruning-kept"), views.pixels(".ddnb-pruning-hist")
    views.type("Keep", 0.25, ".ddnb-pruning")
    views.says(r"kept 3\d\d of 1259 images")
    views.changed(".ddnb-pruning-kept", kept)
    views.changed(".ddnb-pruning-hist", hist)
    views.choose("Class", "3", ".ddnb-pruning")
    views.says(r"kept \d+ of \d+ images of class 3")


def test_pruning_order_by_button(views):
    views.choose("Class", "all", ".ddnb-pruning")
    views.press("hard", ".ddnb-pruning")
    views.says("smallest kept loss")
    views.press("easy", ".ddnb-pruning")
    views.says("largest kept loss")


def test_importance_step_by_keyboard(views):
    views.says(r"W mean at step 120")
    heat = views.pixels(".ddnb-importance-heat")
    views.slide("Step no.", ["ArrowLeft", "ArrowLeft"], ".ddnb-importance")
    views.says(r"W mean at step 118")
    views.slide("Step no.", "Home", ".ddnb-importance")
    views.says(r"W mean at step 1;")
    views.changed(".ddnb-importance-heat", heat)
    views.choose("Statistic", "q95", ".ddnb-importance")
    views.says(r"W q95 at step 1;")


def test_gallery_step_difference_and_zoom(views):
    grid = views.pixels(".ddnb-gallery-grid")
    assert len(np.unique(grid.reshape(-1, 3), axis=0)) > 10
    views.slide("Step", "End", ".ddnb-gallery")
    views.says("step 400: 50 images, 10 classes")
    views.changed(".ddnb-gallery-grid", grid)
    views.choose("Shown as", "difference to the first step", ".ddnb-gallery")
    views.says("grey is no change")
    zoom = views.pixels(".ddnb-gallery-zoom")
    views.slide("Image no.", "ArrowRight", ".ddnb-gallery")
    views.says("image 1, class 0")
    views.changed(".ddnb-gallery-zoom", zoom)
    views.slide("Step", "Home", ".ddnb-gallery")
    views.says("step 0: 50 images")
    until(
        lambda: views.pixels(".ddnb-gallery-zoom")[8:-8, 8:-8].std() == 0,
        "nothing has changed at the start, so one grey was expected",
    )


def test_cross_architecture_sorts(views):
    def order():
        table = views.text(".ddnb-cross-table")
        return sorted(("random", "distilled"), key=table.index)

    assert order() == ["random", "distilled"]
    views.choose("Sort by", "mean accuracy", ".ddnb-cross")
    until(lambda: order() == ["distilled", "random"], "the rows were not sorted")
    assert views.text(".ddnb-cross-table").count("best") == 2


def test_names_tooltips_and_text_for_everything(views):
    "Each control says what it is for; each chart has a title; each picture stands beside words."
    assert views.page.evaluate(NAMELESS, OUT) == []
    assert views.page.locator(f"{OUT} svg[role=img]").count() >= 6
    assert views.page.locator(f"{OUT} svg[role=img]:not(:has(title))").count() == 0


def test_values_under_the_mouse_and_by_keyboard(views):
    "A read-out is hidden until the mouse is over its place; the list opens by Enter."
    bars = ".ddnb-pruning-hist"
    views.show(bars)
    place = views.page.locator(f"{OUT} {bars} .ddnb-at").nth(5)
    words = place.locator("tspan").first
    views.page.mouse.move(0, 0)
    until(lambda: not words.is_visible(), "the words are shown without the mouse")
    place.locator("rect").hover(force=True)
    until(words.is_visible, "the words are not shown under the mouse", 30)
    assert " to " in words.text_content()
    listed = views.page.locator(f"{OUT} {bars} details pre")
    assert not listed.is_visible()
    views.page.locator(f"{OUT} {bars} summary").focus()
    views.page.keyboard.press("Enter")
    until(listed.is_visible, "the list did not open", 30)
    assert listed.inner_text().count("kept") == 48


def test_reread_shows_the_pictures(views):
    "Last in this notebook: saved, kernel gone, opened again."
    import json

    views.reread()
    until(
        lambda: views.page.locator(f"{OUT} img").count() >= 4,
        "no static pictures in the saved notebook",
    )
    assert min(views.page.evaluate(WIDTHS, OUT)) > 100
    assert "Error" not in views.page.evaluate(VISIBLE_TEXT, OUT)
    assert "widgets" not in json.loads(views.path.read_text())["metadata"], (
        "widget state must not be in the file"
    )
    assert views.path.stat().st_size < 400_000


# ---- a run


def work_a_run(nb):
    "Pause stops the curve, Resume moves it within a second, Stop leaves a result."
    nb.says(r"step \d+ of 4000")
    curve = nb.pixels(".ddnb-run-curve")
    nb.changed(".ddnb-run-curve", curve)
    nb.press("Pause")
    nb.says(r"paused at step \d+", 3)
    nb.still(".ddnb-run-curve")
    before = int(nb.says(r"paused at step (\d+)")[1])
    t = time.monotonic()
    nb.press("Resume")
    nb.says(r"\bstep \d+ of 4000, ", 3, ".ddnb-run-status")
    assert time.monotonic() - t < 5  # under a second where nothing else computes
    nb.changed(".ddnb-run-curve", nb.pixels(".ddnb-run-curve"), 3)
    nb.press("Stop")
    after = int(nb.says(r"stopped at step (\d+) of 4000", 5)[1])
    assert after > before
    until(
        lambda: nb.page.locator(f"{OUT} .ddnb-run button[disabled]").count() == 3,
        "buttons still alive after the end",
    )


RESULT = """
best = run.wait()
print("result", run.state, best["step"], len(run.history) == run.step, run.error)
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_run_monitor(server, browser, dark):
    with Notebook(server, browser, notebook("run"), f"run{dark}.ipynb", dark=dark) as nb:
        nb.run()
        a = nb.pixels(".ddnb-run-curve")
        assert (a[2, -3].mean() < 60) == dark, "the chart does not follow the theme"
        text = a.reshape(-1, 3).astype(int)
        assert abs(text.mean(1) - text[0].mean()).max() > 120, (
            "the text cannot be told from the background"
        )
        work_a_run(nb)
        nb.run_here(RESULT.strip(), fresh=True)
        nb.says(r"result stopped \d+ True None")
        assert nb.errors() == []
        saved = [
            o for c in nb.cells() for o in c.get("outputs", []) if "image/png" in o.get("data", {})
        ]
        assert "stopped at step" in "".join(saved[-1]["data"]["text/plain"]), (
            "the saved cell must hold the last picture"
        )


def test_run_monitor_on_an_older_kernel(server, browser, older_kernel):
    "ipykernel 7.3 delivers clicks in a thread of their own, 7.4 in the main one."
    nb = notebook("run", after=['import ipykernel; print("ipykernel", ipykernel.__version__)'])
    with Notebook(server, browser, nb, "older.ipynb", kernel=older_kernel) as nb:
        nb.run()
        nb.says(r"ipykernel 7\.3")
        work_a_run(nb)
        assert nb.errors() == []


START = """
run = V.RunMonitor(300)
run.start(records(300))
"""
START_ANOTHER = """
try:
    V.RunMonitor(5).start(records(5))
except ValueError as e:
    print("refused:", e)
"""
WAIT = """
run.wait()
print("then", run.state, run.step)
"""


def test_run_all_waits_and_a_second_run_is_refused(server, browser):
    nb = notebook(after=[START, "run", START_ANOTHER, WAIT])
    with Notebook(server, browser, nb, "wait.ipynb") as nb:
        nb.run()
        nb.says("refused: Another run is still going")
        nb.says("then done 300")
        assert nb.errors() == []


LONG_WAIT = """
print("waiting", flush=True)
run.wait()
print("then", run.state, run.error)
"""
INTERRUPT = "async () => { await window.nb.sessionContext.session.kernel.interrupt() }"


def test_interrupt_stops_gracefully(server, browser):
    "JupyterLab's own stop button, while a cell waits."
    nb = notebook("run", after=[LONG_WAIT])
    with Notebook(server, browser, nb, "interrupt.ipynb") as nb:
        nb.begin()
        nb.says("waiting", 60)  # the cell before may still draw when the first steps are there
        nb.says(r"step \d\d+ of 4000", 60)
        nb.page.evaluate(INTERRUPT)
        nb.says("then stopped None")
        assert nb.errors() == []


START_BAD = """
def bad():
    yield dict(step=1, loss=1.0)
    raise RuntimeError("no such luck")


run = V.RunMonitor(5)
run.start(bad())
run
"""
WAIT_FOR_BAD = """
try:
    run.wait()
except RuntimeError as e:
    print("raised:", e)
"""


def test_an_error_is_shown_in_the_view(server, browser):
    nb = notebook(after=[START_BAD, WAIT_FOR_BAD])
    with Notebook(server, browser, nb, "error.ipynb") as nb:
        nb.run()
        nb.says("RuntimeError.*no such luck", css=".ddnb-trouble")
        nb.says("raised: no such luck")
        nb.says("failed after step 1 of 5")


def hands(nb):
    "(turn to a tab, type a number) of the Studio in a notebook."

    def tab(t):
        nb.page.locator(f"{OUT} .lm-TabBar-tab").filter(has_text=t).first.click()

    def number(label, value):
        texts = nb.page.locator(f"{OUT} .widget-text:visible").filter(has_text=label)
        box = texts.locator("input").first
        box.fill(str(value))
        box.press("Tab")

    return tab, number


def test_studio_from_data_to_a_saved_set(server, browser):
    "No code but the one line that opens it."
    with Notebook(server, browser, notebook("studio", after=["pass"]), "studio.ipynb") as nb:
        nb.run()
        tab, number = hands(nb)
        nb.press("Load")
        nb.says("digits, 1259 training images")
        tab("Prune")
        number("prune.epochs", 2)
        nb.press("Score the images")
        nb.says("kept 1129 of 1259 images", 40)
        nb.type("Keep", 0.5, ".ddnb-studio")
        tab("Distil")
        nb.choose("objective.name", "DM")
        number("steps", 15)
        said = r"'keep': 0\.5.*'name': 'DM'.*'steps': 15.*until\('distil'\).*steps: 15"
        nb.says(said, css=".ddnb-code-distil")
        nb.press("Distil")
        nb.says("finished 15 steps", 40)
        tab("Compare")
        number("judge.nets", 1)
        nb.control("judge.networks").locator("select").select_option(["MLP"])
        nb.press("Compare")
        nb.says(r"done: \d+ results", 60)
        tab("Save")
        nb.press("Save", ".ddnb-studio")
        nb.says("Saved in .*mine")
        assert nb.errors() == []


def test_studio_learns_latents_through_a_prior_trained_on_the_spot(server, browser):
    """Its training is paused and stopped on screen while the kernel stays free.

    Then a short one, and the images.
    """
    with Notebook(server, browser, notebook("latents", after=["pass"]), "latents.ipynb") as nb:
        nb.run()
        tab, number = hands(nb)
        tab("Distil")
        nb.choose("objective.name", "DM")
        nb.choose("syn.name", "latents")
        number("steps", 5)
        nb.page.locator(f"{OUT} :text('more settings'):visible").first.click()
        number("syn.training", "[3000, 900]")
        nb.says(r"'latents'.*'training': \[3000, 900\]", css=".ddnb-code-distil")
        nb.press("Distil", ".ddnb-studio")
        nb.says(
            r"Distil: autoencoder \d+ of \d+, loss .*Training the prior takes about",
            40,
            ".ddnb-summary",
        )
        nb.press("Pause", ".ddnb-studio-live")
        nb.says(r"paused at autoencoder \d+ of \d+", 3, ".ddnb-summary")
        nb.still(".ddnb-studio-live")
        nb.run_here('print("still free", 7*7)')
        nb.says("still free 49", 3)
        nb.press("Resume", ".ddnb-studio-live")
        nb.says(r"Distil: autoencoder", 3, ".ddnb-summary")
        nb.press("Stop", ".ddnb-studio-live")
        nb.says(r"Distil was stopped at autoencoder \d+ of \d+", 5, ".ddnb-summary")
        number("syn.training", "[20, 6]")
        nb.press("Distil", ".ddnb-studio")
        nb.says("finished 5 steps", 40)
        grid = nb.pixels(".ddnb-run .ddnb-gallery-grid")
        assert len(np.unique(grid.reshape(-1, 3), axis=0)) > 10
        assert not nb.page.locator(".ddnb-studio-live").is_visible()
        assert nb.errors() == []
