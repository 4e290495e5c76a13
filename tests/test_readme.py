"""README.md is nbs/index.ipynb rendered. `python tests/test_readme.py` writes it (nbdev_readme
would need Quarto).
"""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent


def render():
    """The index as Markdown.

    Directives and hidden cells are gone, text outputs stand indented below their cells, a cell's
    own pictures are left out, those of nbs/images are linked.
    """
    nb = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    nb.metadata["language_info"] = {"name": "python"}
    nb.cells = [c for c in nb.cells if not re.match(r"\s*#\|\s*hide", c.source)]
    for c in nb.cells:
        c.source = "\n".join(line for line in c.source.split("\n") if not line.startswith("#|"))
        for o in c.get("outputs", []):
            for kind in ("image/png", "image/jpeg", "text/html"):
                o.get("data", {}).pop(kind, None)
    md, _ = MarkdownExporter().from_notebook_node(nb)
    md = re.sub(r"\]\((images/|tutorials/|\d\d_\w+(?:/|\.ipynb)|house\.ipynb)", r"](nbs/\1", md)
    return re.sub(r"\n{3,}", "\n\n", md).strip() + "\n"


def test_readme_is_the_rendered_index():
    assert (ROOT / "README.md").read_text() == render(), "run: python tests/test_readme.py"


def test_readme_has_the_two_commands():
    s = (ROOT / "README.md").read_text()
    assert (
        "pip install -e . && ddnb demo" in s
        and "pip install -e '.[dev]' && nbdev_test && pytest" in s
    )


def test_readme_leads_to_every_band_and_tutorial():
    links = set(re.findall(r"\]\((nbs/[^)]+)\)", (ROOT / "README.md").read_text()))
    assert not [p for p in links if not (ROOT / p).exists()]
    doors = [*(ROOT / "nbs").glob("*/99_door.ipynb"), ROOT / "nbs" / "house.ipynb"]
    expected = [*doors, *(ROOT / "nbs" / "tutorials").glob("*.ipynb")]
    assert {str(p.relative_to(ROOT)) for p in expected} <= links


def test_figures_at_the_top_are_those_of_the_tutorial():
    source = (ROOT / "nbs" / "index.ipynb").read_text()
    measured = (ROOT / "nbs" / "tutorials" / "iadd.ipynb").read_text()
    rows = re.findall(r'\\"(?:shapes|CIFAR-10)\\": (\{.+?\})', source)
    figures = [f"{a} ± {b}" for row in rows for a, b in re.findall(r"\(([\d.]+), ([\d.]+)\)", row)]
    assert len(figures) == 6 and not [f for f in figures if f not in measured]


if __name__ == "__main__":
    (ROOT / "README.md").write_text(render())
