"""Evaluation: scores against their formulas, protocols against their papers, cells that
resume, sets of every kind.
"""

import json, math
import pytest, torch
import torch.nn.functional as F
from ddnb import evaluate as E
from ddnb.nets.augment import RandAug
from ddnb.data import Norm, load, rng
from ddnb.evaluate import (
    PROTOCOLS,
    Results,
    ars,
    as_set,
    baselines,
    choose,
    dc_bench,
    evaluate,
    evaluating,
    glad,
    hlr,
    ior,
    lrs,
    mtt,
    ranking,
)
from ddnb.base.run import Run, complete
from ddnb.judge.grid import Grid
from ddnb.judge.protocols import wants_teacher
from ddnb.judge.teachers import Teacher
from ddnb.nets import MLP, net_for, wrap
from ddnb.base.check import DdnbError
from ddnb.distil.syn import Pixels, init
from ddnb.nets.fit import SCHEDULES
from ddnb.nets.train import accuracy, train

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data():
    return load("digits")


@pytest.fixture(scope="module")
def means(data):
    return init(data, 1, "mean", generator=rng(0))


FAST = dict(nets="MLP", seeds=2, steps=15)


def test_scores_are_their_formulas():
    assert (
        math.isclose(lrs(1, -1), 0, abs_tol=1e-12)
        and math.isclose(lrs(-1, 1), 1)
        and math.isclose(lrs(0, 0), 0.26894, abs_tol=1e-5)
    )
    assert math.isclose(hlr(0.9, 0.6), 0.3) and math.isclose(ior(0.6, 0.45), 0.15)
    assert math.isclose(
        lrs(0.3, 0.15),
        (math.exp(0.5 * 0.15 - 0.5 * 0.3) - math.exp(-1)) / (math.exp(1) - math.exp(-1)),
    )
    assert math.isclose(
        lrs(0.3, 0.15, w=0.25),
        (math.exp(0.25 * 0.15 - 0.75 * 0.3) - math.exp(-1)) / (math.exp(1) - math.exp(-1)),
    )
    assert math.isclose(
        ars(0.8, 0.5, 0.6, 0.5, gamma=0.2),
        (math.exp(0.2 * 0.3 + 0.8 * 0.1) - math.exp(-1)) / (math.exp(1) - math.exp(-1)),
    )
    assert math.isclose(ars(1, 0, 1, 0), 1) and math.isclose(ars(0, 1, 0, 1), 0, abs_tol=1e-12)


@pytest.mark.parametrize(
    "f",
    [
        lambda: hlr(84.8, 46.3),
        lambda: ior(46.3, 15.4),
        lambda: lrs(38.5, 30.9),
        lambda: ars(60.0, 50.0, 60.0, 50.0),
    ],
)
def test_percent_is_refused(f):
    with pytest.raises(DdnbError, match="not a fraction"):
        f()


def curve(kw):
    return [kw["lr"] * SCHEDULES[kw["schedule"]](e, kw["epochs"]) for e in range(kw["epochs"])]


def test_mtt_lowers_its_learned_step_size_once():
    kw = mtt("ConvNet", 10, alpha=0.02)
    assert (
        curve(kw) == [0.02] * 502 + [0.02 * 0.1] * 499
        and kw["restarts"] == (502,)
        and kw["per"] == "epoch"
    )
    assert (kw["momentum"], kw["weight_decay"], kw["batch"], kw["aug"] is None) == (
        0.9,
        5e-4,
        256,
        False,
    )
    assert mtt("ConvNet", 10)["lr"] == 0.01 and mtt("ConvNet", 10, alpha=0.02, lr=0.5)["lr"] == 0.5


def test_dc_bench_is_longer_with_augmentation():
    assert curve(dc_bench("ConvNet", 10)) == [0.01] * 152 + [0.001] * 149 or curve(
        dc_bench("ConvNet", 10)
    ) == pytest.approx([0.01] * 152 + [0.001] * 149)
    assert (
        dc_bench("ConvNet", 10, aug=mtt("x", 1)["aug"])["epochs"] == 1001
        and dc_bench("ConvNet", 10, alpha=0.5)["lr"] == 0.01
    )


def test_dc_bench_takes_its_augmentations_by_name(data, means, tmp_path):
    kw = dict(nets="MLP", seeds=2, protocol="dc_bench", epochs=3, folder=tmp_path)
    before = torch.get_rng_state()
    by = {a: evaluate(means, data, aug=a, **kw) for a in ("autoaug", "randaug", None)}
    assert torch.equal(before, torch.get_rng_state())
    assert (
        by["randaug"].recipe["aug"] == dict(name="randaug", ops=1, magnitude=9, per="batch")
        and by["autoaug"].recipe["aug"]["policy"] == "cifar10"
        and by[None].recipe["aug"] is None
    )
    assert (
        len({tuple(q for r in by[a] for q in r["loss"]) for a in by}) == 3
        and len(list(tmp_path.glob("network-*"))) == 6
    )
    assert (
        evaluate(means, data, aug=RandAug(), **kw).seconds == by["randaug"].seconds
    )  # the same cell, from disk
    assert (
        evaluate(means, data, aug="randaug", **{**kw, "folder": None}).loss == by["randaug"].loss
    )  # and again, computed
    assert (
        dc_bench("MLP", 10, aug="randaug")["epochs"] == 1001
        and dc_bench("MLP", 10)["epochs"] == 301
    )


def test_augmentation_by_name_lives_in_the_space_of_the_set(data):
    class Sent:  # a set standardised by statistics of its own
        norm, (x, y) = Norm([0.5], [0.5]), init(data, 1, "mean", generator=rng(0))
        classes = data.classes

    Sent.x = Sent.norm.encode(data.norm.decode(Sent.x))
    seen = []

    class Spy(RandAug):
        def __call__(self, x, draw):
            seen.append(self.norm)
            return super().__call__(x, draw)

    evaluate(Sent(), data, "MLP", seeds=1, steps=2, aug=Spy())
    evaluate((Sent.x, Sent.y), data, "MLP", seeds=1, steps=2, aug=Spy())
    assert [n is Sent.norm for n in seen] == [True, True, False, False] and all(
        n is data.norm for n in seen[2:]
    )


@pytest.mark.parametrize(
    "aug, says",
    [
        ("randaugg", "Did you mean 'randaug'?"),
        ("auto", "unknown augmentation"),
        (5, "or one of autoaug, randaug"),
    ],
)
def test_unknown_augmentation_is_said(data, means, aug, says):
    with pytest.raises(DdnbError) as e:
        evaluate(means, data, "MLP", protocol="dc_bench", aug=aug)
    assert says in str(e.value)


def test_glad_warms_up_and_cools_down():
    kw = glad("ConvNet", 10)
    want = (
        [1e-3 * (1e-7 + (1 - 1e-7) * e / 500) for e in range(500)]
        + [1e-3] * 2
        + [1e-3 * 0.5 * (1 + math.cos(math.pi * (e - 501) / 500)) for e in range(502, 1000)]
    )
    assert (
        curve(kw) == pytest.approx(want) and kw["ema"] == 0.995 and glad("VGG11", 10)["lr"] == 1e-4
    )


def test_every_protocol_trains(data, means):
    for name in PROTOCOLS:
        r = evaluate(
            means,
            data,
            "MLP",
            seeds=1,
            protocol=name,
            aug=None,
            **({"steps": 5} if name == "plain" else {"epochs": 4}),
            **({"teacher": Teacher(MLP(1, 10, 8))} if wants_teacher(name) else {}),
        )
        assert 0 <= r.mean <= 1 and r.protocol in (name, name) and r.std == 0 and r.n == 1


def test_a_cell_is_what_one_would_compute_by_hand(data, means):
    r = evaluate(means, data, "MLP", seeds=[5], steps=15)
    g = rng(5)
    from ddnb.data import fork

    _, weights, order = fork(g), fork(g), fork(g)
    net = net_for(data, "MLP")(weights)
    train(
        net,
        *means,
        steps=15,
        optimiser="adam",
        lr=4e-3,
        weight_decay=0,
        schedule="cosine",
        generator=order,
    )
    x, y = data.xy("test")
    assert r.mean == pytest.approx(accuracy(net, x, y)) and torch.tensor(r.confusion).sum() == len(
        y
    )
    conf = torch.tensor(r.confusion).float()
    assert (
        r.per_class == pytest.approx((conf.diag() / conf.sum(1)).tolist())
        and (conf.sum(1) == torch.bincount(y)).all()
    )


def test_one_seed_repeated_gives_the_same_numbers(data, means):
    for together in (True, False):
        r = evaluate(means, data, "MLP", seeds=[4, 4, 5], steps=15, together=together)
        assert r.accuracy[0] == r.accuracy[1]
    again = evaluate(means, data, "MLP", seeds=[4, 4, 5], steps=15, together=False)
    assert again.accuracy == r.accuracy and again.loss == r.loss


def test_mean_and_sample_deviation(data, means):
    r = evaluate(means, data, **{**FAST, "seeds": 4})
    a = torch.tensor(r.accuracy, dtype=torch.float64)
    assert (
        (r.mean, r.std) == pytest.approx((a.mean().item(), a.std().item()))
        and r.n == 4
        and r.split == "test"
    )


def test_any_kind_of_set(data, means, tmp_path):
    class Art:
        x, y, alpha, classes, norm = *means, 0.03, data.classes, data.norm

    for s in (
        means,
        Pixels(*means),
        Art(),
        data.train,
        data,
        (data.train.x[:40], data.train.y[:40]),
    ):
        x, y, alpha = as_set(s, data)
        assert (
            x.dtype == torch.float32
            and x.shape[1:] == (1, 8, 8)
            and len(x) == len(y)
            and alpha == (0.03 if isinstance(s, Art) else None)
        )
    assert (
        evaluate(Art(), data, "MLP", seeds=1, protocol="mtt", epochs=2, aug=None).recipe["lr"]
        == 0.03
    )
    assert torch.equal(as_set((data.train.x, data.train.y), data)[0], data.xy()[0])
    soft = (means[0], F.one_hot(means[1], 10).float())
    assert evaluate(soft, data, **FAST).accuracy == pytest.approx(
        evaluate(means, data, **FAST).accuracy, abs=0.01
    )


def test_a_folder_of_pictures(data, tmp_path):
    from PIL import Image

    names = {str(c): f"{c}" for c in range(10)}
    for i in range(60):
        f = tmp_path / names[str(int(data.train.y[i]))]
        f.mkdir(exist_ok=True)
        Image.fromarray(data.train.x[i, 0].numpy()).save(f / f"{i}.png")
    x, y, _ = as_set(tmp_path, data)
    got, want = (
        sorted((int(c), a.flatten().tolist()) for a, c in zip(*s))
        for s in ((x, y), (data.xy()[0][:60], data.train.y[:60]))
    )
    assert [g[0] for g in got] == [w[0] for w in want]
    assert torch.allclose(torch.tensor([g[1] for g in got]), torch.tensor([w[1] for w in want]))


def test_images_of_another_normalisation_are_judged_in_their_own(data, means):
    class Other:
        x, y, classes = means[0] * 2 + 1, means[1], data.classes

    Other.norm = type(data.norm)(
        data.norm.mean - data.norm.std / 2, data.norm.std / 2
    )  # encode = 2·theirs + 1
    a, b = (
        evaluate(
            Other(),
            data,
            wrap(lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))),
            seeds=2,
            steps=100,
        ),
        evaluate(
            means,
            data,
            wrap(lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))),
            seeds=2,
            steps=100,
        ),
    )
    assert abs(a.mean - b.mean) < 0.1 and a.mean > 0.6


def test_mistakes_are_sentences(data, means, tmp_path):
    x, y = means

    class Wrong:
        x, y, classes = *means, list(reversed(data.classes))

    for bad, say in [
        ((x[:, :, 1:], y), "resize"),
        ((x, y[1:]), "one label per image"),
        ((x, y + 5), "from 0 to 9"),
        ((x * math.nan, y), "finite"),
        ((x, torch.rand(10, 3)), "Soft labels"),
        (Wrong(), "mean different things"),
        (tmp_path / "nothing", "nothing"),
    ]:
        with pytest.raises(DdnbError, match=say):
            evaluate(bad, data, **FAST)
    with pytest.raises(DdnbError, match="valid split of arrays is empty"):
        evaluate(
            load((data.train.x, data.train.y), valid=0),
            load((data.train.x, data.train.y), valid=0),
            **FAST,
            split="valid",
        )
    for kw, say in [
        (dict(protocol="plane"), "'plain'"),
        (dict(split="tets"), "'test'"),
        (dict(seeds=0), "seeds is 0"),
        (dict(nets="ConvNett"), "'ConvNet'"),
    ]:
        with pytest.raises(DdnbError, match=say):
            evaluate(means, data, **{**FAST, **kw})


def test_baselines(data):
    b = baselines(data, 3)
    assert list(b) == ["random", "class mean", "k-means", "herding", "k-center", "full data"]
    x, y = data.xy()
    for name in ("random", "herding", "k-center"):
        bx, by = b[name](rng(1)) if callable(b[name]) else b[name]
        assert by.tolist() == sorted(by.tolist()) and torch.bincount(by).tolist() == [3] * 10
        rows = [(x.flatten(1) == i.flatten()).all(1).nonzero()[:, 0] for i in bx]
        assert (
            all(len(r) and (y[r] == c).all() for r, c in zip(rows, by))
            and len({int(r[0]) for r in rows}) == 30
        )
    assert (
        torch.allclose(b["class mean"][0][4], x[y == 4].mean(0), atol=1e-6)
        and len(b["class mean"][0]) == 10
    )
    draws = [b["random"](rng(s))[0] for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    kept = data.keep(torch.arange(0, 1200, 2))
    k = baselines(kept, 2, whole=data)
    mine = {tuple(i.flatten().tolist()) for i in kept.xy()[0]}
    assert (
        all(tuple(i.flatten().tolist()) in mine for i in k["random kept"](rng(0))[0])
        and k["full data"] is data
    )
    f = x[y == 0].flatten(1).double()
    first = b["herding"][0][0].flatten().double()
    assert torch.isclose((f - f.mean(0)).norm(dim=1).min(), (first - f.mean(0)).norm())


def test_random_images_are_drawn_anew_for_every_seed(data):
    seen = []

    def source(generator):
        seen.append(init(data, 1, "real", generator=generator))
        return seen[-1]

    evaluate({"random": source}, data, "MLP", seeds=[1, 2, 1], steps=2)
    a = [s[0] for s in seen[-3:]]
    assert torch.equal(a[0], a[2]) and not torch.equal(a[0], a[1])


def test_finished_cells_are_not_computed_again(data, means, tmp_path, monkeypatch):
    grid = dict(nets=["MLP", "LeNet"], seeds=2, steps=5, folder=tmp_path)
    first = next(evaluating({"a": means}, data, **grid))
    calls = []
    fill = Grid._fill
    monkeypatch.setattr(Grid, "_fill", lambda *a: calls.append(a) or fill(*a))
    rest = list(evaluating({"a": means}, data, **grid))
    assert len(calls) == 1 and rest[0] == first and [r["net"] for r in rest] == ["MLP", "LeNet"]
    assert [r["accuracy"] for r in evaluating({"b": means}, data, **grid)] == [
        r["accuracy"] for r in rest
    ] and len(calls) == 1  # same content, other name
    for change in (dict(steps=6), dict(seeds=3), dict(split="valid"), dict(lr=1e-3)):
        before = len(calls)
        list(evaluating({"a": means}, data, **{**grid, "nets": "MLP", **change}))
        assert len(calls) == before + 1, change
    before = len(calls)
    list(evaluating({"a": (means[0] + 1e-3, means[1])}, data, **{**grid, "nets": "MLP"}))
    assert len(calls) == before + 1
    for f in tmp_path.glob("network-*.json"):
        f.write_text(f.read_text()[:100])  # a damaged file is computed again
    assert [r["accuracy"] for r in evaluating({"a": means}, data, **grid)] == [
        r["accuracy"] for r in rest
    ]


def test_results_show_and_save_themselves(data, means, tmp_path):
    r = evaluate(
        {"mean <1>": means, "half_set": (means[0][:5], means[1][:5])},
        data,
        ["MLP", "LeNet"],
        seeds=2,
        steps=10,
    )
    assert (
        len(r) == 4
        and r.sets == ["mean <1>", "half_set"]
        and r.nets == ["MLP", "LeNet"]
        and len(r.df) == 8
    )
    for text in (r.to_markdown(), r.to_latex(), r._repr_html_()):
        assert f"{100 * r.cell('half_set', 'MLP')['mean']:.1f}" in text and "test split" in text
    assert (
        "mean &lt;1&gt;" in r._repr_html_()
        and "half\\_set" in r.to_latex()
        and r.to_latex().count("textbf") >= 2
    )
    r.to_json(tmp_path / "r.json")
    assert (
        Results.from_json(tmp_path / "r.json").records
        == r.records
        == Results.from_json(r.to_json()).records
    )
    assert json.loads(r.to_json())["results"][0]["recipe"]["lr"] == 4e-3
    with pytest.raises(DdnbError, match="choose one of"):
        r.cell("half_set")
    with pytest.raises(AttributeError):
        r.mean  # four cells, so no single mean
    assert "no results" in Results()._repr_html_()
    import pickle, copy

    assert pickle.loads(pickle.dumps(r)).records == copy.deepcopy(r).records == r.records


def test_choosing_reads_only_the_validation_split(data, means, monkeypatch):
    splits = []
    plain = type(data).split
    monkeypatch.setattr(
        type(data), "split", lambda self, name: splits.append(name) or plain(self, name)
    )
    best, seen = choose(means, data, "MLP", grid={"lr": [1e-5, 1e-2], "steps": [20]}, seeds=2)
    assert (
        best == {"lr": 1e-2, "steps": 20}
        and "test" not in splits
        and {r["split"] for r in seen} == {"valid"}
        and len(seen) == 2
    )


def test_ranking_is_its_parts(data, means):
    s = ranking(means, data, "MLP", seeds=2, steps=15)
    acc = {r["train"]: r["mean"] for r in s["results"]}
    assert (
        s["hlr"] == hlr(acc["full data"], acc["set"])
        and s["ior"] == ior(acc["set"], acc["random"])
        and s["lrs"] == lrs(s["hlr"], s["ior"])
    )
    assert s["ars"] == ars(
        acc["set, augmented"], acc["random, augmented"], acc["set"], acc["random"]
    )
    soft = (means[0], F.one_hot(means[1], 10).float() * 0.8 + 0.02)
    s = ranking(soft, data, "MLP", seeds=1, steps=15)
    acc = {r["train"]: r["mean"] for r in s["results"]}
    assert s["hlr"] == hlr(acc["full data"], acc["set, hard labels"])


def test_own_factories_and_named_networks(data, means):
    r = evaluate(
        means,
        data,
        {"mine": wrap(lambda: MLP(1, 10, 8, width=4)), "theirs": "LeNet"},
        seeds=1,
        steps=3,
    )
    assert r.nets == ["mine", "theirs"]
    assert evaluate(
        means, data, [net_for(data, width=4), net_for(data, width=8)], seeds=1, steps=3
    ).nets == ["ConvNet width 4", "ConvNet width 8"]


# ---- interruption, forecast, room


def test_an_interrupted_grid_keeps_its_cells_and_goes_on(data, means, tmp_path, monkeypatch):
    sets, kw = (
        {"a": means, "b": (means[0] * 0.5, means[1]), "c": (means[0] * 2, means[1])},
        dict(nets="MLP", seeds=2, steps=6),
    )
    want = [r["accuracy"] for r in evaluate(sets, data, **kw)]
    fill, calls = Grid._fill, []

    def stop(*a):
        calls.append(1)
        return fill(*a) if len(calls) != 3 else (_ for _ in ()).throw(KeyboardInterrupt)

    monkeypatch.setattr(Grid, "_fill", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(sets, data, folder=tmp_path, **kw)
    assert len(list(tmp_path.glob("network-*.json"))) == 4
    assert [r["accuracy"] for r in evaluate(sets, data, folder=tmp_path, **kw)] == want and len(
        calls
    ) == 4, "only the third set is trained again"


@pytest.mark.parametrize(
    "kw",
    [
        dict(nets="MLP"),
        dict(nets="ConvNet", together=False),
        dict(protocol="glad", epochs=6, steps=None),
        dict(drop=True),
    ],
)
def test_a_forecast_of_a_grid_changes_nothing(data, means, kw):
    drawn = baselines(data, 1)["random"]
    kw = {"seeds": 2, "steps": 6, **{k: v for k, v in kw.items() if k not in ("drop",)}}
    kw = {k: v for k, v in kw.items() if v is not None}
    if "nets" not in kw:
        kw["nets"] = wrap(
            lambda: torch.nn.Sequential(
                torch.nn.Flatten(),
                torch.nn.Linear(64, 16),
                torch.nn.Dropout(0.5),
                torch.nn.Linear(16, 10),
            )
        )
    state = torch.random.get_rng_state()
    plain = evaluate({"m": means, "r": drawn}, data, log=None, **kw).records
    grid = Grid({"m": means, "r": drawn}, data, **kw)
    assert grid.costs()["seconds"] > 0
    after = complete(grid, progress=False).results.records
    same = ("accuracy", "loss", "confusion")
    assert [[r[k] for k in same] for r in plain] == [[r[k] for k in same] for r in after]
    assert state.equal(torch.random.get_rng_state())


@pytest.mark.parametrize("together", [True, False])
def test_a_grid_stopped_inside_a_cell_ends_with_the_same_numbers(
    data, means, tmp_path, monkeypatch, together
):
    "The state at every sign of life goes on to the same accuracies, through files."
    from ddnb.nets.fit import Fit

    monkeypatch.setattr(Fit, "beat", 1e-6)  # a sign of life after every step
    kw = dict(nets="MLP", seeds=3, steps=8, together=together)
    want = complete(Grid(means, data, **kw), progress=False).results.records
    for stop in (1, 5, 11, 17):
        folder = tmp_path / str(stop)
        for k, _ in enumerate(Run(folder, Grid(means, data, **kw), log=None)):
            if k == stop:
                break
        left = Grid(means, data, **kw)
        seen = list(Run(folder, left, log=None))
        assert len(seen) < (8 if together else 24) + 3
        got = left.results.records
        for r in (*got, *want):
            r["seconds"] = 0
        assert got == want


def test_a_grown_grid_trains_only_what_is_new(data, means, tmp_path):
    kw = dict(nets="MLP", steps=4, together=False)
    complete(Grid(means, data, seeds=2, **kw), tmp_path, progress=False)
    grown = Grid(means, data, seeds=4, **kw)
    new = [r["seed"] for r in Run(tmp_path, grown, log=None) if "share" not in r]
    assert new == [2, 3] and grown.results.n == 4


def test_a_forecast_counts_what_is_left(data, means, tmp_path):
    grid = dict(nets=["MLP", "LeNet"], seeds=2, steps=6, folder=tmp_path)
    assert E.forecast(means, data, **grid)["cells"] == 2
    list(evaluating(means, data, **{**grid, "nets": "MLP"}))
    assert E.forecast(means, data, **grid)["cells"] == 1
    list(evaluating(means, data, **grid))
    said = []
    assert E.forecast(means, data, **grid) == {"total": 0, "disk": 0, "peak": None, "cells": 0}
    list(evaluating(means, data, log=said.append, **grid))
    assert said == []


def test_a_grid_is_refused_where_the_disk_is_full_and_beside_another(
    data, means, tmp_path, monkeypatch
):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(DdnbError, match="only 0 B are free"):
        evaluate(means, data, folder=tmp_path / "c", **FAST)
    assert len(evaluate(means, data, folder=tmp_path / "c", force=True, **FAST)) == 1
    monkeypatch.undo()
    first = evaluating(
        {"a": means, "b": (means[0] * 0.5, means[1])}, data, folder=tmp_path / "d", **FAST
    )
    next(first)
    with pytest.raises(DdnbError, match="working in"):
        evaluate(means, data, folder=tmp_path / "d", **FAST)
    first.close()
    (tmp_path / "d" / ".cell-1.json.x.tmp").write_text("left by a killed writer")
    evaluate(means, data, folder=tmp_path / "d", **FAST)
    assert not list((tmp_path / "d").glob(".*.tmp"))


def test_arguments_that_do_not_fit_are_named(data, means):
    for kw, says in (
        (dict(seed=3), "Did you mean 'seeds'"),
        (dict(epoch=3), "Did you mean 'epochs'"),
        (dict(steps=3, epochs=2), "choose one"),
        (dict(steps=0), "steps is 0"),
        (dict(steps="9"), "steps is"),
        (dict(seeds=0), "seeds is 0"),
        (dict(seeds="3"), "seeds is '3'"),
        (dict(seeds=2.5), "seeds is 2.5"),
        (dict(nets="ConvNt"), "Did you mean 'ConvNet'"),
        (dict(nets=[]), "no network"),
        (dict(nets=5), "name of a network"),
        (dict(nets=MLP(1, 10, 8)), "fresh ones"),
        (dict(split="tests"), "Did you mean 'test'"),
        (dict(protocol=None), "protocol is None"),
        (dict(protocol="mtt", steps=5), "counts in epochs"),
        (dict(aug=5), "expected a DSA"),
        (dict(train_set={}), "no training set"),
        (dict(train_set=None), "is no training set"),
        (dict(train_set=5), "is no training set"),
        (dict(train_set=("a", "b")), "tensor or array"),
        (dict(train_set=lambda: means), "one generator"),
        (dict(data="digits"), "ddnb.data.load"),
    ):
        with pytest.raises(DdnbError, match=says):
            evaluate(**{"train_set": means, "data": data, **FAST, **kw})
    with pytest.raises(DdnbError, match="is not a fraction"):
        hlr("a", 0.1)
    for grid in ({}, {"lr": 0.1}, None):
        with pytest.raises(DdnbError, match="lists of values"):
            choose(means, data, "MLP", grid=grid)
    for text in ('{"results": ', "{}", "no/such/file.json"):
        with pytest.raises(DdnbError):
            Results.from_json(text)
    with pytest.raises(DdnbError, match="pruned from"):
        baselines(data, 1, whole=load("shapes", counts=(20, 10, 10)))


def test_arrays_epochs_and_strategies_will_do(data, means):
    x, y = means
    same = [
        evaluate(s, data, MLP, **{k: v for k, v in FAST.items() if k != "nets"}).accuracy
        for s in (means, (x.numpy(), y.tolist()), lambda g: means)
    ]
    assert same[0] == same[1] == same[2]
    r = evaluate(means, data, "MLP", seeds=1, epochs=7, aug="crop_scale")
    assert (
        r.recipe["epochs"] == 7
        and "steps" not in r.recipe
        and r.recipe["aug"]["strategy"] == "crop_scale"
        and "7 epochs" in r.caption
    )


def test_the_caption_has_all_that_a_number_needs(data, means):
    r = evaluate({"one": means, "two": init(data, 2)}, data, "MLP", seeds=2, steps=3)
    assert (
        r.caption
        == "Accuracy in % on the test split of digits, mean ± sample standard deviation over "
        "n = 2 networks; 1 or 2 images per class; protocol plain, 3 steps; cpu."
    )
    many = Results([{**r.records[0], "counts": [i], "train": str(i)} for i in (1, 10, 50, 126)])
    uneven = Results([{**r.records[0], "counts": [89, 360, 360]}])
    assert "89 or 360 images per class" in uneven.caption
    assert "±" not in Results([{**r.records[0], "n": 1}]).caption
    assert "1 to 126 images per class" in many.caption


def test_a_folder_tells_functions_networks_and_schedules_apart(data, means, tmp_path):
    run = lambda s, nets="MLP", **kw: (
        evaluate({"random": s}, data, nets, seeds=1, folder=tmp_path, **{"steps": 3, **kw}).digest
    )
    a, b, again = (run(lambda g, n=n: init(data, n, generator=g)) for n in (1, 2, 1))
    assert a == again != b, "what a function draws tells it from another of the same name"
    mine = {
        w: {
            "mine": wrap(
                lambda w=w: torch.nn.Sequential(
                    torch.nn.Flatten(),
                    torch.nn.Linear(64, w),
                    torch.nn.ReLU(),
                    torch.nn.Linear(w, 10),
                ),
                "mine",
            )
        }
        for w in (8, 16)
    }
    assert run(means, mine[8]) == run(means, mine[8]) != run(means, mine[16]), (
        "a network of the same name but another width is another"
    )
    assert (
        run(means, schedule=lambda i, n: 1.0)
        == run(means, schedule=lambda i, n: 1.0)
        != run(means, schedule=lambda i, n: 0.5)
    )
