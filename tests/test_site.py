"The site, without building it: what a page shows, what the API says, where links lead."

import ast
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / ".site"))

import api  # noqa: E402

import make  # noqa: E402
import pages  # noqa: E402

ROOM = """
__all__ = ["f", "C", "VALUE"]
VALUE = 1


def f(
    x,  # what goes in | or not
    *more,
    k: int = 3,  # how many
    **rest,
):  # what comes out
    "Adds <things>."


class C:
    "A thing."

    def __init__(self, a=None):
        pass

    def go(self, n=1):
        "Goes."
"""


def test_an_argument_says_its_type_default_and_comment(tmp_path):
    (tmp_path / "room.py").write_text(ROOM)
    text = api.room(tmp_path / "room.py")
    assert "f(x, *more, k=3, **rest)" in text and "C(a=None)" in text
    assert "| `k` | `int` | `3` | how many |" in text
    assert "what goes in \\| or not" in text and "Adds &lt;things&gt;." in text
    assert "- `go(n=1)`: Goes." in text and "Values: `VALUE`." in text


@pytest.mark.parametrize("path", sorted((ROOT / "ddnb").rglob("*.py")), ids=lambda p: p.stem)
def test_every_export_of_a_room_is_named(path):
    names = api.public_names(ast.parse(path.read_text()))
    if path.name != "__init__.py":
        text = api.room(path)
        assert not [n for n in names if n not in text]


def cell(source, *outputs, kind="code"):
    return {"cell_type": kind, "source": source, "outputs": list(outputs)}


def page_of(tmp_path, *cells):
    path = tmp_path / "nb.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    return pages.Page(path)


def test_a_page_shows_what_a_reader_sees(tmp_path):
    picture = {"output_type": "display_data", "data": {"image/png": "iVBO", "text/plain": "no"}}
    widget = {"output_type": "display_data"}
    widget["data"] = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "W()"}
    page = page_of(
        tmp_path,
        cell("# A title\n\nIt is $x^2$, not `$y$`.", kind="markdown"),
        cell("#| hide\nsecret"),
        cell("#| export\nf()", picture, widget, {"output_type": "stream", "text": "said\n"}),
    )
    assert page.title == "A title" and list(page.pictures) == ["nb-0.png"]
    assert "<math" in page.text and "`$y$`" in page.text
    assert "secret" not in page.text and "W()" not in page.text and "#|" not in page.text
    assert "said" in page.text and "(nb-0.png)" in page.text


def test_links_lead_to_pages():
    text = "[a](20_nets/99_door.ipynb) [b](nbs/x.ipynb) [c](https://e.org/n.ipynb) f(x)"
    same = "[a](20_nets/index.md) [b](x.md) [c](https://e.org/n.ipynb) f(x)"
    assert make.relinked(text) == same
