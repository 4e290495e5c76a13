"""What is imported is declared, what is declared has a bound that was tried, and what is built
holds the package and nothing else.
"""

import ast
import os
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
NAMES = {"IPython": "ipython", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
CALLED = {"jupyterlab": "ddnb lab starts it", "shtab": "jsonargparse completes words with it"}
TRAVELS = "ddnb nbs setup.py settings.ini MANIFEST.in README.md LICENSE CHANGELOG.md".split()


def settings():
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]


def core():
    "What the package needs."
    return [Requirement(r) for r in settings()["requirements"].split()]


def for_some():
    "What its extras need, those for development left out."
    extras = [k for k in settings() if k.endswith("_requirements") and k != "dev_requirements"]
    return [Requirement(r) for k in extras for r in settings()[k].split()]


def imported():
    "(package, whether at the top of a room) for every import that is not the standard library's."
    for p in (ROOT / "ddnb").rglob("*.py"):
        tree = ast.parse(p.read_text())
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for top in {n.split(".")[0] for n in names} - {"ddnb", *sys.stdlib_module_names}:
                yield NAMES.get(top, top).replace("_", "-").lower(), node in tree.body


def test_every_import_is_declared():
    needed, more = ({r.name.replace("_", "-") for r in rs} for rs in (core(), for_some()))
    found = set(imported())
    assert {name for name, _ in found} <= needed | more
    assert {name for name, at_top in found if at_top} <= needed
    assert needed - {name for name, _ in found} == set(CALLED), "declared, and not imported"


@pytest.mark.parametrize("requirement", core(), ids=lambda r: r.name)
def test_every_requirement_has_a_lower_bound(requirement):
    assert [s for s in requirement.specifier if s.operator == ">="]
    assert requirement.specifier.contains(version(requirement.name), prereleases=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "An sdist of a copy of the checkout, and a wheel of that sdist."
    home = tmp_path_factory.mktemp("built")
    for name in TRAVELS:
        subprocess.run(["cp", "-r", ROOT / name, home], check=True)
    (home / "tests").mkdir()
    (home / "tests" / "test_x.py").write_text("")  # what must not travel
    (home / "runs").mkdir()
    (home / "runs" / "x.yaml").write_text("")
    call = [sys.executable, "-m", "build", "--no-isolation", "--outdir", home / "dist", home]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {p.suffix: p for p in (home / "dist").iterdir()}


def beside():
    "Files that come from elsewhere than ddnb/, under their names in the wheel."
    nbs = ROOT / "nbs"
    found = [*nbs.glob("tutorials/*.ipynb"), *nbs.glob("presets/*.yaml")]
    return {f"ddnb/{p.relative_to(nbs)}" for p in found}


def in_package():
    files = [*(ROOT / "ddnb").rglob("*.py"), *(ROOT / "ddnb/sets").glob("*.safetensors")]
    return {str(p.relative_to(ROOT)) for p in files}


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[".whl"]) as z:
        names = {n for n in z.namelist() if ".dist-info/" not in n}
        told = {n.split("/")[-1]: z.read(n).decode() for n in z.namelist() if ".dist-info/" in n}
    assert names == in_package() | beside()
    lines = told["METADATA"].splitlines()
    for r in core():
        assert any(line.startswith(f"Requires-Dist: {r.name}>=") for line in lines), r
    assert "LICENSE" in told and "ddnb = ddnb.cli:main" in told["entry_points.txt"]
    assert built[".whl"].stat().st_size < 5 << 20


def test_the_sdist_holds_the_sources_and_nothing_else(built):
    with tarfile.open(built[".gz"]) as t:
        names = {n.partition("/")[2] for n in t.getnames()}
    notebooks = {str(p.relative_to(ROOT)) for p in (ROOT / "nbs").rglob("*.ipynb")}
    assert in_package() | {"settings.ini", "setup.py", "README.md", "LICENSE"} <= names
    assert {n for n in notebooks if ".ipynb_checkpoints" not in n} <= names
    stray = r"tests runs build dist __pycache__ .ipynb_checkpoints".split()
    assert not [n for n in names if set(n.split("/")) & set(stray) or n.endswith(".pyc")]


def test_the_wheel_works_without_the_checkout(built, tmp_path):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", site, built[".whl"]], check=True)
    env = os.environ | {"PYTHONPATH": str(site), "DDNB_CACHE": str(tmp_path)}

    def said(*call):
        done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(site) in said(sys.executable, "-c", "import ddnb; print(ddnb.__file__)")
    assert "mtt-cifar10-ipc1" in said(site / "bin" / "ddnb", "presets")
    assert "--keep" in said(site / "bin" / "ddnb", "demo", "--help")
    assert "accuracy" in said(site / "bin" / "ddnb", "show", "shelf:digits-1").lower()
