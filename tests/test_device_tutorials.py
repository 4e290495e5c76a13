"""Every quick cell of the tutorials, with its data on the pretended device: nobody says `.to`.

Sets are thin and counts small, so that a tutorial takes seconds: what is asked here is whether it
runs there, not what comes out. `cluster` computes in processes of its own and stays away.
"""

import json
import re
import warnings
from functools import wraps
from pathlib import Path

import matplotlib
import pytest
import torch
from pretend_cuda import pretended

import ddnb.data

TUTORIALS = Path(__file__).parents[1] / "nbs" / "tutorials"
LEFT = "#| slow", "#| cuda"  # cells that take minutes, or want a GPU of their own
SMALL = [  # what stands in all of them: what stands for it here
    (r"width=(8|16|32)\b", "width=4"),
    (r"depth=2", "depth=1"),
    (r"seeds=3(, steps=\d+)?", "seeds=2, steps=2"),
]
CHANGES = {  # tutorial: [(what stands there, what stands for it here)]
    "quickstart": [
        (r"monitor.start\(work\)", "monitor.prepare(None)\nfor r in work:\n    monitor.take(r)"),
        (r"monitor.wait\(\)", ""),  # it computes in a thread, where nothing is pretended
        (r"optimiser, 60,", "optimiser, 3,"),
        (r"start, 60:", "start, 3:"),
    ],
    "prune": [
        (r"steps=(60|150)", "steps=2"),
        (r"steps=20, batch", "steps=1, batch"),
        (r"repeats=2", "repeats=1"),
        (r"ipc=10", "ipc=1"),
        (r"\(d, 10,", "(d, 1,"),
    ],
    "iadd": [
        (r"steps=12, max", "steps=2, max"),
        (r"full=\(12,\)", "full=(2,)"),
        (r"history\[12\]", "history[2]"),
        (r"inner=10", "inner=2"),
        (r"seeds=seeds", "seeds=seeds, steps=2"),
        (r'"uniform", "mask", "paper", "mean1"\)\]', '"uniform", "mean1")]'),
    ],
    "compare": [(r"dm\(1, 20", "dm(1, 2")],
    "own_data": [
        (r'"width": 16, "depth": 2', '"width": 4, "depth": 1'),
        (r'"steps": 60', '"steps": 3'),
        (r'\{"nets": 3\}', '{"nets": 2, "full": 1, "baselines": False, "epochs": 2}'),
    ],
    "long_runs": [
        (r"steps=60", "steps=2"),
        (r"steps=40", "steps=12"),
        (r"every=10", "every=4"),
        (r"\(13, 30, None\)", "(3, 7, None)"),
        (r"history\) == 40", "history) == 12"),
        (r"steps=1000", "steps=100"),
        # together experts round otherwise than one alone
        (r"assert lost.read_bytes\(\) == before", ""),
    ],
    "ld3m": [
        (r"tiny_prior\(data\)", "tiny_prior(data, steps=(2, 2))"),
        (r"steps=300", "steps=2"),
        (r"n=20", "n=1"),
        (r"\(1, 5, 10, 20\)", "(1, 2)"),
        (r"quality\[10\] >= 55", "quality"),
        (r"\(5, 10, 20\)", "(2,)"),
        (r"range\(3\)", "range(1)"),
        (r"min\(ratio.values\(\)\) >= 5", "ratio"),
        (r"Sampler\(prior, 5,", "Sampler(prior, 2,"),
        (r"steps=25", "steps=2"),
        (r"distilled > real", "live"),
        (r"steps=\(1, 5\)", "steps=(1, 2)"),
    ],
}


def cells(name):
    "The code that a user runs."
    notebook = json.loads((TUTORIALS / f"{name}.ipynb").read_text())
    sources = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    return [source for source in sources if not source.startswith(LEFT)]


def shortened(name):
    "The same with small counts; what is to be replaced has to stand there."
    code = "\n# %%\n".join(cells(name))
    for old, new in SMALL:
        code = re.sub(old, new, code)
    for old, new in CHANGES[name]:
        code, found = re.subn(old, new, code)
        assert found, old
    return code.split("\n# %%\n")


def thinned(load, n=150):
    "`load` onto the device, for about n train images of a set that has more."

    @wraps(load)
    def loaded(*given, **options):
        data = load(*given, device="cuda", **options)
        return data.keep(torch.arange(0, len(data.train), max(1, len(data.train) // n)))

    return loaded


LONG = "iadd", "ld3m", "long_runs", "own_data"  # these take some seconds


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=pytest.mark.slow if k in LONG else ()) for k in CHANGES]
)
def test_a_tutorial_with_its_data_on_the_device(name, monkeypatch, tmp_path):
    matplotlib.use("Agg")
    monkeypatch.setattr(ddnb.data, "load", thinned(ddnb.data.load))
    monkeypatch.setenv("DDNB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names = {"display": print, "__name__": name}
    with pretended() as counts, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of little training
        for source in shortened(name):
            if "JOB" not in source and "submit(" not in source:  # in a process of its own
                exec(compile(source, name, "exec"), names)
    assert counts["kernels"] and not counts["unseeded"]
