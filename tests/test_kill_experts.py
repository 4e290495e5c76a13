"A recording that is killed at random moments and called again ends with the files of one that never was."

import hashlib, os, random, subprocess, sys, textwrap, time

import pytest

pytestmark = pytest.mark.kill

CODE = """
import sys, torch
torch.set_num_threads(1)
from functools import partial
from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.trajectory import record
from ddnb.nets import MLP
g = rng(0); data = load((torch.randint(256, (400, 1, 4, 4), generator=g, dtype=torch.uint8), torch.arange(400) % 4), valid=.1, test=.1)
make = partial(MLP, 1, 4, 4, width=8, depth=1)
print('ready', flush=True)
record(data, make, sys.argv[1], n=20, epochs=int(sys.argv[2]), batch=32, progress=False)
print('done', flush=True)
"""


def start(folder, epochs=30):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CODE), str(folder), str(epochs)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def files(folder):
    return {
        f.name: hashlib.sha256(f.read_bytes()).hexdigest()
        for f in folder.glob("expert_*.safetensors")
    }


def have(folder):
    return len(list(folder.glob("expert_*.safetensors")))


def test_ten_kills_and_the_same_files(tmp_path):
    p = start(tmp_path / "whole")
    out, _ = p.communicate(timeout=300)
    assert "done" in out
    want = files(tmp_path / "whole")
    assert len(want) == 20
    rand, midway = random.Random(0), 0
    for _ in range(10):
        p = start(tmp_path / "killed")
        p.stdout.readline()
        goal = have(tmp_path / "killed") + rand.randint(0, 2)
        while p.poll() is None and have(tmp_path / "killed") < goal:
            time.sleep(0.002)
        time.sleep(rand.random() * 0.05)  # somewhere in the next ones: in training, in writing
        if p.poll() is None:
            p.kill()
        p.wait()
        p.stdout.close()
        assert all(
            want[k] == v for k, v in files(tmp_path / "killed").items()
        )  # whatever is there is whole and right
        midway += 0 < have(tmp_path / "killed") < 20
    p = start(tmp_path / "killed")
    out, _ = p.communicate(timeout=300)
    assert "done" in out
    assert files(tmp_path / "killed") == want and not list((tmp_path / "killed").glob(".*.tmp"))
    assert midway >= 3  # the kills did interrupt
