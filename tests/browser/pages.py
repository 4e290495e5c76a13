"The notebooks that the browser tests open: one cell per view, on the digits and on invented records."

import nbformat.v4 as v4

HEAD = """
import time, math, torch
from ddnb import data as D, views as V
data = D.load('digits')
x, y = data.xy()
mean = torch.stack([x[y == c].mean(0) for c in range(10)])
score = (x - mean[y]).flatten(1).norm(dim=1)
GROUPS = ['conv0.weight', 'conv1.weight', 'head.weight', 'head.bias']
def records(n=4000, pause=.02):
    for t in range(1, n + 1):
        time.sleep(pause)
        W = {g: dict(mean=1 + (i - 1.5)*.2*(1 - math.exp(-t/60)), q05=.8, q50=1., q95=1.2) for i, g in enumerate(GROUPS)}
        u = .5 + math.exp(-t/60)
        yield dict(step=t, loss=u*.9, loss_unweighted=u, alpha=.01 + t*1e-5, seconds=pause, W=W) | (dict(valid=1 - u/2) if t%20 == 0 else {})
"""
CELLS = dict(
    pruning="pruning = V.PruningExplorer(score, data=data)\npruning",
    importance="importance = V.ImportanceExplorer({'mean1': list(records(120, 0)), 'paper': list(records(120, 0))})\nimportance",
    gallery="""y5 = torch.arange(10).repeat_interleave(5)
a = torch.cat([data.batch(c, 5, D.rng(c)) for c in range(10)])
gallery = V.DistilledGallery({s: a*(1 - s/400) + mean[y5]*s/400 for s in (0, 100, 200, 300, 400)}, y5, classes=data.classes, norm=data.norm)
gallery""",
    run="""run = V.RunMonitor(4000)
run.start(records())
run""",
    cross="""import random
rows = [dict(train=t, net=n, accuracy=a + b + random.Random(s).gauss(0, .02)) for t, a in (('random', .6), ('distilled', .75)) for n, b in (('ConvNet', .1), ('MLP', 0.)) for s in range(4)]
cross = V.CrossArchitecture(rows, reference={'full data': .97, 'chance': .1})
cross""",
    latents="import os, tempfile\nos.environ['DDNB_CACHE'] = tempfile.mkdtemp() # no prior from an earlier run\nstudio = V.Studio(data)\nstudio",
    studio="import tempfile\nstudio = V.Studio(folder=tempfile.mkdtemp() + '/mine')\nstudio",
)


def notebook(*names, after=()):
    return v4.new_notebook(
        cells=[v4.new_code_cell(s.strip()) for s in (HEAD, *(CELLS[n] for n in names), *after)]
    )
