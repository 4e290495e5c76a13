"The choice on screen is the one that prune.keep makes."

import pytest
import torch

from ddnb import data as D
from ddnb import views as V
from ddnb.base.check import DdnbError

from .hands import front


def test_pruning_agrees_with_prune_keep(data):
    from ddnb.prune import keep

    loss = torch.rand(len(data.train), generator=D.rng(0))
    v = V.PruningExplorer(loss, data=data)
    for f, order, per in ((0.3, "easy", "class"), (0.5, "hard", "class"), (0.8, "easy", "global")):
        front(v.c_keep, value=f)
        front(v.c_order, index=["easy", "hard"].index(order))
        front(v.c_per, index=["class", "global"].index(per))
        want = keep(loss, data, f, order=order, per=per)
        assert (
            torch.equal(v.kept.indices, want.indices) and (v.kept_idx == want.indices.numpy()).all()
        )
        assert (
            v.counts.tolist() == want.counts
            and f"kept {len(want)} of {len(data.train)}" in v.summary()
        )


def test_pruning_that_empties_a_class_is_said_and_refused(data):
    loss = (data.train.y == 3).float() + 0.1 * torch.rand(len(data.train), generator=D.rng(0))
    v = V.PruningExplorer(loss, data=data, keep=0.5)
    front(v.c_per, index=1)
    assert (
        v.kept is None
        and "fewer than 1 left in class 3" in v.summary()
        and 'role="alert"' in v.trouble.value
    )
    with pytest.raises(DdnbError):
        v.subset(data)
    front(v.c_per, index=0)
    assert v.kept is not None and v.trouble.value == ""


def test_pruning_without_images_and_with_a_loader_and_empty():
    loss, y, asked = torch.rand(30), torch.arange(30) % 3, []
    V.PruningExplorer(loss, y)

    def loader(i):
        asked.append(len(i))
        return torch.zeros(len(i), 1, 4, 4)

    V.PruningExplorer(loss, y, loader)
    assert asked and max(asked) <= 20
    assert (
        V.PruningExplorer(torch.zeros(0), torch.zeros(0, dtype=torch.long)).summary()
        == "no images to prune"
    )
    with pytest.raises(DdnbError, match="30 losses for 29 labels"):
        V.PruningExplorer(loss, y[1:])


def test_pruning_pages_show_every_dropped_image_once():
    loss, y = torch.arange(90.0), torch.zeros(90, dtype=torch.long)
    seen = []
    v = V.PruningExplorer(
        loss, y, lambda i: (seen.append(i.tolist()), torch.zeros(len(i), 1, 4, 4))[1], keep=0.5
    )
    seen.clear()
    for p in range(1, v.c_page.max + 1):
        front(v.c_page, value=p) if p > 1 else v.draw()
    assert sorted(sum(seen, [])) == list(range(90))
