"The notebooks that the browser tests open: one cell per view, on the digits and invented records."

import nbformat.v4 as v4

HEAD = """
import math
import tempfile
import time
import torch
from ddnb import data as D
from ddnb import views as V

data = D.load("digits")
x, y = data.xy()
mean = torch.stack([x[y == c].mean(0) for c in range(10)])
score = (x - mean[y]).flatten(1).norm(dim=1)
GROUPS = ["conv0.weight", "conv1.weight", "head.weight", "head.bias"]


def importance_at(t):
    spread = 0.2 * (1 - math.exp(-t / 60))
    return {
        g: dict(mean=1 + (i - 1.5) * spread, q05=0.8, q50=1.0, q95=1.2)
        for i, g in enumerate(GROUPS)
    }


def records(n=4000, pause=0.02):
    for t in range(1, n + 1):
        time.sleep(pause)
        u = 0.5 + math.exp(-t / 60)
        r = dict(step=t, loss=u * 0.9, loss_unweighted=u, alpha=0.01 + t * 1e-5, seconds=pause)
        r["W"] = importance_at(t)
        if t % 20 == 0:
            r["valid"] = 1 - u / 2
        yield r
"""
PRUNING = """
pruning = V.PruningExplorer(score, data=data)
pruning
"""
IMPORTANCE = """
runs = {name: list(records(120, 0)) for name in ("mean1", "paper")}
importance = V.ImportanceExplorer(runs)
importance
"""
GALLERY = """
y5 = torch.arange(10).repeat_interleave(5)
a = torch.cat([data.batch(c, 5, D.rng(c)) for c in range(10)])
steps = {s: a * (1 - s / 400) + mean[y5] * s / 400 for s in (0, 100, 200, 300, 400)}
gallery = V.DistilledGallery(steps, y5, classes=data.classes, norm=data.norm)
gallery
"""
RUN = """
run = V.RunMonitor(4000)
run.start(records())
run
"""
CROSS = """
import random

rows = [
    dict(train=t, net=n, accuracy=a + b + random.Random(s).gauss(0, 0.02))
    for t, a in (("random", 0.6), ("distilled", 0.75))
    for n, b in (("ConvNet", 0.1), ("MLP", 0.0))
    for s in range(4)
]
cross = V.CrossArchitecture(rows, reference={"full data": 0.97, "chance": 0.1})
cross
"""
LATENTS = """
studio = V.Studio(data, folder=tempfile.mkdtemp() + "/mine")  # no prior from an earlier run
studio.c["prune.keep"].value = "1"
studio
"""
STUDIO = """
studio = V.Studio(folder=tempfile.mkdtemp() + "/mine")
studio
"""
CELLS = {
    "pruning": PRUNING,
    "importance": IMPORTANCE,
    "gallery": GALLERY,
    "run": RUN,
    "cross": CROSS,
    "latents": LATENTS,
    "studio": STUDIO,
}


def notebook(*names, after=()):
    sources = [HEAD, *(CELLS[n] for n in names), *after]
    return v4.new_notebook(cells=[v4.new_code_cell(s.strip()) for s in sources])
