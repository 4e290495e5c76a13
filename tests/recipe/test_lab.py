"Tutorials travel with the package; JupyterLab answers this computer with a token only."

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ddnb.recipe import jupyter

from .command_line import ENV

ROOT = Path(__file__).parent.parent.parent


def test_tutorials_are_copied_but_never_over(tmp_path):
    names = sorted(p.name for p in jupyter.tutorials().glob("*.ipynb"))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / names[0]).write_text("my work")
    assert jupyter.copy_tutorials(tmp_path / "t") == names[1:]
    assert (tmp_path / "t" / names[0]).read_text() == "my work"
    assert jupyter.copy_tutorials(tmp_path / "t") == []


@pytest.mark.slow
def test_the_build_carries_the_tutorials(tmp_path):
    pytest.importorskip("setuptools")
    src = tmp_path / "src"
    src.mkdir()
    for f in ("settings.ini", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / f, src)
    for f in ("ddnb", "nbs"):
        shutil.copytree(ROOT / f, src / f, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    lib = tmp_path / "lib"
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(lib)]
    subprocess.run(build, cwd=src, check=True, capture_output=True)

    def tutorials(folder):
        return {p.name: p.read_bytes() for p in (folder / "tutorials").glob("*.ipynb")}

    assert tutorials(lib / "ddnb") == tutorials(ROOT / "nbs")


@pytest.mark.slow
def test_lab_answers_this_computer_with_a_token_only(tmp_path):
    pytest.importorskip("jupyterlab")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    dirs = {f"JUPYTER_{k}_DIR": str(tmp_path / k) for k in ("CONFIG", "RUNTIME", "DATA")}
    dirs |= {f"JUPYTERLAB_{k}_DIR": str(tmp_path / k) for k in ("SETTINGS", "WORKSPACES")}
    code = "import sys; from ddnb.cli import main; sys.exit(main())"
    words = f"lab quickstart --to {tmp_path / 't'} --browser false --port {port}"
    args = [sys.executable, "-c", code, *words.split()]
    with open(tmp_path / "log", "w") as log:
        p = subprocess.Popen(args, env={**ENV, **dirs}, stdout=log, stderr=log)
    try:
        _check_lab(p, tmp_path / "log", port)
    finally:
        p.terminate()
        p.wait(20)
    assert (tmp_path / "t" / "quickstart.ipynb").exists()


def _address(p, log):
    "What JupyterLab prints once it listens."
    until = time.time() + 90
    form = r"(http://127\.0\.0\.1:\d+/\S*[?&]token=([0-9a-f]{48}))"
    while time.time() < until and p.poll() is None:
        text = log.read_text()
        if "is running at" in text and (found := re.search(form, text)):
            return found
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])


def _check_lab(p, log, port):
    token = _address(p, log)[2]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    api = f"http://127.0.0.1:{port}/api/contents"
    with pytest.raises(urllib.error.HTTPError) as e:
        opener.open(api, timeout=10)
    assert e.value.code == 403
    assert opener.open(f"{api}?token={token}", timeout=10).status == 200
