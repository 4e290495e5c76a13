"Small distillations in run folders, for tests of the loop, of runs and of their ends."

import torch

from ddnb.base.rng import rng
from ddnb.base.run import Run
from ddnb.data import load
from ddnb.distil import DM, Distilling, Pixels, cosine, init  # noqa: F401
from ddnb.nets import net_for


def small(objective, folder, steps=12, schedule=cosine, validate=None, run=None, **kw):
    "DM or DC on ten digits."
    data = load("digits")
    make = net_for(data, "ConvNet", width=4, depth=1)
    syn = Pixels(*init(data, 1, "real", generator=rng(0)))
    objective = objective(data, make, batch=8, generator=rng(1), **kw)
    adam = torch.optim.Adam(syn.parameters(), lr=0.1)
    work = Distilling(syn, objective, adam, steps, schedule=schedule, validate=validate)
    return Run(folder, work, **{"every": 4, **(run or {})})


def iadd(folder, n=4, wrap=None, run=None, **kw):
    "A tiny IADD run; its W moves by itself, outside the optimiser."
    from ddnb.experts import record
    from ddnb.iadd import IADD

    data = load("digits")
    data = data.keep(torch.arange(0, len(data.train.y), 5))
    make = net_for(data, "ConvNet", width=4, depth=1)
    experts = record(data, make, n=2, epochs=2, batch=64, seed=0, log=None)
    syn = Pixels(*init(data, 1, "real", generator=rng(0)))
    kw = {"expert_epochs": 1, "steps": 3, "lr_w": 0.05, "generator": rng(1), **kw}
    objective = (wrap or IADD)(experts, make, **kw)
    groups = [{"params": syn.parameters(), "lr": 0.1}, *objective.groups()]
    work = Distilling(syn, objective, torch.optim.Adam(groups), n)
    return Run(folder, work, **{"every": 1, "on_divergence": "backoff", **(run or {})})


def failing(at, error=None):
    "IADD whose `at`-th call raises, its gradients left behind; without an error the loss is NaN."
    from ddnb.iadd import IADD

    class Failing(IADD):
        n = 0

        def forward(self, x, y):
            loss = super().forward(x, y)
            Failing.n += 1
            if Failing.n != at:
                return loss
            if error is None:
                return loss * float("nan")
            loss.backward()
            assert self.W.grad.abs().sum() > 0 and self.log_alpha.grad.abs().sum() > 0
            raise error

        def halve(self):
            return "the same chunk"  # so that the step made again is the same step

    return Failing


def same(a, b):
    "Whether two nests of dicts, lists, tensors and plain values are equal."
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def losses(run):
    return [r["loss"] for r in run.history]
