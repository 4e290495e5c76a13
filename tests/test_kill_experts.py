"A recording killed at random moments and called again ends with the files of one that never was."

import random
from functools import partial

import torch
from kill import killed, needs_fork

from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.nets import MLP
from ddnb.trajectory import record


def work(folder):
    "Twenty experts of a tiny network."
    torch.set_num_threads(1)
    x = torch.randint(256, (400, 1, 4, 4), generator=rng(0), dtype=torch.uint8)
    data = load((x, torch.arange(400) % 4), valid=0.1, test=0.1)
    make = partial(MLP, 1, 4, 4, width=8, depth=1)
    record(data, make, folder, n=20, epochs=30, batch=32, progress=False)


def experts(folder):
    return sorted(folder.glob("expert_*.safetensors"))


def content(folder):
    return {f.name: f.read_bytes() for f in experts(folder)}


@needs_fork
def test_ten_kills_and_the_same_files(tmp_path):
    whole, broken, rand, midway = tmp_path / "whole", tmp_path / "broken", random.Random(0), 0
    killed(work, whole, after=None)
    want = content(whole)
    assert len(want) == 20
    for _ in range(10):
        goal = len(experts(broken)) + rand.randint(0, 2)
        reached = lambda: len(experts(broken)) >= goal
        after = rand.uniform(0, 0.05)  # somewhere in the next ones: in training, in writing
        killed(work, broken, after=after, until=reached)
        got = content(broken)
        assert all(want[name] == raw for name, raw in got.items()), "not whole, or not right"
        midway += 0 < len(got) < 20
    killed(work, broken, after=None)
    assert content(broken) == want and not list(broken.glob(".*.tmp"))
    assert midway >= 3, "too quick to be interrupted"
