"""What a hasty person types.

The wrong kind of thing in the right place is answered by one sentence that names it, in every room.
"""

import numpy as np
import pytest
import torch

from ddnb import artifact, augment, distill, evaluate, latent, match, nets, prune, store, syn
from ddnb import data as D
from ddnb.store import DdnbError

DATA, RGB = D.load("digits"), D.load("shapes", size=8, counts=(20, 10, 10))
X, Y = syn.init(DATA, 1)
SMALL = dict(nets="MLP", seeds=1, steps=1)
SET = artifact.Distilled(X, Y, DATA.classes, DATA.norm)


def run(recipe=None, **kw):
    p = syn.Pixels(X, Y)
    dm, sgd = match.DM(DATA, "MLP", batch=2), torch.optim.SGD(p.parameters(), 0.1)
    return distill.Run("x", distill.Distilling(p, dm, sgd, 2, **kw), recipe=recipe)


def linear(inputs, outputs):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, outputs))


def judged(**network):
    return evaluate.evaluate((X, Y), DATA, network, seeds=1, steps=1)


SLIPS = {
    "grey statistics for colour": (lambda: RGB.norm.encode(DATA.train.x), "for 3 channels"),
    "words for images": (lambda: DATA.norm.encode("three.png"), "tensor or an array"),
    "words for statistics": (lambda: D.Norm("a", "b"), "no numbers"),
    "no such device": (lambda: DATA.to("gpu"), "device 'gpu'"),
    "a yes for a cache": (lambda: D.load("digits", cache=True), "cache is True"),
    "names as one word": (
        lambda: D.load((np.zeros((4, 8, 8)), [0, 1, 0, 1]), classes="ab"),
        "list of 2 names",
    ),
    "clutter in words": (lambda: D.load("shapes", clutter="much"), "clutter is"),
    "no width": (lambda: nets.net_for(DATA, width=0)(), "width is 0"),
    "half a layer": (lambda: nets.net_for(DATA, depth=2.5)(), "depth is 2.5"),
    "a size in words": (lambda: nets.ConvNet(1, 10, "big"), "The size is"),
    "colour into a grey network": (lambda: nets.net_for(DATA)()(RGB.xy()[0]), r"\[n,1,H,W\]"),
    "a network for a factory": (lambda: nets.wrap(nets.net_for(DATA)()), "returns a fresh network"),
    "a name for a network": (lambda: nets.Flat("ConvNet"), "net is 'ConvNet'"),
    "weights of another network": (
        lambda: nets.Flat(nets.net_for(DATA, "MLP")()).load(torch.zeros(3)),
        "one vector of",
    ),
    "arrays for augmentation": (lambda: augment.DSA()(X.numpy(), {}), "ndarray"),
    "no draws": (lambda: augment.DSA().draw(0, 0), "n is 0"),
    "turns in words": (lambda: augment.DSA(rotate="15"), "rotate is"),
    "an init of another shape": (
        lambda: syn.init(DATA, 2, lambda x, ipc, g: x[:1]),
        r"\[1, 1, 8, 8\].*\[2, 1, 8, 8\]",
    ),
    "a rate below zero": (lambda: match.DC(DATA, "MLP", lr_net=-1), "lr_net is -1"),
    "no proxy steps": (lambda: match.dm_proxy("MLP", steps=0), "steps is 0"),
    "nothing to match": (lambda: match.DM(DATA, "MLP")(None, Y), "NoneType"),
    "a classifier by name": (lambda: prune.scores(DATA, classifier="resnet18"), "not its name"),
    "a share too many": (
        lambda: prune.keep(torch.rand(len(DATA)), DATA, order="band", skip=2),
        "skip is 2",
    ),
    "one fraction": (
        lambda: prune.auto_keep(torch.rand(len(DATA)), DATA, lambda d, g: 0.5, fractions=0.5),
        "shares to try",
    ),
    "no proxy": (lambda: prune.auto_keep(torch.rand(len(DATA)), DATA, "DM"), "proxy is"),
    "a recipe in words": (lambda: run(recipe="mine"), "recipe is"),
    "a judge in words": (lambda: run(validate="accuracy"), "validate is"),
    "a network of other classes": (
        lambda: judged(mine=nets.wrap(lambda: linear(64, 3))),
        "each of the 10 classes",
    ),
    "a network of other images": (
        lambda: judged(mine=nets.net_for(RGB)),
        r"\[n,3,H,W\]",
    ),
    "a layer that does not fit": (
        lambda: judged(mine=nets.wrap(lambda: linear(9, 10))),
        "cannot take images",
    ),
    "a make of nothing": (
        lambda: judged(mine=lambda generator=None: None),
        "gave a NoneType",
    ),
    "a folder that is a number": (
        lambda: evaluate.evaluate((X, Y), DATA, folder=3, **SMALL),
        "folder is 3",
    ),
    "no sampling steps": (lambda: latent.tradeoff(None), "Prior was expected"),
    "an empty prior": (lambda: latent.Prior.random(width=0), "width is 0"),
    "an export nowhere": (lambda: artifact.to_mtt(SET, None), "path is None"),
    "an import of nothing": (lambda: artifact.from_npz(None), "path is None"),
    "a sheet without columns": (lambda: artifact.contact_sheet(SET, columns=0), "columns is 0"),
    "a file without a name": (lambda: store.write_atomic(None, b""), "path is None"),
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_answered_in_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    f, says = SLIPS[name]
    with pytest.raises(DdnbError, match=says) as e:
        f()
    assert "\n" not in str(e.value) and len(str(e.value)) < 400 and not list(tmp_path.iterdir())
