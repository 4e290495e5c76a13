"The command in this process or in one that gets a signal, and what it is given."

import contextlib
import importlib
import io
import os
import subprocess
import sys

import numpy as np
from PIL import Image

from ddnb.cli import main

TINY = "--steps 3 --experts 1 --nets 1 --repeats 1 --width 4 --size 8 --device cpu".split()
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*argv):
    "Exit status, stdout and stderr of the command."
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(a) for a in argv])
    return code, out.getvalue(), err.getvalue()


def pictures(folder, classes=("no", "yes", "may-be"), n=16):
    "A folder of small pictures: each class has its own dark row, and sizes and modes differ."
    g = np.random.default_rng(0)
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            a = g.integers(100, 255, (8 + i % 3, 8)).astype("uint8")
            a[2 * c : 2 * c + 2] //= 8
            Image.fromarray(a).convert(("L", "RGB", "P")[i % 3]).save(folder / name / f"{i}.png")
    return folder


# The command, which sends itself a signal at the `at`-th call of a function.
_STOPPED = """
import importlib, itertools, os, sys
from ddnb.cli import main

module, name, at, sig, *argv = sys.argv[1:]
m, n = importlib.import_module(module), itertools.count(1)
f = getattr(m, name)


def hit(*a, **kw):
    if next(n) == int(at):
        os.kill(os.getpid(), int(sig))
    return f(*a, **kw)


setattr(m, name, hit)
sys.exit(main(argv))
"""


def stopped(module, name, at, sig, *argv):
    "Exit status, stdout and stderr of the command in a process of its own, that gets a signal."
    words = [module, name, at, int(sig), *argv]
    args = [sys.executable, "-c", _STOPPED, *map(str, words)]
    done = subprocess.run(
        args, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return done.returncode, done.stdout, done.stderr


def counted(monkeypatch, module, name):
    "The list that grows with every call of a function."
    m, calls = importlib.import_module(module), []
    f = getattr(m, name)
    monkeypatch.setattr(m, name, lambda *a, **kw: calls.append(1) or f(*a, **kw))
    return calls


def set_bytes(folder):
    return (folder / "distilled.safetensors").read_bytes()
