"""One thread: the same bytes on every machine, and many small operations do not wait for each
other. Subprocesses inherit it."""

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["DDNB_CACHE"] = tempfile.mkdtemp(prefix="ddnb-tests-")  # nothing from earlier runs

MARKERS = {
    "slow": "takes more than some seconds",
    "kill": "kills processes again and again",
    "browser": "needs Chromium, and drives a real JupyterLab",
    "alone": "runs threads that compile and compute: a process of its own, not a worker of xdist",
}

# What takes seconds on a quiet machine: left out of the quick run, part of the full one.
SLOW = """
    recipe/test_demo.py recipe/test_perform.py recipe/test_sets.py recipe/test_classifier.py
    recipe/test_losses.py
    recipe/test_presets.py::test_a_preset_runs
    latent/test_tiny_prior.py latent/test_flat_memory.py latent/test_compvis.py
    views/test_studio.py views/test_runs.py recipe/test_logs.py
    test_device.py test_security.py test_words.py
    test_gpu_ways.py::test_the_code test_gpu_ways.py::test_a_set_
    test_trajectory.py::test_oracle test_trajectory.py::test_memory
    test_trajectory.py::test_compil test_trajectory.py::test_float32
    test_experts.py::test_an_interrupt test_experts.py::test_fast_ways
    test_match.py::test_gradients test_layout.py::test_core_rooms
    test_artifact.py::test_a_fresh_process test_data.py::test_importing
    test_data.py::test_cifar10 test_nets.py::test_timm views/test_plot.py::test_importing
    recipe/test_command.py::test_help recipe/test_command.py::test_bad_input
    latent/test_latents.py::test_autocast views/test_views.py::test_the_saved_notebook
    test_health.py::test_what_is test_health.py::test_who latent/test_quality.py
    latent/test_published.py::test_a_preset test_prune.py::test_scores_of
""".split()

ALONE = "test_studio.py", "test_monitor.py"


def pytest_addoption(parser):
    about = "cases for every reader in tests/fuzz (default: a few)"
    parser.addoption("--fuzz", type=int, default=12, help=about)


def pytest_configure(config):
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(items):
    for item in items:
        path = Path(item.fspath)
        if path.parent.name == "browser":
            item.add_marker(pytest.mark.browser)
        if path.name in ALONE:
            item.add_marker(pytest.mark.alone)
        if path.stem.startswith("test_kill"):
            item.add_marker(pytest.mark.kill)
        if item.nodeid.removeprefix("tests/").startswith(tuple(SLOW)):
            item.add_marker(pytest.mark.slow)
