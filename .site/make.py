"""The site from the notebooks: `python .site/make.py`, then open `_docs/index.html`.

Nothing is executed and nothing is fetched: pages are made from committed outputs, the API is read
from the exported text, formulas are MathML, fonts are the reader's own. A dead link ends the build.
"""

import argparse
import ast
import logging
import re
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import api  # noqa: E402
from pages import Page, joined  # noqa: E402

ROOT = HERE.parent
NBS, PAGES, SITE = ROOT / "nbs", ROOT / "_proc" / "pages", ROOT / "_docs"
HOME = "https://ddnb.github.io/"  # a page names its own address
WIDE = "---\nhide: [navigation]\n---\n\n"  # a page that no others stand beside
BANDS = sorted(p for p in NBS.iterdir() if re.match(r"\d\d_", p.name))
FOREIGN = re.compile(
    r"""<(?:script|link|iframe|img)\b[^>]*?(?:src|href)=["']?((?:https?:)?//[^"'>\s]+)"""
)


def module_of(page):
    "The room that a notebook exports, like data.images."
    for c in page.cells:
        if m := re.match(r"#\| default_exp (\S+)", joined(c["source"])):
            return m[1]


def relinked(text, up=""):
    "Links to notebooks become links to their pages, those to a door to the page of its band."
    text = re.sub(r"(\]\([^)\s]*?)99_door\.ipynb", r"\1index.md", text)
    text = re.sub(r"\]\(nbs/", f"]({up}", text)
    return re.sub(r"(\]\((?!https?:)[^)\s]+)\.ipynb", r"\1.md", text)


# ---- one page a notebook, one page a band


def write(page, name):
    page.text = relinked(page.text)
    page.write(PAGES / name)


def band_page(band):
    "The door's words, the rooms, and the API of each."
    rooms = [Page(p) for p in sorted(band.glob("*.ipynb")) if p.stem != "99_door"]
    door = band / "99_door.ipynb"
    if door.exists():
        page = Page(door)
        head = relinked(_prose(page))
        title = page.title
    else:
        title, head = band.name[3:].capitalize(), f"# {band.name[3:].capitalize()}"
    out = [head, "", "## Rooms and what they export", ""]
    for page in rooms:
        module = module_of(page)
        out += [f"### [{page.title}]({page.path.stem}.md)", "", f"`ddnb.{module}`", ""]
        out += [line for line in [_line_of(page)] if line]
        out += ["", api.room(ROOT / "ddnb" / f"{module.replace('.', '/')}.py", 4), ""]
    to = PAGES / band.name / "index.md"
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(relinked("\n".join(out)), encoding="utf-8")
    for page in rooms:
        write(page, f"{band.name}/{page.path.stem}.md")
    inner = [{page.title: f"{band.name}/{page.path.stem}.md"} for page in rooms]
    return {title: [f"{band.name}/index.md", *inner]}


def _prose(page):
    cells = [joined(c["source"]) for c in page.cells if c["cell_type"] == "markdown"]
    parts = "\n\n".join(cells).split("\n\n")
    return "\n\n".join(p for p in parts if not p.rstrip().endswith(":"))


def _line_of(page):
    "The line below the title of a room."
    m = re.search(r"^> (.+)$", page.text, re.MULTILINE)
    return m[1] if m else ""


# ---- the gallery of views


def views_in_house():
    "{class: (room, first line)} of every entry of VIEWS, and of Studio."
    rooms = {}
    for path in [*sorted((ROOT / "ddnb" / "views").glob("*.py")), ROOT / "ddnb/studio/screen.py"]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                words = (ast.get_docstring(node) or "").split("\n")[0]
                rooms[node.name] = f"{path.parent.name}.{path.stem}", words
    door = (ROOT / "ddnb/views/__init__.py").read_text(encoding="utf-8")
    table = re.search(r"^VIEWS = \{(.+?)^\}", door, re.MULTILINE | re.DOTALL)[1]
    names = [n for n in re.findall(r"\b[A-Z]\w+", table) if n in rooms]
    return {n: rooms[n] for n in [*names, "Studio"]}


def gallery():
    "A picture of every view, out of the notebook of its room."
    notebooks = {module_of(p): p for p in map(Page, sorted(NBS.glob("[89]?_*/*.ipynb")))}
    out = ["# Views", "", "> What each of them shows; every picture is its static twin.", ""]
    for name, (room, words) in views_in_house().items():
        page = notebooks[room]
        link = page.path.relative_to(NBS).with_suffix("")
        out += [f"## {name}", "", f"{words} [The room, with its code]({link}.md)", ""]
        after = page.text.split(f"class {name}(")[-1]
        if m := re.search(r"!\[[^\]]*\]\(([^)]+)\)", after) or re.search(
            r"!\[[^\]]*\]\(([^)]+)\)", page.text
        ):
            out += [f"![{name}]({link.parent}/{m[1]}){{ .output }}", ""]
    (PAGES / "views.md").write_text(WIDE + "\n".join(out), encoding="utf-8")


# ---- all of it


def write_pages():
    "Every page; the navigation."
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    shutil.copytree(NBS / "images", PAGES / "images")
    shutil.copytree(HERE / "theme", PAGES / "theme")
    front = Page(NBS / "index.ipynb")
    front.text = WIDE + front.text
    write(front, "index.md")
    write(Page(NBS / "house.ipynb"), "house.md")
    tutorials = [Page(p) for p in sorted((NBS / "tutorials").glob("*.ipynb"))]
    for page in tutorials:
        write(page, f"tutorials/{page.path.stem}.md")
    for name in ("CONTRIBUTING", "CHANGELOG"):
        text = relinked((ROOT / f"{name}.md").read_text(encoding="utf-8"))
        (PAGES / f"{name.lower()}.md").write_text(WIDE + text, encoding="utf-8")
    bands = [band_page(band) for band in BANDS]
    gallery()
    return [
        {"ddnb": "index.md"},
        {"Tutorials": [{p.title: f"tutorials/{p.path.stem}.md"} for p in tutorials]},
        {"Views": "views.md"},
        {"Rooms": [{"The house": "house.md"}, *bands]},
        {"Contributing": "contributing.md"},
        {"Changelog": "changelog.md"},
    ]


def foreign(site):
    "Scripts, styles and fonts that a page of the site would fetch from elsewhere."
    texts = ((p, p.read_text(encoding="utf-8")) for p in site.rglob("*.html"))
    urls = {m[1] for _, text in texts for m in FOREIGN.finditer(text)}
    return sorted(u for u in urls if not u.startswith(HOME))


def build(site=SITE):
    "Write the site; the folder."
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    began = time.perf_counter()
    nav = write_pages()
    config = load_config(
        str(HERE / "mkdocs.yml"), nav=nav, docs_dir=str(PAGES), site_dir=str(site), strict=True
    )
    config.plugins.on_startup(command="build", dirty=False)
    mkdocs_build(config)
    if found := foreign(Path(site)):
        raise SystemExit(f"the site would fetch {found}: put the file into .site/theme instead.")
    pages = sum(1 for _ in Path(site).rglob("*.html"))
    seconds = time.perf_counter() - began
    print(f"{pages} pages in {seconds:.0f} s: {Path(site) / 'index.html'}")
    return Path(site)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default=SITE, help="folder of the site; default _docs")
    build(parser.parse_args().out)
