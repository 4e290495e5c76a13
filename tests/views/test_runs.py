"Finished runs side by side: what is on screen is what their folders hold."

import shutil

import numpy as np
import pytest

from ddnb.base.check import DdnbError
from ddnb.recipe import Recipe, compare, perform
from ddnb.recipe.plan import jobs_of
from ddnb.share import load
from ddnb.studio.browser import RunBrowser, curves_of, images_of

SHORT = {"network": {"width": 4}, "prune": {"nets": 1, "epochs": 1}, "repeats": 1, "steps": 5}
SHORT |= {"judge": {"nets": 2, "baselines": False}}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    to = tmp_path_factory.mktemp("runs")
    tries = [SHORT | {"objective": "DM", "ipc": ipc, "seed": s} for ipc in (1, 2) for s in (0, 1)]
    for job in jobs_of(map(Recipe.of, tries)):
        for _ in perform(job.recipe, job.folder(to), log=None, shelf=None):
            pass
    return to


def test_table_and_verdict_are_those_of_compare(home):
    view, found = RunBrowser(home), compare(home)
    assert found._repr_html_() == view.table.value and found.verdicts[0] in view.summary()
    assert "ipc" in view.summary() and view.values()["records"] == found.records


def test_curves_are_those_of_the_logs_and_lie_over_each_other(home):
    view = RunBrowser(home)
    assert view.c_curve.value.startswith("run: loss")
    lines = list(view.overlaid())
    assert len(lines) == 4 and len({label for label, *_ in lines}) == 4
    for run, (_, t, v) in zip(view.chosen, lines):
        assert t.tolist() == [1, 2, 3, 4, 5]
        assert np.array_equal(v, curves_of(run.folder)["run: loss"][1])
    assert view.chart.value.count("<polyline") == 4


def test_images_are_those_of_the_set(home):
    folder = RunBrowser(home).chosen[-1].folder
    made, (images, per_class) = load(folder), images_of(folder)
    assert per_class == 2 and len(images) == len(made.x)
    shown = made.norm.decode(made.x).permute(0, 2, 3, 1).numpy()
    assert np.abs(images[..., :1] / 255 - shown).max() < 0.51 / 255


def test_fewer_runs_or_none_may_be_chosen(home):
    view = RunBrowser(home)
    view.c_runs.value = view.c_runs.value[:1]
    assert view.chart.value.count("<polyline") == 1 and view.problem is None
    view.c_runs.value = ()
    assert "choose some" in view.summary() and view.table.value == ""
    assert view.render_png()[:4] == b"\x89PNG"


def test_a_run_that_ended_since_is_found_and_one_that_is_gone_is_left_out(home, tmp_path):
    first, *rest = sorted(home.iterdir())
    shutil.copytree(first, tmp_path / first.name)
    view = RunBrowser(tmp_path)
    assert len(view.found) == 1
    shutil.copytree(rest[0], tmp_path / rest[0].name)
    view.b_again.click()
    assert len(view.c_runs.options) == 2 and len(view.chosen) == 1
    shutil.rmtree(tmp_path / first.name)
    view.b_again.click()
    assert len(view.c_runs.options) == 1 and view.problem is None


def test_a_folder_without_runs_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(DdnbError, match=str(tmp_path)):
        RunBrowser(tmp_path)
