"""One thread: the same bytes on every machine, and many small operations do not wait for each
other. Subprocesses inherit it."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

MARKERS = {
    "slow": "takes more than some seconds",
    "kill": "kills processes again and again",
    "browser": "needs Chromium, and drives a real JupyterLab",
}


def pytest_configure(config):
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(items):
    for item in items:
        path = Path(item.fspath)
        if path.parent.name == "browser":
            item.add_marker(pytest.mark.browser)
        if path.stem.startswith("test_kill"):
            item.add_marker(pytest.mark.kill)
