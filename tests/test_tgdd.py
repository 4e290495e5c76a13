"Half-trained networks for any objective, and what a later one says: draws, bytes, resuming."

from functools import cache

import pytest
import torch
import torch.nn.functional as F

from ddnb.base.check import DdnbError
from ddnb.base.forms import read_json
from ddnb.base.rng import rng
from ddnb.base.run import Run
from ddnb.data import load
from ddnb.distil import DC, DM, Distilling, Pixels, Sum, distill, init
from ddnb.distil.memory import Snapshot
from ddnb.nets import net_for
from ddnb.nets.augment import DIGITS, DSA
from ddnb.recipe import Recipe, perform
from ddnb.share import load as load_set
from ddnb.trajectory import TGDD, Calibrate, Snapshots, record

D = load("digits")
MAKE = net_for(D, width=4, depth=2)


@cache
def experts():
    return record(D, MAKE, n=3, epochs=4, progress=False)


def syn():
    return Pixels(*init(D, 1, generator=rng(0)))


def run(objective, steps=4):
    images = syn()
    adam = torch.optim.Adam(images.parameters(), lr=0.1)
    records = list(distill(images, objective, adam, steps))
    return images.x.detach(), records


def tgdd(seed=1, **kw):
    return TGDD(experts(), **{"data": D, "batch": 8, "generator": rng(seed), **kw})


# ---- snapshots


def test_every_expert_and_epoch_is_drawn_alike():
    nets, g = Snapshots(experts(), min_start=1, max_start=3), rng(0)
    drawn = [nets.draw(g) for _ in range(900)]
    counts = torch.tensor([[drawn.count((k, e)) for e in (1.0, 2.0, 3.0)] for k in range(3)])
    assert counts.sum() == 900 and counts.min() > 60
    later = [nets._between(2.0, 3, g) for _ in range(200)]
    assert set(later) == {2.0, 3.0}


def test_fractions_of_an_epoch_are_drawn_where_they_were_kept():
    fine = record(D, MAKE, n=1, epochs=1, per_epoch=4, progress=False)
    nets, g = Snapshots(fine), rng(0)
    assert {nets.draw(g)[1] for _ in range(100)} == {0, 0.25, 0.5, 0.75, 1}


def test_mixtures_lie_between_their_ends():
    nets = Snapshots(experts(), how="mixed")
    first, last = experts().rows(2, [0, 4])
    assert torch.equal(nets.weights(2, 1.0), first) and torch.equal(nets.weights(2, 0.0), last)
    assert torch.allclose(nets.weights(2, 0.25), 0.25 * first + 0.75 * last)
    nets(generator=rng(0))
    later = nets.later(rng(1), ahead=6)
    assert torch.equal(nets.flat.theta(later), experts().rows(nets.taken[0], [4])[0])


def test_windows_that_experts_do_not_reach_are_refused():
    for kw in (dict(max_start=5), dict(min_start=3, max_start=2)):
        with pytest.raises(DdnbError, match="0 to 4"):
            Snapshots(experts(), **kw)
    with pytest.raises(DdnbError, match="'mixed'"):
        Snapshots(experts(), how="mix")


@pytest.mark.parametrize("kind", [DM, DC])
def test_objectives_take_them_for_a_make(kind):
    nets = Snapshots(experts())
    a, _ = run(kind(D, nets, batch=8, generator=rng(1)))
    b, _ = run(kind(D, Snapshots(experts()), batch=8, generator=rng(1)))
    c, _ = run(kind(D, MAKE, batch=8, generator=rng(1)))
    assert torch.equal(a, b) and not torch.equal(a, c)


# ---- the later snapshot


def test_the_loss_is_that_of_a_later_snapshot_class_by_class():
    nets = Snapshots(experts())
    nets(generator=rng(5))
    x, y = init(D, 3, generator=rng(0))
    got = Calibrate(nets, generator=rng(2))(x, y)
    expert, start = nets.taken
    net = nets.net(expert, nets._between(start, min(start + 6, 4), rng(2)))
    want = sum(F.cross_entropy(net(x[y == c]), y[y == c]) for c in range(10))
    assert torch.allclose(got, want, rtol=1e-5)
    soft = Calibrate(nets, generator=rng(2))
    soft.seen = nets.draws - 1
    assert torch.allclose(soft(x, F.one_hot(y, 10).float()), want, rtol=1e-5)


def test_alone_it_draws_beside_others_it_does_not():
    nets = Snapshots(experts())
    alone = Calibrate(nets, generator=rng(0))
    x, y = init(D, 1)
    for calls in (1, 2, 3):
        alone(x, y)
        assert nets.draws == calls
    both = Sum([(1, DM(D, nets, batch=8)), (1, Calibrate(nets)), (2, Calibrate(nets))])
    both(x, y)
    assert nets.draws == 4


def test_weight_zero_is_dm_on_snapshots_to_the_byte():
    plain, _ = run(DM(D, Snapshots(experts()), batch=8, generator=rng(1)))
    assert torch.equal(run(tgdd(weight=0))[0], plain)


def test_dm_draws_the_same_whatever_the_weight():
    losses = [run(tgdd(weight=w), 1)[1][0]["loss_DM"] for w in (0, 0.5, 2.5)]
    assert len(set(losses)) == 1
    states = []
    for w in (0, 2.5):
        objective = tgdd(weight=w)
        run(objective)
        states.append(objective.parts[0].generator.get_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("kw", [{}, {"aug": DSA(DIGITS)}, {"nets": "mixed"}, {"distance": "ncfm"}])
def test_a_stopped_run_goes_on_to_the_byte(tmp_path, kw):
    whole, _ = run(tgdd(**kw), 6)
    for steps in (3, 6):
        images = syn()
        adam = torch.optim.Adam(images.parameters(), lr=0.1)
        for _ in Run(tmp_path, Distilling(images, tgdd(**kw), adam, steps), log=None):
            pass
    assert torch.equal(images.x.detach(), whole)


def test_a_run_of_other_parts_is_refused(tmp_path):
    def work(**kw):
        images = syn()
        return Distilling(images, tgdd(**kw), torch.optim.Adam(images.parameters()), 2)

    list(Run(tmp_path, work(), log=None))
    for kw, words in ({"weight": 1}, "weights"), ({"ahead": 2}, "ahead"), ({"batch": 9}, "batch"):
        with pytest.raises(DdnbError, match=words):
            list(Run(tmp_path, work(**kw), log=None))


def test_a_step_that_fails_leaves_no_draw_in_any_part():
    objective = tgdd()
    before = [part.generator.get_state() for part in objective.parts]
    kept = Snapshot(syn(), objective)
    objective(*syn()())
    assert not torch.equal(objective.parts[0].generator.get_state(), before[0])
    assert not torch.equal(objective.parts[1].generator.get_state(), before[1])
    kept.restore()
    assert all(torch.equal(p.generator.get_state(), b) for p, b in zip(objective.parts, before))


def test_parts_are_asked_in_words():
    for parts, words in (([], "parts"), ([DM(D, MAKE)], "pairs"), ([(1, "DM")], "str")):
        with pytest.raises(DdnbError, match=words):
            Sum(parts)
    with pytest.raises(DdnbError, match="data="):
        TGDD(experts())


@pytest.mark.slow
def test_a_recipe_takes_both(tmp_path):
    given = {
        "prune": {"keep": 0.5, "nets": 1, "epochs": 1},
        "network": {"width": 4},
        "experts": {"n": 2, "epochs": 3},
        "objective": {"name": "TGDD", "batch": 8, "weight": 0.5},
        "syn": {"name": "formations", "factor": 2},
        "judge": {"nets": 1, "baselines": False},
        "steps": 3,
    }
    for _ in perform(Recipe.of(given), tmp_path / "r", log=None):
        pass
    made = load_set(tmp_path / "r")
    assert (made.factor, len(made), len(made.seen)) == (2, 10, 40)
    row, *_ = read_json(tmp_path / "r" / "results.json")["results"]
    assert row["factor"] == 2 and row["images"] == 40
    assert "stores 10 images" in (tmp_path / "r" / "results.md").read_text()
