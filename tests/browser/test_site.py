"The site as built: no dead link, nothing from elsewhere, no page too wide, search from a disk."

import subprocess
import sys

import pytest

from .lab import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "Built by the command: a dead link, or a script from elsewhere, would end it."
    to = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, str(ROOT / ".site" / "make.py"), "--out", str(to)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return to


def test_in_a_browser_nothing_is_fetched_from_elsewhere_and_search_finds(site, browser):
    assert len(list(site.rglob("*.html"))) > 150
    page = browser.new_page(viewport={"width": 400, "height": 900})
    asked, broken = [], []
    page.on("request", lambda r: asked.append(r.url))
    page.on("pageerror", lambda e: broken.append(str(e)))
    for name in ("index", "views", "20_nets/index", "50_trajectory/06_iadd"):
        page.goto(f"file://{site}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        found = "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
        assert page.evaluate(found) == 0, name
    page.set_viewport_size({"width": 1400, "height": 900})
    page.goto(f"file://{site}/index.html")
    page.locator("input.md-search__input").fill("trajectory")
    page.locator(".md-search-result__item").first.wait_for(timeout=300_000)
    assert not broken and all(u.startswith(("file:", "data:", "blob:")) for u in asked)
    page.close()
