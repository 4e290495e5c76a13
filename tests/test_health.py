"What is wrong with a set is found, and what is right is left alone."

import math
import warnings

import pytest
import torch

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.data import Data, Split, apart, copies, load, stats
from ddnb.data.copies import digests, health_line
from ddnb.prune import PROBABILITIES, health, scores, suspects
from ddnb.prune.health_features import Features, held_out
from ddnb.prune.health_near import close_pairs, joined, looks, near_pairs, nearest_distance
from ddnb.prune.health_near import shortened
from ddnb.prune.health_shortcuts import ranked
from ddnb.prune.health_suspects import confident_counts, mixed, thresholds


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def noise(n, seed=0, size=8):
    return torch.randint(256, (n, 1, size, size), generator=rng(seed)).to(torch.uint8)


def made(x, y, cut, name="made"):
    "A set of arrays, cut in three."
    ends = [0, *cut, len(x)]
    parts = [Split(x[a:b], y[a:b]) for a, b in zip(ends, ends[1:])]
    classes = [str(c) for c in range(int(y.max()) + 1)]
    return Data(name, classes, *parts, stats(parts[0].x))


# ---- copies


def test_copies_are_those_of_a_naive_search():
    x, y = noise(40), torch.arange(40) % 4
    for a, b in ((1, 30), (1, 31), (5, 6), (22, 35)):
        x[b] = x[a]
    d = made(x, y, (20, 28))
    place = [(s, i) for s in ("train", "valid", "test") for i in range(len(d.split(s)))]
    same = [[(x[i] == x[j]).all().item() for j in range(40)] for i in range(40)]
    naive = {frozenset(place[j] for j in range(40) if same[i][j]) for i in range(40)}
    c = copies(d)
    assert {frozenset(g) for g in c.groups} == {g for g in naive if len(g) > 1}
    assert c.leaked("test") == [2, 3] and c.leaked("test", "valid") == [7] and c.spare == 2
    assert len(c.leaks) == 2 and len(c.conflicts) == 3
    assert len(set(digests(x))) == 40 - 4


@pytest.mark.parametrize("to", ["train", "valid", "test"])
def test_apart_leaves_no_leak_and_loses_no_image(to):
    x, y = noise(60), torch.arange(60) % 3
    x[50:60], y[50:60] = x[:10], y[:10]
    x[44], y[44] = x[45], y[45]  # valid and test
    d = made(x, y, (30, 45))
    clean = apart(d, to=to)
    assert not copies(clean).leaks
    assert sorted(digests(torch.cat([clean.split(s).x for s in d.counts]))) == sorted(digests(x))
    assert sum(len(clean.split(s)) for s in d.counts) == 60
    assert "no copies" not in clean.meta["health"]
    same = apart(clean)
    assert torch.equal(same.train.x, clean.train.x)


def test_apart_refuses_to_empty_a_class():
    x, y = noise(12), torch.arange(12) % 3
    y[:6] = torch.tensor([0, 1, 0, 1, 0, 2])
    x[11] = x[5]
    with pytest.raises(DdnbError, match="no train image left"):
        apart(made(x, y, (6, 8)), to="test")


def test_loading_says_what_leaks():
    x, y = noise(60), torch.arange(60) % 3
    train, test = (x[:40], y[:40]), (torch.cat([x[:5], x[40:]]), torch.cat([y[:5], y[40:]]))
    with pytest.warns(UserWarning, match="5 of 25 test images of arrays are train images too"):
        d = load((train, test), valid=0)
    assert d.meta["health"].startswith("5 test images also in train")
    assert "5 test images also in train" in repr(d)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load((x, y)).meta["health"] == "no copies; classes even"
    assert "uneven" in health_line(copies(made(x, (torch.arange(60) > 50).long(), (50, 55))))


def test_loading_says_two_labels():
    x, y = noise(30), torch.arange(30) % 3
    x[3] = x[4]
    with pytest.warns(UserWarning, match="two labels"):
        load((x, y), valid=0, test=0)


# ---- near duplicates


def test_distances_are_those_of_cdist():
    v = torch.randn(50, 8, generator=rng(0))
    full = torch.cdist(v, v)
    for k in (1, 3):
        want = full.kthvalue(k + 1, dim=1).values
        assert torch.allclose(nearest_distance(v, torch.arange(50), k), want, atol=1e-3)
    limit = full.flatten().kthvalue(50 + 40).values.item() + 1e-4
    i, j = (full < limit).triu(1).nonzero(as_tuple=True)
    for block in (7, 64):
        found = close_pairs(v, limit, block)
        assert {tuple(p) for p in found.tolist()} == set(zip(i.tolist(), j.tolist()))


def test_shortening_never_lengthens():
    v = looks(noise(80, size=16))
    assert (torch.cdist(shortened(v, 20), shortened(v, 20)) <= torch.cdist(v, v) + 1e-3).all()
    assert torch.equal(shortened(v[:, :5], 20), v[:, :5])


def test_near_pairs_are_those_of_the_definition(digits):
    x = digits.train.x[:150]
    soft = (x[:20].float() + 5 * torch.randn(x[:20].shape, generator=rng(0))).clamp(0, 255).byte()
    v = looks(torch.cat([x, soft]))
    full = torch.cdist(v, v).fill_diagonal_(math.inf)
    limit, around = 0.35 * full.amin(1).median(), full.kthvalue(10, dim=1).values
    near = (full < limit) & (full < 0.35 * torch.minimum(around[:, None], around))
    want = {tuple(p) for p in near.triu(1).nonzero().tolist()}
    found, distance = near_pairs(v, 0.35, sample=1000)
    assert {tuple(p) for p in found.tolist()} == want >= {(i, 150 + i) for i in range(20)}
    assert (distance.diff() >= 0).all()


@pytest.mark.parametrize("change", ["bright", "contrast", "noise", "saved"])
@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_a_changed_copy_is_found(name, change):
    d = load(name)
    x = d.train.x
    some = x[:40].float()
    changed = {
        "bright": lambda: some * 0.85 + 30,
        "contrast": lambda: (some - 128) * 0.8 + 128,
        "noise": lambda: some + 4 * torch.randn(some.shape, generator=rng(0)),
        "saved": lambda: (some / 8).round() * 8,
    }[change]()
    both = torch.cat([x, changed.round().clamp(0, 255).byte()])
    found, _ = near_pairs(looks(both), generator=0)
    planted = {(i, len(x) + i) for i in range(40)}
    assert len(planted & {tuple(p) for p in found.tolist()}) >= 39


def test_pictures_of_one_grey_and_tiny_sets_are_no_trouble():
    flat = torch.arange(30, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    assert not len(near_pairs(looks(flat))[0])
    assert not len(near_pairs(looks(noise(2)))[0]) and joined(torch.zeros(0, 2)) == []
    y = torch.arange(30) % 3
    h = health(made(flat, y, (24, 26)), generator=0, progress=False)
    assert len(h.findings) == 9 and h.finding("near copies").n == 0


# ---- suspect labels


def test_thresholds_and_counts_are_those_of_a_loop():
    p = torch.rand(200, 4, generator=rng(0)).pow(3)
    p, y = p / p.sum(1, keepdim=True), torch.randint(4, (200,), generator=rng(1))
    t = [
        sum(p[i, c].item() for i in range(200) if y[i] == c) / int((y == c).sum()) for c in range(4)
    ]
    assert torch.allclose(thresholds(p, y), torch.tensor(t))
    want = torch.zeros(4, 4, dtype=torch.long)
    for i in range(200):
        passing = [c for c in range(4) if p[i, c] >= t[c]]
        if passing:
            want[y[i], max(passing, key=lambda c: p[i, c])] += 1
    assert torch.equal(confident_counts(p, y), want)


def flipped(data, share, seed=0):
    "Labels of which a share is wrong, and which those are."
    wrong = torch.rand(len(data.train), generator=rng(seed)) < share
    other = (data.train.y + torch.randint(1, 10, wrong.shape, generator=rng(seed + 1))) % 10
    return torch.where(wrong, other, data.train.y), wrong


def test_suspects_agree_with_cleanlab(digits):
    pytest.importorskip("cleanlab")
    from cleanlab.count import compute_confident_joint
    from cleanlab.filter import find_label_issues

    y, wrong = flipped(digits, 0.1)
    p = held_out(Features.of(digits.train.x)(digits.train.x), y, 10)
    joint = compute_confident_joint(y.numpy(), p.double().numpy(), calibrate=False)
    ours = confident_counts(p, y)
    assert (torch.as_tensor(joint) - ours).abs().sum() <= 2
    theirs = find_label_issues(y.numpy(), p.double().numpy(), filter_by="confident_learning")
    theirs, ours = set(torch.as_tensor(theirs).nonzero()[:, 0].tolist()), suspects(p, y)
    mine = set(ours.rows.tolist())
    assert len(mine & theirs) / len(mine | theirs) > 0.98
    planted = set(wrong.nonzero()[:, 0].tolist())
    assert len(mine & planted) > 0.7 * len(planted) and len(mine & planted) > 0.9 * len(mine)


def test_probabilities_are_those_behind_the_held_out_loss(digits, tmp_path):
    small = digits.keep(range(0, len(digits.train), 3))
    how = dict(folds=3, nets=1, epochs=2, generator=4, progress=False)
    p = scores(small, "MLP", PROBABILITIES, folder=tmp_path, **how)
    loss = scores(small, "MLP", "loss", **how)
    own = p.values[torch.arange(len(small)), small.train.y]
    assert p.values.shape == (len(small), 10)
    assert torch.allclose(p.values.sum(1), torch.ones(len(small)))
    assert torch.allclose(-own.log(), loss.values, atol=1e-4)
    assert scores(small, "MLP", PROBABILITIES, folder=tmp_path, **how).cached
    assert "probabilities of 420" in repr(p) and len(suspects(p, small.train.y)) < 100
    with pytest.raises(DdnbError, match="for every class"):
        suspects(loss, small.train.y)


def test_mixed_counts_both_directions():
    y = torch.tensor([0] * 10 + [1] * 10 + [2] * 10)
    best = y.clone()
    best[:3], best[10:12] = 1, 0
    p = torch.nn.functional.one_hot(best, 3).float()
    assert mixed(p, y) == [(0, 1, pytest.approx(0.3), pytest.approx(0.2))]
    assert mixed(p, y, 0.35) == []


# ---- shortcuts


def test_rank_is_the_share_of_pairs_in_order():
    s = torch.randint(6, (40,), generator=rng(0)).float()
    of = torch.rand(40, generator=rng(1)) < 0.3
    pairs = [(a > b).item() + 0.5 * (a == b).item() for a in s[of] for b in s[~of]]
    assert ranked(s, of) == pytest.approx(sum(pairs) / len(pairs))
    assert ranked(s, torch.ones(40, dtype=torch.bool)) == 0


# ---- all of it


def planted(seed=0):
    "Digits 1:8:8 with everything wrong; the notebook of the report shows them."
    g, source = rng(seed), load("digits", valid=0, test=0).train
    rows = [(source.y == c).nonzero()[:n, 0] for c, n in ((0, 22), (3, 176), (8, 174))]
    x = [source.x[r].clone() for r in rows]
    for edge in (0, -1):
        x[0][:, :, edge] = x[0][:, :, :, edge] = 255
    x[2] = (0.2 * x[2] + 0.8 * x[1][torch.randperm(174, generator=g)]).byte()
    y = torch.cat([torch.full((len(r),), k) for k, r in enumerate(rows)])
    order = torch.randperm(len(y), generator=g)
    x, y = torch.cat(x)[order], y[order]
    large = (y[:270] > 0).nonzero()[:, 0]
    wrong = large[torch.randperm(len(large), generator=g)[:14]]
    y[wrong] = 3 - y[wrong]
    copied = torch.randperm(270, generator=g)[:18]
    x, y = torch.cat([x, x[copied]]), torch.cat([y, y[copied]])
    return made(x, y, (270, 270), "planted"), set(wrong.tolist())


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_planted_is_found(seed):
    d, wrong = planted(seed)
    h = health(d, generator=0, progress=False)
    leaks = {row for g in h.finding("leaks").shown for s, row in g if s == "test"}
    assert leaks == set(range(102, 120))
    assert h.finding("imbalance") and "0 to" in h.finding("imbalance").text
    assert h.glimpses[0].gives_away() == [0] and "border" in h.finding("shortcuts").text
    assert [{i, j} for i, j, *_ in mixed(h.probabilities, h.y)] == [{1, 2}]
    found = set(h.suspects.rows.tolist())
    assert len(found & wrong) >= 7 and len(found - wrong) <= 20
    assert not h.finding("copies") and not h.finding("outliers")
    assert not health(h.apart(), checks=["leaks"], progress=False).finding("leaks")
    assert h.flags().keys() >= {"leaks", "suspect labels"} and "leaks 18" in h.summary()
    assert "<b>" not in h._repr_html_() and "⚠ leaks" in h._repr_html_()


def test_what_is_healthy_alarms_little(digits):
    h = health(digits, generator=0, progress=False)
    found = {f.name: f.n for f in h.findings if f}
    assert found.keys() <= {"suspect labels", "near copies", "outliers"}, found
    assert found.get("suspect labels", 0) <= 5 and found.get("near copies", 0) <= 1


def test_who_doubts_without_knowing_says_so():
    few = load("shapes", counts=(300, 100, 100))  # too few for a linear opinion
    h = health(few, generator=0, progress=False)
    found = {f.name for f in h.findings if f}
    assert found <= {"suspect labels", "mixed classes", "outliers"}, found
    assert h.suspects.accuracy < 0.9 and "PROBABILITIES" in h.finding("suspect labels").cure


def test_near_leaks_bring_their_equal_copies_along():
    x, y = noise(60, size=16), torch.arange(60) % 3
    x[20] = x[0]  # equal, both in train
    close = (x[0].float() + torch.randn(x[0].shape, generator=rng(0))).clamp(0, 255).byte()
    x[55] = close
    h = health(made(x, y, (40, 50)), checks=["leaks"], generator=0, progress=False)
    assert h.finding("leaks").n == 1
    assert len(h.apart("test").train) == 38 and len(h.apart("test").test) == 12


def test_wrong_arguments_are_sentences(digits):
    with pytest.raises(DdnbError, match="Did you mean 'leaks'"):
        health(digits, checks=["leak"])
    with pytest.raises(DdnbError, match="was not checked"):
        health(digits, checks=["copies"], progress=False).finding("leaks")
    with pytest.raises(DdnbError, match="near is 3"):
        health(digits, near=3)
    with pytest.raises(DdnbError, match="ddnb.data.load"):
        health("digits")
