"The report shows what was found, and the explorer filters by it."

import pytest
import torch

from ddnb import data as D
from ddnb import views as V
from ddnb.base.check import DdnbError
from ddnb.prune import health, keep

from .hands import front


@pytest.fixture(scope="module")
def found():
    "Digits with leaks and wrong labels."
    d = D.load("digits")
    some = torch.randperm(len(d.train), generator=D.rng(0))[:40]
    d.train.y[some] = (d.train.y[some] + 3) % 10
    d.test.x[:6] = d.train.x[:6]
    return health(d, generator=0, progress=False)


def test_the_report_shows_the_pictures_of_a_finding(found):
    v = V.HealthReport(found, shown=8)
    assert v.finding.name == "leaks" and len(v.selected) == 8 and len(v.pages) == 2
    assert {s for s, _ in v.selected} == {"train", "test"}
    front(v.c_page, value=2)
    assert len(v.selected) == 4
    names = [value for _, value in v.c_check.options]
    front(v.c_check, index=names.index("suspect labels"))
    assert v.c_page.value == 1 and v.values()["check"] == "suspect labels"
    rows = found.suspects.rows.tolist()
    assert v.selected == [("train", r) for r in rows[:8]]
    seen = []
    for p in range(1, v.c_page.max + 1):
        front(v.c_page, value=p)
        seen += v.selected
    assert seen == [("train", r) for r in rows]
    front(v.c_class, index=4)
    assert all(found.data.train.y[r] == 3 for _, r in v.selected)
    front(v.c_check, index=names.index("imbalance"))
    assert v.selected == [] and "no pictures" in v.caption.value


def test_the_report_wants_a_report(found):
    with pytest.raises(DdnbError, match="HealthReport\\(health\\(data\\)\\)"):
        V.HealthReport(found.data)


def test_the_explorer_filters_by_findings(found):
    d = found.data
    loss = torch.rand(len(d.train), generator=D.rng(1))
    v = V.PruningExplorer(loss, data=d, health=found)
    flags = found.flags()
    names = [value for _, value in v.c_only.options]
    assert set(names) == {"", *flags}
    front(v.c_only, index=names.index("suspect labels"))
    n = int(flags["suspect labels"].sum())
    assert f"of {n} images" in v.summary() and v.here.sum() == n
    assert torch.equal(v.kept.indices, keep(loss, d, 0.6).indices)


def test_points_of_kept_dropped_and_distilled_images(found):
    d = found.data
    x = torch.stack([d.batch(c, 1, D.rng(c))[0] for c in range(10)])
    loss = torch.rand(len(d.train), generator=D.rng(1))
    v = V.PruningExplorer(loss, data=d, distilled=x, keep=0.5)
    groups = dict(v.map.groups(v.mask, v.here))
    assert len(groups["distilled"]) == 10
    assert len(groups["kept"]) + len(groups["dropped"]) == len(v.map.rows)
    chart = v.map.chart.value
    assert "distilled 10" in chart and "images by PCA" in chart
    whole = set(v.selected.tolist())
    assert whole == set(v.map.rows.tolist())
    front(v.map.c_across, value=[0.0, 0.25])
    inside = set(v.selected.tolist())
    assert 0 < len(inside) < len(whole) and v.map.chart.value != chart
    places = dict(zip(v.map.rows.tolist(), v.map.xy[:, 0]))
    assert inside == {r for r, a in places.items() if a <= 0.25}
    assert f"{len(inside)} real images" in v.captions["box"].value
    front(v.map.c_how, index=1)
    assert "images by t-SNE" in v.map.chart.value and v.map.xy.shape == (len(v.map.rows) + 10, 2)


def test_without_images_there_is_no_map():
    v = V.PruningExplorer(torch.rand(30), torch.arange(30) % 3)
    assert v.map is None and v.selected.size == 0
