"Labels of a teacher, stored or for every batch; balanced drawing; objectives that order sets."

import math

import pytest
import torch
import torch.nn.functional as F

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.distil import init
from ddnb.judge import Teacher, baselines, dcs, evaluate, label, labelled, with_soft_rivals
from ddnb.judge.worth import spearman
from ddnb.nets import MLP
from ddnb.judge.protocols import PROTOCOLS, minimax, rded, wants_teacher
from ddnb.nets.augment import as_aug
from ddnb.nets.fit import Batches, class_shares
from ddnb.nets.mixing import Crops, CutMix, InTurn
from ddnb.nets.train import train_many

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data():
    return load("digits")


@pytest.fixture(scope="module")
def net():
    return MLP(1, 10, 8, generator=rng(5)).eval()


def test_labels_are_the_softmax_at_a_temperature(data, net):
    x, y = init(data, 2, "real", generator=rng(0))
    for temperature in (1.0, 4, 20):
        same, soft = label((x, y), net, data, temperature)
        assert torch.equal(same, x)
        assert torch.allclose(soft, (net(x) / temperature).softmax(1), atol=1e-6)
    with pytest.raises(DdnbError, match="temperature"):
        label((x, y), net, data, 0)


def test_a_drawn_set_is_labelled_whenever_it_is_drawn(data, net):
    random = baselines(data, 1)["random"]
    x, y = labelled(random, net, data, 4)(rng(3))
    assert torch.equal(x, random(rng(3))[0]) and torch.allclose(y, Teacher(net, 4)(x))


def test_soft_labels_bring_their_rival_into_the_table(data, net):
    random = baselines(data, 1)["random"]
    hard = {"ours": init(data, 1, "mean"), "random": random}
    assert with_soft_rivals(hard, net, data, random) is hard
    soft = with_soft_rivals({"ours": label(hard["ours"], net, data)}, net, data, random)
    assert [*soft] == ["ours", "random + the same soft labels"]
    r = evaluate(soft, data, "MLP", seeds=2, steps=5)
    assert "random + the same soft labels" in r.verdicts[0]


def test_a_teacher_is_asked_for_every_batch(data, net):
    "Equal to stored labels where nothing is augmented; cross entropy is KL up to a constant."
    x, y = init(data, 1, "real", generator=rng(0))
    teacher, how = Teacher(net, 3), dict(steps=6, batch=4, lr=0.05)
    stored, fly = (MLP(1, 10, 8, generator=rng(0)) for _ in range(2))
    train_many([stored], x, teacher(x), **how)
    train_many([fly], x, y, teacher=teacher, **how)
    for p, q in zip(stored.parameters(), fly.parameters()):
        assert torch.allclose(p, q, atol=1e-6)
    student, t = stored(x), teacher(x)
    entropy = -(t * t.log()).sum(1).mean()
    kl = F.kl_div(student.log_softmax(1), t, reduction="batchmean")
    assert (F.cross_entropy(student, t) - entropy).item() == pytest.approx(kl.item(), abs=1e-5)


def test_networks_of_two_teachers_are_told_apart(data, net, tmp_path):
    means = init(data, 1, "mean")
    how = dict(nets="MLP", seeds=1, protocol="rd3", epochs=1, folder=tmp_path)
    for k, teacher in enumerate((Teacher(net), Teacher(net, 4), Teacher(net)), 1):
        evaluate(means, data, teacher=teacher, **how)
        assert len(list(tmp_path.glob("network-*.json"))) == min(k, 2)
    with pytest.raises(DdnbError, match="teacher"):
        evaluate(means, data, "MLP", seeds=1, protocol="rd3")


def test_cutmix_pastes_one_rectangle_of_another_image():
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 2, 9, 7)
    for seed in range(20):
        draw = CutMix().draw(6, rng(seed))
        mixed = CutMix()(x, draw)
        assert torch.equal(mixed, CutMix()(x, draw)) and (x[:, 0, 0, 0] == torch.arange(6)).all()
        for k in range(6):
            other = float(draw["who"][k])
            pasted = mixed[k, 0] == other
            rows, columns = pasted.any(1), pasted.any(0)
            whole = rows[:, None] & columns[None]
            assert torch.equal(pasted, whole) and ((mixed[k] == k) | (mixed[k] == other)).all()
            assert torch.equal(mixed[k, 0], mixed[k, 1])


def test_labels_mix_by_area_where_no_teacher_is_asked(data):
    "Equal to a training on mixtures and mixed labels that were made by hand."
    x, y = init(data, 1, "real", generator=rng(0))
    by_hand, mixed = (MLP(1, 10, 8, generator=rng(0)) for _ in range(2))
    train_many([mixed], x, y, steps=1, lr=0.1, aug=CutMix(), generators=[rng(4)])
    draw = CutMix().draw(10, rng(4))
    labels = CutMix().labels(y, draw, x.shape[-2:], 10)
    pasted = (CutMix()(x, draw) != x).flatten(1).any(1)
    assert pasted.any() and torch.allclose(labels.sum(1), torch.ones(10))
    train_many([by_hand], CutMix()(x, draw), labels, steps=1, lr=0.1)
    for p, q in zip(mixed.parameters(), by_hand.parameters()):
        assert torch.allclose(p, q, atol=1e-6)


def test_labels_of_classes_that_are_absent_mix_too(data):
    x, y = init(data, 1, "real", generator=rng(0))
    few = y < 3
    (record,) = train_many([MLP(1, 10, 8)], x[few], y[few], steps=2, aug=CutMix())
    assert all(torch.isfinite(torch.tensor(r["loss"])) for r in record)


def test_both_opinions_are_softened(data, net):
    "The gradient of KL(teacher / 20, student / 20), which RDED descends."
    x, y = init(data, 1, "real", generator=rng(0))
    student, ours = (MLP(1, 10, 8, generator=rng(0)) for _ in range(2))
    how = dict(steps=1, lr=3.0, momentum=0, weight_decay=0, batch=10)
    train_many([ours], x, y, teacher=Teacher(net, 20), temperature=20, **how)
    own = (student.train()(x) / 20).log_softmax(1)
    F.kl_div(own, (net(x).detach() / 20).softmax(1), reduction="batchmean").backward()
    for p, q in zip(student.parameters(), ours.parameters()):
        assert torch.allclose(p - 3.0 * p.grad, q, atol=1e-6)


def test_rates_of_rded_and_minimax_are_those_of_their_schedulers(net):
    from torch.optim import SGD
    from torch.optim.lr_scheduler import LambdaLR, MultiStepLR

    def rates(scheduler, epochs):
        found = []
        for _ in range(epochs):
            found.append(scheduler.optimizer.param_groups[0]["lr"])
            scheduler.optimizer.step()
            scheduler.step()
        return found

    def begin():
        return SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)

    for epochs in (300, 301, 40):
        half = LambdaLR(begin(), lambda e: 0.5 * (1 + math.cos(math.pi * e / epochs / 2)))
        fifths = MultiStepLR(begin(), [2 * epochs // 3, 5 * epochs // 6], gamma=0.2)
        for theirs, kw in (
            (half, rded("ResNet18", 100, teacher=Teacher(net))),
            (fifths, minimax("ConvNet", 100)),
        ):
            ours = [kw["schedule"](i, epochs) for i in range(epochs)]
            assert ours == pytest.approx(rates(theirs, epochs))
    assert [rded("ViT", n, teacher=Teacher(net))["batch"] for n in (10, 100, 500)] == [10, 50, 100]
    assert [f for f in PROTOCOLS if wants_teacher(f)] == ["rd3", "rded"]


def test_crops_are_those_of_torchvision(data):
    from torchvision.transforms import v2

    d = load("shapes", counts=(10, 10, 10), clutter=0)
    aug, x = Crops(0.2, jitter=0.3, norm=d.norm), d.norm.encode(d.train.x[:5])
    draw = aug.draw(5, rng(1))
    size = tuple(x.shape[-2:])
    theirs = v2.Compose(
        [
            v2.RandomResizedCrop(size, (0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.3, 0.3, 0.3),
        ]
    )
    want = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(d.train.x[:5], draw["seed"].tolist()):
            torch.manual_seed(seed)
            want.append(theirs(image))
    assert torch.equal((d.norm.decode(aug(x, draw)) * 255).round().byte(), torch.stack(want))
    with pytest.raises(DdnbError, match="norm=data.norm"):
        InTurn(Crops(), CutMix())(x, InTurn(Crops(), CutMix()).draw(5, rng(0)))
    assert as_aug(InTurn(Crops(), CutMix()), d.norm).norm is not None


def test_tiles_change_places_and_nothing_else():
    from ddnb.nets.mixing import shuffled_tiles

    x = torch.arange(4.0).view(2, 2).repeat_interleave(3, 0).repeat_interleave(4, 1)[None, None]
    seen = set()
    for seed in range(30):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            y = shuffled_tiles(x, 2)[0, 0]
        tiles = y[::3, ::4]
        assert torch.equal(tiles.repeat_interleave(3, 0).repeat_interleave(4, 1), y)
        seen.add(tuple(tiles.flatten().int().tolist()))
    assert seen == {(0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0)}


# ---- balance


def test_every_class_comes_as_often():
    y = torch.tensor([0] * 5 + [1] * 45 + [2] * 50)
    shares = class_shares(y)
    assert [float(shares[y == c].sum()) for c in range(3)] == pytest.approx([1 / 3] * 3)
    batches = Batches(100, 10, rng(0), weights=shares)
    drawn = torch.cat([next(batches) for _ in range(600)])
    found = y[drawn].bincount() / len(drawn)
    assert found.tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    soft = torch.eye(3)[y]
    assert torch.equal(class_shares(soft), shares)
    assert class_shares(torch.tensor([0, 0, 2, 2])) is None


def test_balance_changes_nothing_where_classes_are_equal(data):
    means = init(data, 2, "real", generator=rng(0))
    how = dict(nets="MLP", seeds=2, steps=5, batch=8)
    assert (
        evaluate(means, data, balance=True, **how).accuracy == evaluate(means, data, **how).accuracy
    )


def test_balance_finds_the_rare_class():
    digits = load("digits", valid=0, test=0)
    parts = [(digits.train.y == c).nonzero()[:n, 0] for c, n in ((8, 12), (1, 150), (9, 150))]
    x = digits.train.x[torch.cat(parts)]
    y = torch.arange(3).repeat_interleave(torch.tensor([12, 150, 150]))
    rare = load((x, y), classes=["eight", "one", "nine"], valid=0, test=0.5)
    how = dict(nets="MLP", seeds=3, steps=12)
    plain, even = (evaluate(rare, rare, balance=b, **how) for b in (False, True))
    assert even.per_class[0] > plain.per_class[0]


# ---- DCS


def test_orders_are_compared_as_scipy_does():
    from scipy.stats import spearmanr

    for seed in range(20):
        a = torch.randint(6, (12,), generator=rng(seed)).tolist()
        b = torch.rand(12, generator=rng(seed + 99)).tolist()
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert spearman([1, 1], [1, 2]) == 0


def test_an_objective_that_knows_the_noise_is_worth_something(data):
    def sees_noise(x, y):
        return x.abs().mean()

    how = dict(ipc=1, subsets=6, steps=20, nets=1, how=("mean", "noise"))
    worth = dcs(sees_noise, data, "MLP", **how)
    assert worth.dcs > 0.5 and len(worth.losses) == 6
    against = dcs(lambda x, y: -sees_noise(x, y), data, "MLP", **how)
    assert against.dcs == pytest.approx(-worth.dcs)
