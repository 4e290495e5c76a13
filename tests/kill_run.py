"""Record experts and distil by IADD in a folder, killed again and again until it gets through.

`python tests/kill_run.py FOLDER KILLS SEED` prints the number of kills; without any it is one
undisturbed run.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from ddnb.artifact import Distilled, save
from ddnb.base.rng import rng
from ddnb.base.run import Run
from ddnb.data import load
from ddnb.distil import Distilling, Pixels, init
from ddnb.experts import record
from ddnb.iadd import IADD
from ddnb.nets import net_for

torch.set_num_threads(1)


def work(folder):
    "The whole path in tiny settings: every stage resumes by being called again."
    data = load("digits")
    data = data.keep(torch.arange(0, len(data.train.y), 4))
    make = net_for(data, "ConvNet", width=8, depth=1)
    experts = record(
        data, make, folder / "experts", n=12, epochs=3, batch=64, seed=3, log=lambda *a: None
    )
    syn = Pixels(*init(data, 1, "real", generator=rng(1)))
    objective = IADD(experts, make, expert_epochs=1, steps=4, generator=rng(2))
    optimiser = torch.optim.Adam(
        [{"params": list(syn.parameters()), "lr": 0.1}, *objective.groups()]
    )
    work = Distilling(syn, objective, optimiser, 100, schedule="cosine")
    recipe = {"seed": 1, "data": data.fingerprint}
    run = Run(folder / "run", work, every=5, recipe=recipe, log=None)
    for _ in run:
        pass
    x, y = syn()
    save(
        Distilled(
            x.detach(), y, data.classes, data.norm, alpha=objective.alpha.item(), card={"seed": 1}
        ),
        folder / "set",
        overwrite=True,
    )


def attempt(folder, delay):
    "One child process, killed after `delay` seconds (None: left alone); whether it got through."
    pid = os.fork()
    if pid == 0:
        try:
            work(folder)
            os._exit(0)
        except BaseException as e:
            print(f"{type(e).__name__}: {e}", file=sys.stderr, flush=True)
            os._exit(1)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("the run failed by itself")
    return os.WIFEXITED(status)


def main(folder, kills, seed):
    "Runs in FOLDER/0, FOLDER/1, ... until the kills are used up; the last one may finish."
    folder, rand, n, runs = Path(folder), random.Random(seed), 0, 0
    while n < kills:
        while n < kills and not attempt(folder / str(runs), rand.uniform(0.02, 0.9)):
            n += 1
        if n < kills:
            runs += 1
    attempt(folder / str(runs), None)
    print(n)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
