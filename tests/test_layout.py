"What no single notebook can say: imports run one way, rooms stay light, notebooks are clean, sources and exports agree."

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
ROOMS = {p.stem.split("_", 1)[1]: int(p.stem[:2]) for p in NOTEBOOKS if re.match(r"\d\d_", p.stem)}
HEAVY = (
    "ipywidgets",
    "IPython",
    "matplotlib",
    "diffusers",
    "sklearn",
    "pyarrow",
    "torchvision",
    "transformers",
    "timm",
)
CORE = sorted(r for r, n in ROOMS.items() if n < 80) + ["cli"]


def local_imports(room):
    tree = ast.parse((ROOT / "ddnb" / f"{room}.py").read_text())
    for n in ast.walk(tree):
        if isinstance(n, ast.ImportFrom) and (n.level == 1 or (n.module or "").startswith("ddnb")):
            name = (n.module or "").removeprefix("ddnb").strip(".")
            yield from [name] if name else [a.name for a in n.names]
        if isinstance(n, ast.Import):
            yield from (a.name.split(".")[1] for a in n.names if a.name.startswith("ddnb."))


def test_every_room_is_exported():
    assert sorted(ROOMS) == sorted(
        p.stem for p in (ROOT / "ddnb").glob("*.py") if not p.stem.startswith("_")
    )


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_run_from_higher_to_lower_numbers(room):
    wrong = [r for r in local_imports(room) if r in ROOMS and ROOMS[r] >= ROOMS[room]]
    assert not wrong, f"{room} imports {wrong}"
    if room == "plot":
        assert set(local_imports(room)) <= {"store"}
    if room != "cli":
        assert "widgets" not in set(local_imports(room))


def test_core_rooms_stay_light():
    code = f"import sys\nfor r in {CORE}: __import__('ddnb.' + r)\nprint([m for m in {HEAVY} if m in sys.modules])"
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert r.returncode == 0 and r.stdout.strip() == "[]", r.stdout + r.stderr[-2000:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_clean_executed_and_small(path):
    nb = json.loads(path.read_text())
    assert path.stat().st_size < 400_000
    assert "widgets" not in nb["metadata"], "widget state must not be committed"
    assert not any(
        "application/vnd.jupyter.widget-state+json" in json.dumps(c.get("outputs", []))
        for c in nb["cells"]
    )
    errors = [o for c in nb["cells"] for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert not errors
    text = json.dumps([c.get("outputs", []) for c in nb["cells"]])
    assert not re.search(r"site-packages|ipykernel_\d|/home/|/roo[t]/|/tm[p]/", text), (
        "an output names a path of one machine, or shows a warning"
    )
    code = [c for c in nb["cells"] if c["cell_type"] == "code"]
    assert any(c["outputs"] for c in code), "no outputs: was the notebook executed?"


@pytest.mark.parametrize(
    "path", [p for p in NOTEBOOKS if p.parent.name == "tutorials"], ids=lambda p: p.stem
)
def test_tutorials_export_nothing(path):
    assert not any(
        "#| export" in "".join(c["source"]) or "#| default_exp" in "".join(c["source"])
        for c in json.loads(path.read_text())["cells"]
    )


def test_top_level_holds_nothing_else():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    top = {f.split("/")[0] for f in tracked.stdout.split()}
    assert {t for t in top if not t.startswith(".")} <= {
        "settings.ini",
        "README.md",
        "nbs",
        "ddnb",
        "tests",
        "setup.py",
        "LICENSE",
        "MANIFEST.in",
    }


def test_nothing_reseeds_or_unpickles():
    for p in (ROOT / "ddnb").glob("*.py"):
        s = p.read_text()
        assert not re.search(
            r"torch\.manual_seed|np\.random\.seed|(?<!\w)random\.seed|cuda\.manual_seed", s
        ), p
        assert "import pickle" not in s and "allow_pickle=True" not in s, p
        for m in re.finditer(r"torch\.load\(", s):
            assert "weights_only=True" in s[m.start() : m.start() + 200], p


def test_development_pins_are_as_needed():
    "nbdev 3 has no settings.ini; execnb 0.2 and fastcore 2 break nbdev 2 without pip noticing."
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini")
    dev = cfg["DEFAULT"]["dev_requirements"].split()
    assert {"nbdev>=2.4.14,<3", "execnb>=0.1.12,<0.2", "fastcore>=1.12.27,<2"} <= set(dev)
    import execnb, fastcore, nbdev

    for m, lim in ((nbdev, 3), (fastcore, 2)):
        assert int(m.__version__.split(".")[0]) < lim, (
            f'{m.__name__} {m.__version__} does not work here; run pip install -e ".[dev]" again'
        )
    assert execnb.__version__.startswith("0.1.")
