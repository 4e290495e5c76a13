"A step that fails leaves nothing, and where memory ends it is made again as the same step."

import pytest
import torch

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.distil import DC, Distilling, Pixels, distill, init
from ddnb.distil.memory import Snapshot, untouched
from ddnb.distil.syn import Seeded

D = load("digits")


class Greedy(Seeded):
    "Fits with chunks of at most `needs`."

    def __init__(self, needs):
        super().__init__(0)
        self.chunk, self.needs = 16, needs
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x, y):
        self.calls += 1
        noise = torch.randn((), generator=self.generator)
        if self.chunk > self.needs:
            raise torch.OutOfMemoryError("full")
        return (x * noise).square().sum()

    def halve(self):
        self.chunk //= 2
        return f"chunk={self.chunk}"


def pixels():
    return Pixels(torch.ones(2, 1, 4, 4), torch.arange(2))


@pytest.mark.parametrize("needs, advice", [(2, "chunk=2"), (-1, "no smaller one")])
def test_memory_that_ends_twice_is_told_with_what_would_fit(needs, advice):
    greedy, syn = Greedy(needs), pixels()
    before = greedy.generator.get_state()
    with pytest.warns(UserWarning, match="chunk=8"), pytest.raises(DdnbError, match=advice):
        list(distill(syn, greedy, torch.optim.Adam(syn.parameters()), 1))
    assert greedy.generator.get_state().equal(before) and greedy.calls == 0
    assert syn.x.grad is None


def test_memory_that_ends_where_nobody_works_in_chunks():
    class Whole(Seeded):
        def forward(self, x, y):
            raise torch.OutOfMemoryError("full")

    syn = pixels()
    with pytest.raises(DdnbError, match="images per class"):
        list(distill(syn, Whole(), torch.optim.Adam(syn.parameters()), 1))


def test_a_snapshot_puts_back_streams_and_counters_of_both_modules():
    a, b = Greedy(99), Greedy(99)
    before = Snapshot(a, b)
    x = torch.ones(1, 1, 2, 2)
    first = [m(x, None).item() for m in (a, b)]
    before.restore()
    assert [m(x, None).item() for m in (a, b)] == first and a.calls == b.calls == 1


def test_untouched_also_where_the_block_fails():
    syn, greedy = pixels(), Greedy(99)
    state = greedy.generator.get_state()
    with pytest.raises(RuntimeError), untouched(syn, greedy):
        greedy(*syn()).backward()
        with torch.no_grad():
            syn.x.zero_()
        raise RuntimeError
    assert syn.x.eq(1).all() and syn.x.grad is None and greedy.calls == 0
    assert greedy.generator.get_state().equal(state)


@pytest.mark.parametrize("fails_in", ["forward", "backward"])
def test_a_call_of_dc_is_the_same_when_made_again(fails_in):
    "Its network was trained for the call that failed, and is not trained for it twice."

    class Tight(DC):
        failing = None

        def forward(self, x, y):
            loss = super().forward(x, y)
            if self.failing == int(self.calls):
                self.failing = None
                if fails_in == "forward":
                    raise torch.OutOfMemoryError("full")
                loss.register_hook(self._fail)
            return loss

        def _fail(self, g):
            raise torch.OutOfMemoryError("full")

        def halve(self):
            return "nothing"

    def losses(failing):
        syn = Pixels(*init(D, 2, generator=0))
        kw = dict(batch=8, batch_net=4, outer=3, inner=2, generator=rng(1), aug="color_crop")
        dc = Tight(D, "MLP", **kw)
        dc.failing = failing
        adam = torch.optim.Adam(syn.parameters(), 0.1)
        return [r["loss"] for r in Distilling(syn, dc, adam, 5)]

    calm = losses(None)
    with pytest.warns(UserWarning, match="once more"):
        assert losses(3) == calm
