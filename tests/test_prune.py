"The pruning band: scores against slow loops, kept indices against hand-made losses, bad input."

import json
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddnb import prune
from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.prune.auto import largest_as_good, lead_noise, surely
from ddnb.base.run import Run
from ddnb.data import Data, Split, load, stats
from ddnb.nets import net_for
from ddnb.prune import (
    SCORES,
    Kept,
    Reader,
    Score,
    Scoring,
    Training,
    auto_keep,
    count_of,
    keep,
    score_with,
    scores,
)
from ddnb.prune import scoring as room


def tiny(per=(7, 5, 6), size=8, seed=0, paths=True):
    "Three classes of random images."
    g = rng(seed)
    y = torch.cat([torch.full((n,), c) for c, n in enumerate(per)])[
        torch.randperm(sum(per), generator=g)
    ]
    x = torch.randint(0, 256, (len(y), 1, size, size), generator=g, dtype=torch.uint8)
    s = Split(x, y, [f"c{c}/{i}.png" for i, c in enumerate(y.tolist())] if paths else None)
    return Data("tiny", ["a", "b", "c"], s, Split(x[:3], y[:3]), Split(x[:3], y[:3]), stats(x))


def make_tiny(data):
    return net_for(data, "ConvNet", width=4, depth=2)


# ---- scores against slow loops


def naive(name, z, y):
    "One image at a time, in plain Python."
    out = []
    for row, c in zip(z.double().tolist(), y.tolist()):
        m = max(row)
        e = [math.exp(v - m) for v in row]
        p = [v / sum(e) for v in e]
        other = [k for k in range(len(row)) if k != c]
        out.append(
            {
                "loss": -math.log(p[c]),
                "el2n": math.sqrt(sum((p[k] - (k == c)) ** 2 for k in range(len(row)))),
                "entropy": -sum(v * math.log(v) for v in p),
                "margin": max(p[k] for k in other) - p[c],
                "logit_margin": max(row[k] for k in other) - row[c],
            }[name]
        )
    return torch.tensor(out)


OF_LOGITS = [k for k, s in SCORES.items() if s.sees == "logits" and not s.over]


@pytest.mark.parametrize("name", OF_LOGITS)
def test_point_scores_equal_the_slow_loop(name):
    z, y = torch.randn(40, 5, generator=rng(1)) * 3, torch.randint(5, (40,), generator=rng(2))
    assert torch.allclose(SCORES[name](z, y), naive(name, z, y), atol=1e-5)


def test_scores_with_net_equal_batch_one():
    d = tiny()
    net = make_tiny(d)(generator=rng(3))
    x, y = d.xy()
    with torch.no_grad():
        want = torch.stack(
            [F.cross_entropy(net(x[i : i + 1]), y[i : i + 1]) for i in range(len(x))]
        )
    for batch, chunk in ((1, 1), (4, 7), (64, 2048)):
        assert torch.allclose(
            score_with(net, d.train.x, y, preprocess=d.norm.encode, batch=batch, chunk=chunk),
            want,
            atol=1e-5,
        )


def test_grand_equals_one_backward_per_image():
    d = tiny()
    net = make_tiny(d)(generator=rng(3))
    x, y = d.xy()
    want = torch.stack(
        [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(
                        F.cross_entropy(net(x[i : i + 1]), y[i : i + 1]), list(net.parameters())
                    )
                ]
            ).norm()
            for i in range(len(x))
        ]
    )
    assert torch.allclose(prune.grand(net, x, y), want, rtol=1e-4)
    assert torch.allclose(
        score_with(net, d.train.x, y, "grand", preprocess=d.norm.encode, chunk=5), want, rtol=1e-4
    )


def test_forgetting_and_aum_equal_the_slow_loop():
    c = torch.rand(9, 50, generator=rng(4)) < 0.6
    c[:, 0] = False
    c[:, 1] = True
    want = []
    for col in c.T.tolist():
        events = sum(a and not b for a, b in zip(col, col[1:]))
        want.append(events if any(col) else len(col))
    assert prune.forgetting(c).tolist() == want and want[0] == 9 and want[1] == 0
    gaps = torch.randn(9, 50, generator=rng(5))
    assert torch.allclose(
        prune.aum(gaps), torch.tensor([sum(col) / 9 for col in gaps.T.tolist()]), atol=1e-6
    )


@pytest.mark.parametrize("name", ["forgetting", "aum", "loss"])
def test_scores_over_training_equal_a_loop_written_out(name):
    d = tiny()
    make = make_tiny(d)
    E, batch, lr = 4, 5, 0.02
    got = scores(
        d,
        make,
        name,
        generator=rng(7),
        nets=1,
        epochs=E,
        average="epochs",
        batch_train=batch,
        lr=lr,
    ).values
    g = rng(int(torch.randint(2**62, (1,), generator=rng(7))))  # as fork does
    net = make(generator=rng(int(torch.randint(2**62, (1,), generator=g))))
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    x, y = d.xy()
    steps = math.ceil(len(x) / batch)
    rows, t = [], 0
    for _ in range(E):
        for i in torch.randperm(len(x), generator=g).split(batch):
            opt.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * t / (E * steps)))
            t += 1
            opt.zero_grad()
            F.cross_entropy(net(x[i]), y[i]).backward()
            opt.step()
        with torch.no_grad():
            rows.append(net(x))
    z = torch.stack(rows)
    gap = torch.stack([naive("logit_margin", r, y) for r in z])
    want = {
        "forgetting": lambda: prune.forgetting(gap < 0),
        "aum": lambda: gap.mean(0),
        "loss": lambda: torch.stack([naive("loss", r, y) for r in z]).mean(0),
    }[name]()
    assert torch.allclose(got, want.float(), atol=1e-4)


def test_scores_are_reproducible_and_average_over_nets():
    d = tiny()
    make = make_tiny(d)
    a, b, c = (scores(d, make, generator=rng(s), nets=2, epochs=1).values for s in (0, 0, 1))
    assert a.equal(b) and not a.equal(c)
    state = torch.random.get_rng_state()
    scores(d, make, generator=rng(0), nets=1, epochs=1, folds=3)
    assert state.equal(torch.random.get_rng_state()), "the global generator must stay untouched"


def test_folds_never_score_what_they_trained_on():
    y = torch.randint(3, (50,), generator=rng(0))
    jobs = prune.folds_of(y, 4, rng(1))
    assert torch.cat([r for _, r in jobs]).sort().values.tolist() == list(range(50))
    for train, rows in jobs:
        assert not set(train.tolist()) & set(rows.tolist()) and len(train) + len(rows) == 50
        for c in range(3):
            assert abs((y[rows] == c).sum().item() - (y == c).sum().item() / 4) <= 1
    assert [t.tolist() for t, _ in prune.folds_of(y, 1, rng(1))] == [list(range(50))]


def test_users_classifier_with_its_own_preprocessing_and_outputs():
    from torchvision.models import ResNet18_Weights, resnet18

    pre = ResNet18_Weights.DEFAULT.transforms()
    net = resnet18(weights=None).eval()
    x = torch.randint(0, 256, (3, 3, 40, 40), generator=rng(0), dtype=torch.uint8)
    y, ids = torch.tensor([1, 0, 1]), [217, 482]
    with torch.no_grad():
        want = F.cross_entropy(net(pre(x)), torch.tensor([482, 217, 482]), reduction="none")
    assert torch.allclose(
        score_with(net, x, y, preprocess=pre, outputs=ids, batch=2), want, atol=1e-4
    )


def test_any_callable_scores():
    d = tiny()
    x = d.xy()[0]
    of_images = Score(lambda x, y: x.mean((1, 2, 3)) + y, sees="images")
    assert torch.allclose(scores(d, score=of_images).values, x.mean((1, 2, 3)) + d.train.y)
    first = scores(d, score=lambda z, y: z[:, 0], classifier=lambda x: x.flatten(1)[:, :3])
    assert first.values.equal(x.flatten(1)[:, 0])
    with pytest.raises(DdnbError, match="one number per image"):
        scores(d, score=Score(lambda x, y: x, sees="images"))


def test_a_new_score_over_a_training_is_one_entry(monkeypatch):
    "What CONTRIBUTING promises: an entry, and it is asked for by name everywhere."
    monkeypatch.setitem(
        SCORES, "spread", Score(prune.losses, over=lambda r: r.std(0), name="spread")
    )
    d = tiny()
    how = dict(nets=1, epochs=3, generator=rng(0))
    got = scores(d, make_tiny(d), "spread", **how)
    mean = scores(d, make_tiny(d), "loss", average="epochs", **how | {"generator": rng(0)})
    assert got.recipe["score"] == "spread" and not got.values.equal(mean.values)
    assert (got.values >= 0).all() and keep(got, d).recipe["scores"]["score"] == "spread"


def test_rows_and_scores_may_lie_on_any_device():
    d = tiny()
    net = make_tiny(d)(generator=rng(0))
    rows = torch.tensor([5, 2])
    rows = rows.cuda() if torch.cuda.is_available() else rows
    some = score_with(net, d.train.x, d.train.y, rows=rows)
    assert torch.allclose(some, score_with(net, d.train.x, d.train.y)[[5, 2]], atol=1e-6)


def test_memory_mapped_images_are_read_in_chunks(tmp_path):
    d = tiny((40, 30, 30))
    f = tmp_path / "x.bin"
    f.write_bytes(d.train.x.numpy().tobytes())
    m = np.memmap(f, np.uint8, "r", shape=tuple(d.train.x.shape))
    seen = []
    net = make_tiny(d)(generator=rng(0))

    def pre(x):
        seen.append(len(x))
        return d.norm.encode(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch: the array is not writable
        got = score_with(net, m, d.train.y, preprocess=pre, chunk=32)
    assert (
        got.equal(score_with(net, d.train.x, d.train.y, preprocess=d.norm.encode))
        and max(seen) == 32
    )


def test_where_compiling_fails_scoring_goes_on(monkeypatch):
    d = tiny()
    net = make_tiny(d)(generator=rng(0))
    want = score_with(net, d.train.x, d.train.y)

    class Missing(RuntimeError):
        __module__ = "torch._inductor.exc"

    def broken(net, **kw):
        def run(x):
            raise Missing("no compiler")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match="scoring goes on"):
        got = score_with(net, d.train.x, d.train.y, compiled=True, batch=4)
    assert got.equal(score_with(net, d.train.x, d.train.y, batch=4))
    assert torch.allclose(want, got, atol=1e-6)


def test_compiled_batches_are_padded_to_one_size(monkeypatch):
    d = tiny()
    net = make_tiny(d)(generator=rng(0))
    sizes = []
    monkeypatch.setattr(torch, "compile", lambda f, **kw: lambda x: sizes.append(len(x)) or f(x))
    got = score_with(net, d.train.x, d.train.y, compiled=True, batch=8, chunk=13)
    assert set(sizes) == {8} and torch.allclose(
        got, score_with(net, d.train.x, d.train.y), atol=1e-6
    )


# ---- kept in a folder


def test_scores_are_kept_by_content(tmp_path):
    d = tiny()
    make = make_tiny(d)
    run = lambda d, **kw: scores(d, make, nets=1, epochs=1, folder=tmp_path, **kw)
    a, b = run(d), run(tiny(paths=False))
    assert not a.cached and b.cached and a.values.equal(b.values), "a moved data set must match"
    e = tiny()
    e.train.x[0, 0, 0, 0] ^= 1
    assert not run(e).cached, "a changed pixel must not match"
    assert not run(d, score="el2n").cached and not run(d, generator=rng(1)).cached
    assert not run(d, precision="bfloat16").cached, "another type of number"
    assert run(d, generator=rng(0)).cached
    for f in tmp_path.glob("scores-*/checkpoint.safetensors"):
        f.write_bytes(f.read_bytes()[:-3])
    with pytest.warns(UserWarning, match="checkpoint.safetensors"):
        again = run(d)
    assert not again.cached and again.values.equal(a.values) and run(d).cached


def test_a_folder_leaves_the_generator_where_computing_does(tmp_path):
    d = tiny()
    make = make_tiny(d)
    draws = []
    for _ in range(2):
        g = rng(3)
        scores(d, make, nets=1, epochs=1, folder=tmp_path, generator=g)
        draws.append(torch.rand(2, generator=g).tolist())
    assert draws[0] == draws[1]


def test_scores_of_functions_are_kept_under_a_name_only(tmp_path):
    d = tiny()
    mean = lambda x, y: x.mean((1, 2, 3))
    twice = lambda **kw: [scores(d, folder=tmp_path, **kw).cached for _ in range(2)]
    assert twice(score=Score(mean, sees="images")) == [False, False]
    assert twice(score=Score(mean, sees="images", name="mean")) == [False, True]
    net = make_tiny(d)(generator=rng(0))
    assert twice(classifier=lambda x: net(x)) == [False, False]
    assert twice(classifier=lambda x: net(x), name="mine") == [False, True]
    assert twice(classifier=net) == [False, True]
    with torch.no_grad():
        next(net.parameters()).add_(1.0)
    assert twice(classifier=net) == [False, True]
    assert twice(classifier=net, preprocess=d.norm.encode) == [False, False]


def test_a_failure_names_the_image(tmp_path):
    d = tiny()
    fourth = lambda x, y: torch.where(torch.arange(len(y)) == 4, torch.nan, 1.0)
    for _ in range(2):
        with pytest.raises(DdnbError, match=r"image 4 \(c\d/4.png\) has a score that is NaN"):
            scores(d, score=Score(fourth, sees="images", name="bad"), folder=tmp_path)


# ---- interruption and forecast


@pytest.mark.parametrize("kw", [dict(nets=3), dict(nets=1, folds=3, score="aum"), dict(nets=2)])
@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_stopped_scoring_goes_on_to_the_bit(tmp_path, kw, at, monkeypatch):
    d = tiny()
    make = make_tiny(d)
    run = lambda **more: scores(d, make, epochs=2, generator=rng(4), **kw, **more)
    want, records = run().values, []

    def stop(record):
        records.append(record)
        if len(records) == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path, progress=stop)
    done = records[-1]["step"]
    begun, scorer = [], room._Scorer
    monkeypatch.setattr(room, "_Scorer", lambda *a: begun.append(1) or scorer(*a))
    assert run(folder=tmp_path).values.equal(want)
    assert len(begun) <= records[-1]["steps"] - done, "what is finished is not trained again"
    assert run(folder=tmp_path).cached


def test_a_ready_classifier_is_a_work_of_chunks(tmp_path):
    d = tiny()
    net = make_tiny(d)(generator=rng(0))
    work = lambda: Scoring(d, classifier=net, reader=Reader(chunk=5))
    assert work().steps == 4 and work().unit == "chunk"
    for record in Run(tmp_path, work(), log=None):
        if record["step"] == 2 and "share" not in record:
            break
    rest = work()
    seen = [r["step"] for r in Run(tmp_path, rest, log=None) if "share" not in r]
    assert seen == [3, 4]
    assert rest.result.values.equal(scores(d, classifier=net, chunk=5).values)


@pytest.mark.parametrize("kw", [dict(), dict(folds=2, score="forgetting"), dict(score="grand")])
def test_a_forecast_of_scores_changes_nothing(kw):
    from ddnb.nets import wrap

    d = tiny()
    parts = lambda: (
        nn.Flatten(),
        nn.Linear(d.train.x[0].numel(), 8),
        nn.Dropout(0.5),
        nn.Linear(8, len(d.classes)),
    )
    make = wrap(lambda: nn.Sequential(*parts()))
    state, got = torch.random.get_rng_state(), []
    for measured in (False, True):
        torch.random.set_rng_state(state)  # the dropout of the user's net draws from it
        training = Training(nets=1, epochs=3, folds=kw.get("folds", 1))
        work = Scoring(d, make, kw.get("score", "loss"), training=training)
        if measured:
            assert work.measure()["seconds"] > 0
        assert work.forecast() is None, "not worth its time here"
        list(work)
        got.append(work.result.values)
    assert got[0].equal(got[1])
    torch.random.set_rng_state(state)


def test_a_long_scoring_is_forecast(monkeypatch):
    d, texts = tiny(), []
    monkeypatch.setattr(Scoring, "_long", lambda self: True)
    scores(d, make_tiny(d), nets=1, epochs=2, log=texts.append, long=0)
    assert len(texts) == 1 and "18 images" in texts[0]
    assert prune.forecast(d, make_tiny(d), nets=2)["total"] > 0
    assert prune.forecast(d, score="random")["total"] is None


def test_scoring_is_refused_where_the_disk_is_full(tmp_path, monkeypatch):
    import shutil

    d = tiny()
    make = make_tiny(d)
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(DdnbError, match="only 0 B are free"):
        scores(d, make, nets=1, epochs=1, folder=tmp_path / "c")
    assert len(scores(d, make, nets=1, epochs=1, folder=tmp_path / "c", force=True)) == 18


def test_numpy_numbers_are_numbers():
    v, y = torch.rand(20, generator=rng(0)), torch.arange(20) % 2
    k = keep(v.numpy(), y.numpy(), np.float32(0.5), ipc=np.int64(2))
    assert k.counts == [5, 5]
    assert json.loads(k.to_json())["recipe"]["ipc"] == 2


def test_an_unreadable_file_among_many_is_named_or_skipped(tmp_path):
    from PIL import Image

    g = rng(0)
    for c in "ab":
        (tmp_path / c).mkdir()
        for i in range(50):
            Image.fromarray(
                torch.randint(0, 256, (8, 8), generator=g, dtype=torch.uint8).numpy()
            ).save(tmp_path / c / f"{i:03d}.png")
    (tmp_path / "b" / "017.png").write_bytes(b"not an image")
    with pytest.raises(DdnbError, match="017.png"):
        load(str(tmp_path), size=8)
    with pytest.warns(UserWarning, match="1 image of"):
        d = load(str(tmp_path), size=8, errors="skip")
    k = keep(scores(d, make_tiny(d), nets=1, epochs=1), d, 0.5)
    assert not any("017" in p and p.startswith("b") for p in k.paths) and all(
        (tmp_path / p).exists() for p in k.paths
    )
    assert sum(k.totals) == len(d.train)


# ---- keeping

HAND, HANDY = (
    torch.tensor([0.5, 0.1, 0.1, 0.3, 0.2, 9.0, 8.0, 7.0, 6.0, 5.0]),
    torch.tensor([0] * 5 + [1] * 5),
)


@pytest.mark.parametrize(
    "kw, want",
    [
        (dict(fraction=0.6), [1, 2, 4, 7, 8, 9]),
        (dict(fraction=0.2), [1, 9]),
        (dict(fraction=0.4), [1, 2, 8, 9]),
        (dict(fraction=1.0), list(range(10))),
        (dict(fraction=0.4, order="hard"), [0, 3, 5, 6]),
        (dict(count=1), [1, 9]),
        (dict(count=99), list(range(10))),
        (dict(count=2, order="hard"), [0, 3, 5, 6]),
        (dict(fraction=0.6, per="global"), [0, 1, 2, 3, 4, 9]),
        (dict(count=6, per="global", order="hard"), [0, 5, 6, 7, 8, 9]),
        (dict(fraction=0.2, order="band"), [4, 7]),
        (dict(fraction=0.4, order="band", skip=0.0), [1, 2, 8, 9]),
        (dict(fraction=0.4, order="band", skip=1.0), [0, 3, 5, 6]),
    ],
)
def test_hand_made_losses_give_exact_indices(kw, want):
    assert keep(HAND, HANDY, **kw).indices.tolist() == want


def test_ties_go_to_the_lower_index_whatever_their_number():
    v, y = torch.zeros(2000), torch.arange(2000) % 2
    for order in ("easy", "hard"):
        assert keep(v, y, 0.1, order=order).indices.tolist() == list(range(200))


def test_counts_follow_the_papers_int_of_percent():
    for n in range(1, 400):
        for p in range(1, 101):
            assert count_of(p / 100, n) == p * n // 100, (p, n)
    v, y = torch.rand(173, generator=rng(0)), torch.cat([torch.zeros(100), torch.ones(73)]).long()
    assert keep(v, y, 0.29).counts == [29, 21]


def test_easy_is_the_lowest_of_each_class_and_thresholds_separate():
    v, y = torch.randn(300, generator=rng(0)), torch.randint(4, (300,), generator=rng(1))
    for order, sign in (("easy", 1), ("hard", -1)):
        k = keep(v, y, 0.37, order=order)
        inside = torch.zeros(300, dtype=torch.bool)
        inside[k.indices] = True
        for c in range(4):
            a, b = sign * v[inside & (y == c)], sign * v[~inside & (y == c)]
            assert len(a) == int(0.37 * int((y == c).sum())) == k.counts[c] and a.max() <= b.min()
            assert k.thresholds[c] == pytest.approx(sign * a.max().item())


def test_random_and_stratified_draw_from_the_generator():
    v, y = torch.rand(200, generator=rng(0)), torch.arange(200) % 2
    for order in ("random", "stratified"):
        a, b, c = (keep(v, y, 0.3, order=order, generator=rng(s)).indices for s in (0, 0, 1))
        assert a.equal(b) and not a.equal(c) and len(a) == 60
    assert keep(None, y, 0.3, order="random", generator=rng(0)).counts == [30, 30]


def test_all_images_are_kept_without_scores():
    y = torch.arange(20) % 2
    k = keep(None, y, 1)
    assert k.counts == [10, 10] and k.thresholds == [None, None] and k.card["n_total"] == 20
    assert k.indices.tolist() == list(range(20))
    with pytest.raises(DdnbError, match="scores"):
        keep(None, y, 0.5)


def test_stratified_drops_the_hardest_and_spreads_evenly():
    v, y = (
        torch.cat([torch.rand(900, generator=rng(0)) * 0.1, torch.linspace(0.1, 1, 100)]),
        torch.zeros(1000).long(),
    )
    k = keep(v, y, 0.2, order="stratified", cut=0.02, bins=10)
    h = torch.histc(v[k.indices], 10, float(v.min()), float(v.sort().values[979]))
    assert len(k) == 200 and v[k.indices].max() <= v.sort().values[979] and h[1:].min() >= 7, h
    easy = torch.histc(v[keep(v, y, 0.2).indices], 10, 0, 1)
    assert easy[1:].sum() == 0, "the easiest are all in one bin here"
    assert sorted(keep(v, y, 1.0, order="stratified").indices.tolist()) == list(range(1000))


def test_fewer_than_needed_names_class_kept_and_needed():
    with pytest.raises(
        DdnbError,
        match="class '0' would keep 0 of its 5 images, 1 is needed.*0.2",
    ):
        keep(HAND, HANDY, 0.1)
    with pytest.raises(
        DdnbError, match="class 'dog' would keep 3 of its 5 images, 4 are needed.*0.8"
    ):
        keep(HAND, HANDY, 0.6, ipc=4, classes=["dog", "cat"])
    with pytest.raises(DdnbError, match="class '1' would keep 0 of its 5 images"):
        keep(HAND, HANDY, 0.5, per="global")
    with pytest.raises(DdnbError, match="class 'c' would keep 0 of its 0 images"):
        keep(HAND, HANDY, 0.6, classes=list("abc"))
    with pytest.raises(DdnbError, match="1 of its 1 images, 2 are needed: add 1 images"):
        keep(torch.rand(6), torch.tensor([0, 1, 1, 1, 1, 1]), 1.0, ipc=2)
    assert keep(HAND, HANDY, 0.8, ipc=4).counts == [4, 4] and keep(HAND, HANDY, 0.2).counts == [
        1,
        1,
    ]


@pytest.mark.parametrize(
    "bad, match",
    [
        (dict(fraction=60), "Did you mean 0.6"),
        (dict(fraction=0), "fraction is"),
        (dict(fraction=-0.1), "fraction is"),
        (dict(fraction=float("nan")), "fraction is"),
        (dict(fraction=1.01), "at most 1"),
        (dict(fraction="60%"), "fraction is"),
        (dict(count=0), "count is 0"),
        (dict(count=1.5), "count is 1.5"),
        (dict(ipc=0), "ipc is 0"),
        (dict(order="easiest"), "Did you mean 'easy'"),
        (dict(per="klass"), "per is"),
        (dict(skip=0.1), "skip"),
    ],
)
def test_bad_arguments_are_one_sentence(bad, match):
    with pytest.raises(DdnbError, match=match) as e:
        keep(HAND, HANDY, **bad)
    assert str(e.value).count("\n") == 0


@pytest.mark.parametrize(
    "v, y, match",
    [
        (HAND[:9], HANDY, "9 scores or images but 10 labels"),
        (HAND, HANDY - 1, "image 0 has label -1"),
        (
            HAND.clone().index_fill_(0, torch.tensor([3]), torch.nan),
            HANDY,
            "image 3 has a score that is NaN",
        ),
        (HAND[:, None], HANDY, "one number per image"),
        (HAND, HANDY.float(), "one class number per image"),
        (HAND[:0], HANDY[:0], "labels"),
    ],
)
def test_bad_scores_and_labels(v, y, match):
    with pytest.raises(DdnbError, match=match):
        keep(v, y)


def test_labels_out_of_range_and_nan_images_while_scoring():
    d = tiny()
    net = make_tiny(d)(generator=rng(0))
    with pytest.raises(DdnbError, match="image 5 has label 7, but the 3 classes"):
        d.train.y[5] = 7
        scores(d, classifier=net)
    d = tiny()
    x = d.xy()[0].clone()
    x[11, 0, 2, 2] = torch.nan
    with pytest.raises(DdnbError, match="image 11 has a pixel value that is NaN"):
        score_with(net, x, d.train.y)
    with pytest.raises(DdnbError, match="18 scores or images but 17 labels"):
        score_with(net, x, d.train.y[:-1])
    with pytest.raises(DdnbError, match="has 3 outputs"):
        score_with(net, d.train.x, d.train.y + 1)
    for kw, m in (
        (dict(score="los"), "Did you mean 'loss'"),
        (dict(nets=0), "nets is 0"),
        (dict(folds=99), "folds is 99"),
        (dict(average="mean"), "'end'"),
        (dict(score="aum", classifier=net), "leave classifier out"),
    ):
        with pytest.raises(DdnbError, match=m):
            scores(d, **kw)


def test_a_class_with_one_image_is_scored_and_kept():
    d = tiny((6, 6, 1))
    make = make_tiny(d)
    for folds in (1, 3):
        s = scores(d, make, nets=1, epochs=1, folds=folds)
        assert torch.isfinite(s.values).all() and keep(s, d, 1.0).counts == [6, 6, 1]
        with pytest.raises(DdnbError, match="class 'c' would keep 0 of its 1 images"):
            keep(s, d, 0.6)


# ---- the object


@pytest.fixture
def kept():
    d = tiny()
    return d, keep(scores(d, make_tiny(d), nets=1, epochs=1), d, 0.6)


def test_repr_says_kept_plainly(kept):
    d, k = kept
    assert (
        repr(k).startswith("KEPT 10 of 18 training images")
        and "easiest by loss" in repr(k)
        and "<td>a</td><td>4</td><td>7</td>" in k._repr_html_()
    )
    assert "&lt;b&gt;" in keep(HAND, HANDY, classes=["<b>", "x"])._repr_html_()


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_files_read_back_equal_and_whole(kept, kind, tmp_path):
    d, k = kept
    f = tmp_path / f"kept.{kind}"
    getattr(k, f"to_{kind}")(f)
    text = f.read_text()
    assert "tmp_path" not in text and str(tmp_path) not in text and all(p in text for p in k.paths)
    b = getattr(Kept, f"from_{kind}")(f, d)
    assert (
        b.card == k.card
        and all(getattr(b, n).equal(getattr(k, n)) for n in ("indices", "labels", "values"))
        and b.paths == k.paths
    )
    getattr(b, f"to_{kind}")(tmp_path / "again")
    assert (tmp_path / "again").read_text() == text
    with pytest.raises(DdnbError, match="another data set"):
        getattr(Kept, f"from_{kind}")(f, tiny(seed=1))
    with pytest.raises(DdnbError, match="train split of 18 images"):
        getattr(Kept, f"from_{kind}")(f, tiny((3, 3, 3)))
    for n in (0, 5, len(text) // 2, len(text) - 30):
        f.write_text(text[:n])
        with pytest.raises(DdnbError, match="does not hold kept indices"):
            getattr(Kept, f"from_{kind}")(f)
    with pytest.raises(DdnbError, match="nothing"):
        getattr(Kept, f"from_{kind}")(tmp_path / "nothing")
    assert not list(tmp_path.glob(".*tmp"))


def test_odd_names_survive_both_files(tmp_path):
    d = tiny()
    d.classes[:] = ['comma, "quote"', "line\nbreak", "naïve ✓"]
    d.train.paths[0] = 'a,b "c"/\n.png'
    k = keep(torch.arange(18.0), d, 0.9)
    k.to_csv(tmp_path / "a.csv")
    k.to_json(tmp_path / "a.json")
    for b in (Kept.from_csv(tmp_path / "a.csv", d), Kept.from_json(tmp_path / "a.json", d)):
        assert b.classes == d.classes and b.paths == k.paths and b.labels.equal(k.labels)


def test_edited_files_are_refused(kept, tmp_path):
    _, k = kept
    card = json.loads(k.to_json())
    for change in (
        dict(indices=card["indices"][:-1] + [999]),
        dict(indices=card["indices"][:-1]),
        dict(counts=[1, 1, 1]),
        dict(kept=99),
        dict(indices=card["indices"][:-1] + card["indices"][:1]),
    ):
        (tmp_path / "k.json").write_text(json.dumps({**card, **change}))
        with pytest.raises(DdnbError, match="does not hold kept indices"):
            Kept.from_json(tmp_path / "k.json")


def test_scores_and_kept_of_another_data_set_are_refused(kept):
    d, k = kept
    other = tiny(seed=5)
    with pytest.raises(DdnbError, match="another data set"):
        keep(scores(d, make_tiny(d), nets=1, epochs=1), other)
    with pytest.raises(DdnbError, match="another data set"):
        k.check(other)
    with pytest.raises(DdnbError, match="another data set"):
        other.keep(k)


def test_pruned_data_is_what_later_stages_see(kept):
    d, k = kept
    p = d.keep(k)
    assert (
        p.train.x.equal(d.train.x[k.indices])
        and p.train.y.equal(k.labels)
        and p.kept is k
        and len(p.valid) == len(d.valid)
    )
    pool = {tuple(x.flatten().tolist()) for x in p.train.x}
    for c in range(3):
        for x in d.norm.decode(p.batch(c, 4, rng(0))):
            assert tuple((x * 255).round().to(torch.uint8).flatten().tolist()) in pool


# ---- auto


def test_auto_keep_takes_the_best_and_ties_go_to_more():
    d = tiny((20, 20, 20))
    v = torch.rand(60, generator=rng(0))
    best = auto_keep(
        v, d, lambda p, g: {12: 0.3, 24: 0.9, 36: 0.5, 48: 0.9, 60: 0.1}[len(p.train)], repeats=2
    )
    assert (
        best.recipe["fraction"] == 0.8
        and [r["accuracy"] for r in best.curve] == [0.3, 0.9, 0.5, 0.9, 0.1]
        and "chosen" in best._repr_html_()
    )
    assert best.indices.equal(keep(v, d, 0.8).indices)
    seen = []
    auto_keep(
        v,
        d,
        lambda p, g: seen.append(int(torch.randint(10**6, (1,), generator=g))) or 0.5,
        fractions=(0.5, 1.0),
        repeats=2,
    )
    assert seen[:2] == seen[2:] and seen[0] != seen[1], "the same seeds for every candidate"


def test_auto_keep_gives_up_images_only_for_more_than_the_noise():
    d = tiny((20, 20, 20))
    v = torch.rand(60, generator=rng(0))
    sizes = []

    def noisy(p, g):  # 20 images are better on average, by less than the runs differ
        sizes.append(len(p.train))
        k = sizes.count(len(p.train))
        return {12: [0.5, 0.9, 0.4], 60: [0.6, 0.5, 0.6]}[len(p.train)][k - 1]

    assert auto_keep(v, d, noisy, fractions=(0.2, 1.0)).recipe["fraction"] == 1.0
    sure = lambda p, g: (
        {12: 0.69, 60: 0.01}[len(p.train)] + 0.3 * torch.rand((), generator=g).item()
    )  # the runs differ, in the same way for both
    assert auto_keep(v, d, sure, fractions=(0.2, 1.0)).recipe["fraction"] == 0.2


def test_a_lead_of_a_few_validation_images_is_noise():
    "Four of 90 images, after five shares were tried; 40 of them are none."
    tried = torch.tensor([[0.9], [0.9 + 4 / 90], [0.9], [0.89], [0.9]]).repeat(1, 3).double()
    assert largest_as_good(tried) == 1 and largest_as_good(tried, images=90) == 4
    sure = torch.tensor([[0.4], [0.4 + 40 / 90], [0.4], [0.4], [0.4]]).repeat(1, 3).double()
    assert largest_as_good(sure, images=90) == 1
    from scipy.stats import norm

    assert surely(4) == pytest.approx(norm.ppf(1 - 0.05 / 8)) and surely(1) > 1.95
    assert lead_noise(0.5, 0.5, 200) == pytest.approx(0.05)


def test_auto_keep_skips_what_leaves_too_few():
    d = tiny((20, 20, 20))
    v = torch.rand(60, generator=rng(0))
    assert [r["fraction"] for r in auto_keep(v, d, lambda p, g: 0.5, repeats=1, ipc=10).curve] == [
        0.6,
        0.8,
        1.0,
    ]
    with pytest.raises(DdnbError, match="30 are needed"):
        auto_keep(v, d, lambda p, g: 0.5, ipc=30)
    with pytest.raises(DdnbError, match="fractions"):
        auto_keep(v, d, lambda p, g: 0.5, fractions=(0.5, 3))


# ---- what pruning is for


@pytest.mark.slow
def test_keeping_easy_cleans_flipped_labels():
    d = load("digits")
    g = rng(0)
    flip = torch.rand(len(d.train), generator=g) < 0.4
    y = torch.where(
        flip, (d.train.y + torch.randint(1, 10, flip.shape, generator=g)) % 10, d.train.y
    )
    d = Data("noisy", d.classes, Split(d.train.x, y), d.valid, d.test, d.norm)
    k = keep(scores(d, net_for(d, width=32, depth=2), nets=1, generator=g), d, 0.6)
    assert (~flip[k.indices]).float().mean() >= 0.93


def test_names_seeds_and_confusions_are_met_at_once():
    d = load("digits")
    d = d.keep(keep(None, d, count=12, order="random", generator=3))
    s = scores(d, "MLP", generator=5, nets=1, epochs=1, progress=False)
    assert s.values.equal(
        scores(d, net_for(d, "MLP"), generator=rng(5), nets=1, epochs=1, progress=False).values
    )
    for kw, says in (
        (dict(make="MPL"), "Did you mean 'MLP'"),
        (dict(make=net_for(d, "MLP")()), "classifier="),
        (dict(score="EL2N"), "Did you mean 'el2n'"),
        (dict(data="digits"), "ddnb.data.load"),
        (dict(generator="a"), "generator is"),
        (dict(lr=-1), "lr is -1"),
        (dict(batch_train=0), "batch_train is 0"),
    ):
        with pytest.raises(DdnbError, match=says):
            scores(**{"data": d, "make": "MLP", "progress": False, **kw})
    for args, kw, says in (
        ((s, d, 0.5), dict(count=3), "give one of them"),
        ((s, d, "auto"), {}, "fraction is 'auto'"),
        ((d, 0.5), {}, "scores are a Data|one class number per image"),
        ((d, d), {}, "scores are a Data"),
        ((s, "digits"), {}, "labels are"),
    ):
        with pytest.raises(DdnbError, match=says):
            keep(*args, **kw)
    assert keep(s, d).recipe["fraction"] == 0.6 and len(keep(s, d)) == len(keep(s, d, 0.6))
