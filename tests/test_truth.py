"What a table tells: measures against scikit-learn and by hand, guessing, verdicts, older files."

import math
import statistics

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score

from ddnb.base.check import DdnbError
from ddnb.base.checkpoint import Pieces
from ddnb.base.rng import rng
from ddnb.base.run import complete
from ddnb.data import load
from ddnb.distil.syn import init
from ddnb.judge import baselines, evaluate, verdict
from ddnb.judge.grid import Grid
from ddnb.judge.results import Results
from ddnb.judge.truth import auroc, balanced, calibration, chances, confusion_of, summary
from ddnb.judge.verdicts import Gap, given_up, verdicts

torch.set_num_threads(1)


def answers(n=300, k=4, seed=0, step=None):
    "Scores that know something, and the truth; with a `step`, many are equal."
    g = rng(seed)
    y = torch.multinomial(torch.arange(1.0, k + 1), n, True, generator=g)
    scores = torch.randn(n, k, generator=g, dtype=torch.double)
    scores[torch.arange(n), y] += 1
    return (scores / step).round() * step if step else scores, y


@pytest.fixture(scope="module")
def uneven():
    "Three kinds of digits, eights rare."
    digits = load("digits", valid=0, test=0)
    eights, ones, nines = ((digits.train.y == c).nonzero()[:, 0] for c in (8, 1, 9))
    chosen = torch.cat([eights[:30], ones, nines])
    y = torch.tensor([{8: 0, 1: 1, 9: 2}[int(c)] for c in digits.train.y[chosen]])
    names = ("eight", "one", "nine")
    return load((digits.train.x[chosen], y), classes=names, valid=0, test=0.4)


@pytest.mark.parametrize("k", [2, 4, 10])
@pytest.mark.parametrize("step", [None, 0.5])
def test_measures_are_those_of_sklearn(k, step):
    for seed in range(3):
        scores, y = answers(k=k, seed=seed, step=step)
        p = scores.softmax(1)
        kind = dict(multi_class="ovr", average="macro")
        want = roc_auc_score(y, p[:, 1]) if k == 2 else roc_auc_score(y, p, **kind)
        assert auroc(p, y) == pytest.approx(want, abs=1e-12)
        said = summary(scores, y)
        assert said["confusion"] == confusion_matrix(y, scores.argmax(1)).tolist()
        want = balanced_accuracy_score(y, scores.argmax(1))
        assert balanced([said["confusion"]])[0] == pytest.approx(want, abs=1e-12)


def test_a_class_without_images_counts_for_nothing():
    scores, y = answers(k=4)
    seen = y != 2
    scores, y = scores[seen], y[seen]
    counts = confusion_of(scores.argmax(1), y, 4)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        want = balanced_accuracy_score(y, scores.argmax(1))
    assert balanced(counts[None])[0] == pytest.approx(want, abs=1e-12)
    areas = [roc_auc_score(y == c, scores[:, c]) for c in (0, 1, 3)]
    assert auroc(scores, y) == pytest.approx(statistics.fmean(areas), abs=1e-12)
    assert auroc(scores[y == 1], y[y == 1]) is None


def naive_calibration(p, y, bins):
    gap = 0.0
    for b in range(bins):
        inside = [
            (max(row), row.index(max(row)) == int(c))
            for row, c in zip(p.tolist(), y)
            if b / bins < max(row) <= (b + 1) / bins
        ]
        if inside:
            sure, right = map(statistics.fmean, zip(*inside))
            gap += len(inside) / len(y) * abs(sure - right)
    return gap


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_is_its_formula(bins):
    for seed in range(3):
        scores, y = answers(seed=seed)
        p = scores.softmax(1)
        assert calibration(p, y, bins) == pytest.approx(naive_calibration(p, y, bins), abs=1e-12)


def test_calibration_by_hand():
    p, y = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]).double(), torch.zeros(3).long()
    assert calibration(p, y, bins=2) == pytest.approx((2 * 0.25 + 0.5) / 3)
    assert calibration(torch.eye(3), torch.arange(3)) == 0
    assert calibration(torch.eye(3), torch.tensor([1, 2, 0])) == 1


def test_a_broken_network_has_answers_but_no_probabilities():
    scores, y = answers()
    said = summary(scores * math.nan, y)
    assert said["auroc"] is None and said["calibration"] is None
    assert sum(map(sum, said["confusion"])) == len(y)


def test_guessing():
    always, shares = chances([99, 400, 400])
    assert always.accuracy == pytest.approx(400 / 899) and always.balanced == pytest.approx(1 / 3)
    assert shares.accuracy == pytest.approx(sum((n / 899) ** 2 for n in (99, 400, 400)))
    assert [c.accuracy for c in chances([7, 7])] == [0.5]


# ---- in the table


def test_balanced_accuracy_leads_where_classes_are_unequal(uneven):
    r = evaluate(baselines(uneven, 1), uneven, "MLP", seeds=3, steps=30)
    head, *rows = r.rows()
    assert head[2:] == ["MLP", "accuracy", "lowest recall", "AUROC", "calibration error"]
    assert [row[0] for row in rows[-2:]] == ["always the largest class", "guessing by class shares"]
    for row, cell in zip(rows, r):
        assert row[2].startswith(f"{100 * statistics.fmean(cell['balanced']):.1f}")
        assert row[3].startswith(f"{100 * cell['mean']:.1f}")
    assert r.caption.startswith("Balanced accuracy") and "n = 3 networks" in r.caption
    assert r.verdicts == [], "baselines are not on trial"


def test_accuracy_leads_where_classes_are_equal():
    data = load("digits")
    means = init(data, 1, "mean", generator=rng(0))
    r = evaluate({"mine": means}, data, ["MLP", "LeNet"], seeds=2, steps=10)
    assert r.rows()[0] == ["training set", "images", "MLP", "LeNet"]
    assert [row[0] for row in r.rows()[1:]] == ["mine", "guessing"]
    assert r.caption.startswith("Accuracy")
    one = r.of("LeNet")
    assert "AUROC" in one.rows()[0] and str(one.confusion_of()).count("\n") == 11
    assert "AUROC" in one.to_text() and "AUROC" in one._repr_html_()


def test_measures_are_those_of_the_networks(uneven):
    "Each number of a record, from networks trained by hand."
    from ddnb.nets.train import logits, train_many

    means = init(uneven, 1, "mean", generator=rng(0))
    grid = Grid(means, uneven, "MLP", seeds=2, steps=20)
    r = complete(grid, progress=False).results
    nets, sets, generators = grid.cells[0].prepare([0, 1])
    train_many(nets, *zip(*sets), generators=generators, **grid.cells[0].kw)
    x, y = uneven.xy("test")
    for k, net in enumerate(nets):
        p = logits(net, x).double().softmax(1)
        want = roc_auc_score(y, p, multi_class="ovr", average="macro")
        assert r.auroc[k] == pytest.approx(want, abs=1e-6)
        assert r.calibration[k] == pytest.approx(naive_calibration(p, y, 15), abs=1e-6)
        assert r.balanced[k] == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))


def test_networks_kept_by_an_earlier_version_still_count(uneven, tmp_path):
    means = init(uneven, 1, "mean", generator=rng(0))
    kw = dict(nets="MLP", seeds=2, steps=5, folder=tmp_path)
    first = evaluate(means, uneven, **kw)
    pieces = Pieces(tmp_path)
    for file in tmp_path.glob("network-*.json"):
        tensors, found = pieces[file.stem]
        pieces[file.stem] = (
            tensors,
            {k: v for k, v in found.items() if k not in ("auroc", "calibration")},
        )
    again = evaluate(means, uneven, **kw)
    assert again.seconds == first.seconds and again.auroc is None and again.calibration is None
    assert again.accuracy == first.accuracy and "AUROC" not in again.rows()[0]


def test_results_of_an_earlier_version_still_show():
    new = ("balanced", "auroc", "calibration")
    data = load("digits")
    r = evaluate(init(data, 1, "mean"), data, "MLP", seeds=2, steps=5)
    old = Results({k: v for k, v in c.items() if k not in new} for c in r)
    assert old.rows()[0] == ["training set", "images", "MLP", "lowest recall"]
    bare = Results(
        {k: v for k, v in c.items() if k not in (*new, "confusion", "classes")} for c in r
    )
    assert len(bare.rows()) == 2 and bare.caption == r.caption == old.caption


# ---- verdicts


def cell(name, values, **more):
    at = dict(train=name, net="MLP", data="d", split="test", protocol="plain", n=len(values))
    return at | dict(accuracy=values, seeds=list(range(len(values)))) | more


def test_a_gap_is_a_paired_t_test():
    from scipy.stats import ttest_rel

    for seed in range(30):
        for n in (3, 5, 20):
            a = torch.randn(n, generator=rng(seed), dtype=torch.double)
            b = a + 0.5 + torch.randn(n, generator=rng(seed + 1), dtype=torch.double)
            test = ttest_rel(b, a)
            gap = Gap.of("a", (b - a).tolist())
            assert gap.mean / gap.error == pytest.approx(test.statistic)
            assert gap.is_clear == (test.pvalue < 0.05) or abs(test.pvalue - 0.05) < 2e-3


def test_verdict_pairs_by_seed_and_network():
    records = [
        cell("ours", [0.6, 0.7, 0.8]),
        cell("random", [0.8, 0.5, 0.6], seeds=[2, 0, 1], n=3),  # in another order
        cell("ours", [0.5, 0.6, 0.7], net="VGG11"),
        cell("random", [0.1], net="LeNet"),  # nobody to pair it with
    ]
    said = verdict(records, "ours", "random")
    assert said == "ours: no better than random (+6.7 ± 3.3)."
    assert verdict(records[:1] + [cell("mean", [0.5, 0.6, 0.7])], "ours").startswith("ours: 10.0")


def test_a_large_gap_of_few_networks_is_not_called_none():
    records = [cell("ours", [0.8, 0.85]), cell("random", [0.6, 0.6])]
    said = verdict(records, "ours")
    assert said == "ours: 22.5 ± 2.5 above random (n = 2 is too few to be sure)."


def test_one_network_wears_no_error():
    said = verdict([cell("ours", [0.6]), cell("random", [0.5])], "ours")
    assert said == "ours: 10.0 above random." and "±" not in said


def test_a_class_that_is_given_up_is_named():
    confusion = [[16, 84, 0], [4, 90, 6], [0, 10, 90]]
    records = [cell("ours", [0.6], confusion=confusion, classes=["healthy", "b", "c"])]
    assert given_up(records) == {"healthy": 0.16}
    assert "recall of healthy 16 %" in verdict(records, "ours")
    fine = [cell("ours", [0.6], confusion=[[9, 1], [1, 9]], classes=["a", "b"])]
    assert given_up(fine) == {}


def test_what_learned_nothing_is_compared_with_guessing():
    confusion = [[0, 10], [0, 30]]
    records = [cell("ours", [0.75, 0.75], confusion=confusion, classes=["a", "b"], n=2)]
    assert "no better than guessing" in verdict(records, "ours")


def test_which_sets_stand_trial():
    names = ("ours", "random", "class mean", "theirs")
    said = verdicts([cell(n, [0.1 * i, 0.1 * i + 0.1]) for i, n in enumerate(names)])
    assert [s.split(":")[0] for s in said] == ["ours", "theirs"]
    assert all("random" in s and "class mean" in s for s in said)
    two = verdicts([cell("lr=1", [0.5, 0.6]), cell("lr=2", [0.8, 0.9])])
    assert len(two) == 1 and two[0].startswith("lr=2:") and "lr=1" in two[0]
    assert verdicts([]) == []


@pytest.mark.parametrize(
    "name, against, says",
    [("our", None, "'ours'"), ("ours", "randm", "'random'"), ("ours", "late", "share no network")],
)
def test_a_slip_in_a_verdict_is_named(name, against, says):
    records = [cell("ours", [0.6]), cell("random", [0.5]), cell("late", [0.5], seeds=[9])]
    with pytest.raises(DdnbError, match=says):
        verdict(records, name, against)


def test_a_verdict_shows_names_as_text(uneven):
    means = init(uneven, 1, "mean", generator=rng(0))
    rivals = {"<b>": means, "random": baselines(uneven, 1)["random"]}
    r = evaluate(rivals, uneven, "MLP", seeds=2, steps=5)
    assert "&lt;b&gt;:" in r._repr_html_() and "<b>" not in r._repr_html_()
    assert "&lt;b&gt;:" in r.to_markdown() and "% <b>:" in r.to_latex()
