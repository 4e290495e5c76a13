import subprocess
import sys

import pytest

from .lab import FLAGS, Server, chromium


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    s = Server(tmp_path_factory.mktemp("lab"))
    yield s
    s.close()


@pytest.fixture(scope="session")
def browser():
    sync = pytest.importorskip(
        "playwright.sync_api", reason="Playwright for Python is not installed"
    )
    exe = chromium()
    if not exe:
        pytest.skip("there is no Chromium on this machine (apt-get install chromium)")
    with sync.sync_playwright() as pw:
        b = pw.chromium.launch(executable_path=exe, headless=True, args=FLAGS)
        yield b
        b.close()


@pytest.fixture(scope="session")
def older_kernel(server, tmp_path_factory):
    "A kernel with ipykernel 7.3, whose widget messages arrive in a thread of their own."
    d = tmp_path_factory.mktemp("ipykernel73")
    r = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(d),
            "ipykernel==7.3.*",
        ],
        capture_output=True,
        text=True,
    )
    if r.returncode:
        pytest.skip(f"pip could not get ipykernel 7.3: {r.stderr.strip()[-200:]}")
    return server.kernel("older", d)
