"""Every tutorial runs in JupyterLab from top to bottom without an error.

Cells flagged slow or cuda are left out, as in nbdev_test. While one tutorial is waited for, the
next is already at work: two cores, two kernels.
"""

import re

import nbformat
import pytest

from .lab import OUT, ROOT, Notebook

TUTORIALS = sorted((ROOT / "nbs/tutorials").glob("*.ipynb"))


def without_slow_cells(path):
    nb = nbformat.read(path, 4)
    nb.cells = [
        c
        for c in nb.cells
        if c.cell_type != "code"
        or not re.search(r"^#\|\s*(slow|cuda|eval:\s*false)", c.source, re.M)
    ]
    return nb


@pytest.fixture(scope="module")
def tutorial(server, browser, request):
    "path -> its notebook, running; the next one asked for is started as well."
    order = [
        i.callspec.params["path"]
        for i in request.session.items
        if i.path == request.path and hasattr(i, "callspec")
    ]
    at_work = {}

    def get(path):
        for p in order[order.index(path) :][:2]:
            if p not in at_work:
                at_work[p] = Notebook(
                    server, browser, without_slow_cells(p), f"{p.stem}/{p.name}"
                ).begin()
        return at_work.pop(path)

    yield get
    for nb in at_work.values():
        nb.close()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial(tutorial, path):
    with tutorial(path) as nb:
        nb.finish(240)
        assert nb.errors() == []
        if any(
            "application/vnd.jupyter.widget-view+json" in o.get("data", {})
            for c in nb.cells()
            for o in c.get("outputs", [])
        ):
            nb.show(f"{OUT} .ddnb-view")
