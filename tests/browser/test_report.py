"The report of a run in a real browser: read without a network, names shown as text."

import pytest

from ddnb.base.files import write_json
from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.distil import init
from ddnb.judge import baselines, evaluate
from ddnb.recipe.folders import DONE
from ddnb.recipe.page import report
from ddnb.share import Distilled, contact_sheet, png

NAMES = ["zero", "<script>document.title='broken'</script>", "<img src=x onerror=alert(1)>"]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    digits, folder = load("digits"), tmp_path_factory.mktemp("run")
    few = (digits.train.y < 3).nonzero()[:, 0]
    data = load((digits.train.x[few], digits.train.y[few]), classes=NAMES)
    means = init(data, 1, "mean", generator=rng(0))
    sets = {"<b>ours</b>": means, "random": baselines(data, 1)["random"]}
    table = evaluate(sets, data, "MLP", seeds=2, steps=30)
    sheet = png(contact_sheet(Distilled(*means, data.classes, data.norm)))
    (folder / "distilled.png").write_bytes(sheet)
    found = {"recipe": {"ipc": 1, "data": {"source": "digits"}}, "results": table.records}
    write_json(folder / DONE, found | {"versions": {"ddnb": "here"}, "kept": "all of them"})
    return report(folder)


def test_the_report_shows_tables_pictures_and_names_as_text(browser, page_file, tmp_path):
    asked, page = [], browser.new_page()
    page.on("request", lambda r: asked.append(r.url))
    page.on("dialog", lambda d: pytest.fail("a class name ran as a script"))
    page.goto(page_file.as_uri())
    assert page.title().startswith("Distilled from") and "broken" not in page.title()
    text = page.inner_text("body")
    for words in (*NAMES, "<b>ours</b>", "Verdict", "recall", "data.source"):
        assert words in text, words
    widths = page.evaluate("[...document.images].map(i => i.naturalWidth)")
    assert widths and all(w > 20 for w in widths), "the pictures are inside the page"
    assert all(u.startswith(("file:", "data:")) for u in asked)
    page.set_viewport_size({"width": 360, "height": 640})
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 380, "tables scroll within their section"
    page.close()
