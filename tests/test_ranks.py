"""One distillation by two processes: the images of one process, and gone on with after a kill.

Two parts of a step add up in one way only, so two segments by two processes give equal bytes; more
of them add up in another order, which moves the last digits.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from ddnb.base.check import DdnbError
from ddnb.distil import DM, Divisible, mine
from ddnb.distil.ranks import Ranks, joined
from ddnb.share import load

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}

JOB = """
import sys

import torch

from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.distil import DC, DM, Distilling, Pixels, init
from ddnb.distil.ranks import joined
from ddnb.nets import net_for
from ddnb.trajectory import IADD, MTT, record

torch.set_num_threads(1)
data = load("digits")
data = data.keep(torch.arange(0, len(data.train.y), 6))
make = net_for(data, "ConvNet", width=4, depth=1)
experts = record(data, make, n=2, epochs=3, batch=64, seed=0, log=None, progress=False)
how = dict(steps=3, max_start=1, expert_epochs=1)
objectives = {
    "DM": lambda g: DM(data, make, batch=16, generator=g),
    "DC": lambda g: DC(data, make, batch=16, outer=2, generator=g),
    "DC by classes": lambda g: DC(data, make, batch=16, batched=False, generator=g),
    "MTT": lambda g: MTT(experts, make, segments=2, generator=g, **how),
    "IADD": lambda g: IADD(experts, make, segments=2, generator=g, **how),
    "IADD of four": lambda g: IADD(experts, make, segments=4, generator=g, **how),
}
found = {}
with joined() as ranks:
    for name, of in objectives.items():
        syn, objective = Pixels(*init(data, 1, generator=rng(0))), of(rng(1))
        groups = [{"params": syn.parameters(), "lr": 0.1}, *objective.groups()]
        work = Distilling(syn, objective, torch.optim.Adam(groups), 6, ranks=ranks)
        last = list(work)[-1]
        found[name] = syn.x.detach().clone()
        if hasattr(objective, "W"):
            found[f"W of {name}"] = objective.W.detach().clone()
        for key in ("loss", "loss_unweighted", "worst_share"):
            found[f"{key} of {name}"] = torch.tensor(float(last.get(key, 0)))
    if ranks is None or ranks.first:
        torch.save(found, sys.argv[1])
"""


def images(folder, *launcher):
    "What the script leaves."
    script, out = folder / "job.py", folder / "found.pt"
    script.write_text(JOB)
    command = [*(launcher or [sys.executable]), str(script), str(out)]
    r = subprocess.run(command, env=ENV, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.slow
def test_two_processes_give_the_images_of_one(tmp_path):
    one = images(tmp_path)
    two = images(tmp_path, *TORCHRUN)
    assert one.keys() == two.keys()
    for name, x in one.items():
        torch.testing.assert_close(two[name], x, rtol=1e-4, atol=1e-5, msg=name)
    for name in ("MTT", "IADD", "W of IADD"):  # two segments
        assert torch.equal(one[name], two[name]), name


def test_every_item_has_one_part():
    for n, world in ((2, 2), (5, 2), (10, 3), (4, 4)):
        parts = [mine(range(n), (rank, world)) for rank in range(world)]
        assert sorted(k for part in parts for k in part) == list(range(n))
        assert parts[0][-1] == n - 1 and max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(DdnbError, match="3 processes cannot share 2 parts.*segments"):
        mine(range(2), (0, 3))


def test_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with joined() as ranks:
        assert ranks is None
    with pytest.raises(DdnbError, match="Linear cannot be shared by 2 processes"):
        Ranks(0, 2).divide(torch.nn.Linear(1, 1))
    from ddnb.data import load as load_data

    assert isinstance(DM(load_data("digits")), Divisible)


RECIPE = {
    "network": {"width": 4},
    "prune": {"nets": 1, "epochs": 1},
    "experts": {"n": 2},
    "objective": {"name": "MTT", "steps": 2, "max_start": 1, "expert_epochs": 1, "segments": 2},
    "judge": {"nets": 1, "baselines": False},
    "steps": 240,
    "repeats": 1,
    "seed": 0,
}


def children(pid):
    "The processes that a process has started."
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(p) for p in f.read().split()]


def steps_in(out):
    log = out / "run" / "records.jsonl"
    return len(log.read_text().splitlines()) - 1 if log.exists() else 0


def command(folder, out, *launcher):
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE))
    words = "-m", "ddnb.cli", "run", str(folder / "recipe.yaml"), "--out", str(out)
    return [*(launcher or [sys.executable]), *words]


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
def test_a_killed_rank_ends_all_and_the_same_command_goes_on(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(command(tmp_path, one), env=ENV, check=True, capture_output=True)
    job = subprocess.Popen(command(tmp_path, two, *TORCHRUN), env=ENV, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while steps_in(two) < 120 and job.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(children(job.pid)[-1], signal.SIGKILL)
    assert job.wait(300) != 0 and not (two / "results.json").exists()
    again = subprocess.run(command(tmp_path, two, *TORCHRUN), env=ENV, capture_output=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert torch.equal(load(one).x, load(two).x)
    told = [json.loads((p / "results.json").read_text())["results"][0] for p in (one, two)]
    assert told[0]["accuracy"] == told[1]["accuracy"]


@pytest.mark.slow
def test_too_few_segments_are_refused_before_anything_is_computed(tmp_path):
    words = command(tmp_path, tmp_path / "out", *TORCHRUN) + ["--objective.segments", "1"]
    r = subprocess.run(words, env=ENV, capture_output=True, text=True)
    assert r.returncode != 0 and "2 processes cannot share 1 part" in r.stderr
    assert not (tmp_path / "out").exists()
