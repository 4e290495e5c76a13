"What no single notebook can say: imports run one way, rooms stay light, notebooks are clean."

import ast
import json
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(
    p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)
HEAVY = (
    "ipywidgets IPython matplotlib diffusers sklearn pyarrow torchvision transformers timm ray"
).split()
TOP = """
nbs ddnb tests settings.ini setup.py README.md CONTRIBUTING.md CHANGELOG.md LICENSE MANIFEST.in
""".split()


def exported(path):
    "The module a notebook exports, like 'data.images'; None for a tutorial."
    for c in json.loads(path.read_text())["cells"]:
        if m := re.match(r"#\| default_exp (\S+)", "".join(c["source"])):
            return m[1]


def number(path):
    "The place of a notebook in the house: the numbers of its band and of its room."
    parts = path.relative_to(ROOT / "nbs").parts
    return tuple(int(p[:2]) for p in parts if re.match(r"\d\d_", p))


ROOMS = {exported(p): number(p) for p in NOTEBOOKS if exported(p)}
# A door has the name of its band; it hands on what the rooms of its band export.
DOORS = {r.removesuffix(".__init__"): n for r, n in ROOMS.items() if r.endswith(".__init__")}
PLACES = {r: n for r, n in ROOMS.items() if not r.endswith(".__init__")} | DOORS


def file_of(room):
    return ROOT / "ddnb" / (room.replace(".", "/") + ".py")


def local_imports(room):
    "Modules of the house that a room imports, at the top or inside functions."
    package = room.split(".")[:-1]
    for n in ast.walk(ast.parse(file_of(room).read_text())):
        if isinstance(n, ast.ImportFrom):
            module = (n.module or "").split(".")
            if n.level:
                base = package[: len(package) - n.level + 1]
                module = ["ddnb", *base, *[m for m in module if m]]
            if module[0] == "ddnb":
                yield ".".join(module[1:])
        if isinstance(n, ast.Import):
            yield from (a.name.removeprefix("ddnb.") for a in n.names if a.name.startswith("ddnb."))


def test_every_notebook_in_a_band_exports_a_room():
    assert all(exported(p) for p in NOTEBOOKS if re.match(r"\d\d_", p.parent.name))
    assert all(file_of(r).exists() for r in ROOMS)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_run_from_higher_to_lower_numbers(room):
    wrong = [r for r in local_imports(room) if r in PLACES and PLACES[r] >= ROOMS[room]]
    assert not wrong, f"{room} imports {wrong}"


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_room_takes_anothers_private_names(room):
    for n in ast.walk(ast.parse(file_of(room).read_text())):
        if isinstance(n, ast.ImportFrom) and (n.level or (n.module or "").startswith("ddnb")):
            private = [a.name for a in n.names if re.match(r"_[a-z]", a.name)]
            assert not private, f"{room} imports {private} from {n.module}"


def test_core_rooms_stay_light():
    core = sorted(r for r, place in ROOMS.items() if place[0] not in (80, 95)) + ["cli"]
    code = (
        f"import sys\nfor r in {core}: __import__('ddnb.' + r.removesuffix('.__init__'))\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert r.returncode == 0 and r.stdout.strip() == "[]", r.stdout + r.stderr[-2000:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_clean_executed_and_small(path):
    nb = json.loads(path.read_text())
    outputs = [c.get("outputs", []) for c in nb["cells"]]
    text = json.dumps(outputs)
    assert path.stat().st_size < 400_000
    assert "widgets" not in nb["metadata"], "widget state must not be committed"
    assert "application/vnd.jupyter.widget-state+json" not in text
    assert not [o for c in outputs for o in c if o["output_type"] == "error"]
    private = r"site-packages|ipykernel_\d|/home/|/roo[t]/|/tm[p]/"
    assert not re.search(private, text), "an output names a path of one machine, or a warning"
    assert any(outputs), "no outputs: was the notebook executed?"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_prose_is_prose(path):
    "No paragraph wears the comment marks of a script: it would be a heading."
    for c in json.loads(path.read_text())["cells"]:
        if c["cell_type"] == "markdown":
            headings = [x for x in "".join(c["source"]).splitlines() if re.match(r"#+ ", x)]
            assert not [h for h in headings if h.count("# ") > 1 or len(h) > 90], headings


TUTORIALS = [p for p in NOTEBOOKS if p.parent.name == "tutorials"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorials_export_nothing(path):
    sources = ["".join(c["source"]) for c in json.loads(path.read_text())["cells"]]
    assert not [s for s in sources if "#| export" in s or "#| default_exp" in s]


def test_top_level_holds_nothing_else():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    top = {f.split("/")[0] for f in tracked.stdout.split()}
    assert {t for t in top if not t.startswith(".")} <= set(TOP)


def test_nothing_reseeds_or_unpickles():
    seeds = r"torch\.manual_seed|np\.random\.seed|(?<!\w)random\.seed|cuda\.manual_seed"
    for p in (ROOT / "ddnb").rglob("*.py"):
        s = p.read_text()
        assert not re.search(seeds, s), p
        assert "import pickle" not in s and "allow_pickle=True" not in s, p
        for m in re.finditer(r"torch\.load\(", s):
            assert "weights_only=True" in s[m.start() : m.start() + 200], p


def test_development_pins_are_as_needed():
    "nbdev 3 has no settings.ini; execnb 0.2 and fastcore 2 break nbdev 2 without pip noticing."
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini")
    dev = cfg["DEFAULT"]["dev_requirements"].split()
    assert {"nbdev>=2.4.14,<3", "execnb>=0.1.12,<0.2", "fastcore>=1.12.27,<2"} <= set(dev)
    import execnb
    import fastcore
    import nbdev

    for m, limit in ((nbdev, 3), (fastcore, 2)):
        major = int(m.__version__.split(".")[0])
        assert major < limit, f"{m.__name__} {m.__version__}: run pip install -e '.[dev]' again"
    assert execnb.__version__.startswith("0.1.")
