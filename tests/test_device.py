"""What runs on a GPU, by room and mode, on a pretended one (`pretend_cuda`), and as on a CPU.

Every row is built as README and the tutorials build it: the data is on the device, and nobody says
`.to` again. No row has run on a GPU by passing here.
"""

import copy
import inspect
from functools import partial
from itertools import islice

import pytest
import torch
from pretend_cuda import OnDevice, pretended

from ddnb import artifact
from ddnb.base.check import DdnbError, Diverged
from ddnb.base.rng import rng
from ddnb.base.run import Run
from ddnb.data import load
from ddnb.distil import (
    DC,
    DM,
    INITS,
    Distilling,
    Formations,
    Pixels,
    distill,
    dm_proxy,
    init,
    tiled,
)
from ddnb.judge import Grid, baselines, evaluate, ranking
from ddnb.latent import Latents, PriorTraining, random_prior
from ddnb.nets import NETS, Flat, net_for
from ddnb.nets.augment import DSA, AutoAug, RandAug
from ddnb.nets.fit import Fit
from ddnb.nets.train import accuracy, train, train_many
from ddnb.prune import SCORES, auto_keep, keep, score_with, scores
from ddnb.trajectory import IADD, MTT, TGDD, Recording, record

TINY = dict(width=4, depth=1)
EXPERTS = dict(n=2, epochs=3, batch=64, workers=1, progress=False, log=None)
INNER = dict(expert_epochs=1, steps=3)


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    return data.keep(torch.arange(0, len(data.train), 8))


@pytest.fixture
def cuda():
    with pretended() as counts:
        yield counts


def net(data, name="ConvNet", **settings):
    return net_for(data, name, **TINY | settings)


def close(a, b, rtol=1e-4):
    "Whether numbers of two devices agree; sums of another order round differently."
    a, b = (torch.as_tensor(v).detach().cpu().double() for v in (a, b))
    return torch.allclose(a, b, rtol=rtol, atol=rtol * float(a.abs().max()))


def on_both(digits, f):
    "What `f(data)` gives on a CPU and on the device."
    here = f(digits)
    with pretended():
        return here, f(digits.to("cuda"))


# ---- the pretended device itself


def test_tensors_of_two_devices_are_refused(cuda):
    a, b = torch.ones(3, device="cuda"), torch.ones(3)
    for f in (torch.add, torch.dot, lambda *v: torch.stack(v), lambda a, b: b[a.long()]):
        with pytest.raises(RuntimeError, match="same device"):
            f(a, b)
    with pytest.raises(RuntimeError, match="same device"):
        torch.stack(
            [a.norm(), b.norm()]
        )  # a CPU's scalar may join in only where all is elementwise
    assert (a * b[0]).tolist() == [1, 1, 1]


def test_a_generator_of_the_cpu_cannot_draw_there(cuda):
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, generator=rng(0), device="cuda")
    torch.rand(3, device="cuda")
    assert cuda["unseeded"] == 1


def test_kernels_copies_and_waits_are_counted(cuda):
    x = torch.ones(4, 3).to("cuda")
    assert dict(cuda) == {"copies": 1}
    y = (x.T[1:] * 2).sum()
    assert dict(cuda) == {"copies": 1, "kernels": 2}
    y.item(), x.to("cuda"), x[x > 0], x.cpu()
    assert cuda["waits"] == 3 and cuda["copies"] == 1


def test_gradients_pass_and_modules_move(cuda):
    m = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 2))
    m.to("cuda")
    assert {p.device.type for p in m.parameters()} == {"cuda"}
    x = torch.ones(5, 1, 8, 8, device="cuda", requires_grad=True)
    (g,) = torch.autograd.grad(m(x).square().sum(), x, create_graph=True)
    g.square().sum().backward()
    assert x.grad.device.type == "cuda" and isinstance(copy.deepcopy(m)[0].weight, OnDevice)


# ---- data


def test_data_moves_and_is_the_same(digits, cuda):
    data = digits.to("cuda")
    assert data.device == torch.device("cuda:0") and data.fingerprint == digits.fingerprint
    assert data.counts == digits.counts and close(data.batch(3, 4, 0), digits.batch(3, 4, 0))
    kept = data.keep(torch.arange(100))
    assert kept.device == data.device and len(kept) == 100
    assert close(data.norm.decode(data.xy()[0]), digits.norm.decode(digits.xy()[0]))


@pytest.mark.parametrize("options", [{}, {"zca": True}], ids=["plain", "zca"])
def test_loading_onto_the_device(cuda, options):
    x, y = torch.randint(256, (40, 1, 8, 8), generator=rng(0)).to(torch.uint8), torch.arange(40) % 4
    here, there = (load((x, y), device=d, **options) for d in ("cpu", "cuda"))
    assert there.device.type == "cuda" and close(here.xy()[0], there.xy()[0])
    assert close(here.norm.decode(here.xy()[0]), there.norm.decode(there.xy()[0]))


@pytest.mark.parametrize("how", INITS)
def test_beginnings(digits, how):
    (a, _), (b, y) = on_both(digits, lambda data: init(data, 2, how, generator=1))
    assert close(a, b) and y.device.type == b.device.type == "cuda"


# ---- networks


@pytest.mark.parametrize("name", NETS)
def test_networks(digits, name, cuda):
    data = digits.to("cuda")
    x, y = data.xy()
    f = net_for(data, name)(generator=rng(0)).to("cuda")
    loss = torch.nn.functional.cross_entropy(f(x[:4]), y[:4])
    loss.backward()
    assert loss.device.type == "cuda"


TRAINING = {
    "sgd": {},
    "adam, cosine": dict(optimiser="adam", schedule="cosine", lr=1e-3),
    "DSA": dict(aug=DSA()),
    "DSA, all at once": dict(aug=DSA(mode="all")),
    "AutoAug": dict(aug="autoaug"),
    "average": dict(ema=0.9),
    "restarts": dict(restarts=(1,)),
}


@pytest.mark.parametrize("mode", TRAINING)
def test_training(digits, mode):
    options = dict(epochs=2, batch=64, generator=1) | TRAINING[mode]
    if options.get("aug") == "autoaug":
        options["aug"] = AutoAug(norm=digits.norm)

    def trained(data):
        f = net(data)(generator=rng(0)).to(data.device)
        records = train(f, *data.xy(), **options)
        return [r["loss"] for r in records], accuracy(f, *data.xy("valid"))

    (losses, _), (there, share) = on_both(digits, trained)
    assert close(losses, there) and 0 <= share <= 1


@pytest.mark.parametrize("together", [True, False], ids=["stacked", "one by one"])
@pytest.mark.parametrize("aug", [None, DSA()], ids=["plain", "DSA"])
def test_several_networks(digits, together, aug):
    def trained(data):
        fs = [net(data)(generator=rng(k)).to(data.device) for k in range(2)]
        rows = train_many(fs, *data.xy(), steps=3, batch=32, together=together, aug=aug)
        return [r[-1]["loss"] for r in rows]

    assert close(*on_both(digits, trained))


class Dropping(torch.nn.Module):
    "A network with dropout."

    def __init__(self, data, generator):
        super().__init__()
        self.net = net(data, "MLP")(generator=generator)

    def forward(self, x):
        return self.net(torch.nn.functional.dropout(x, 0.5, self.training))


def test_dropout_draws_from_a_stream_of_its_own(digits, cuda, monkeypatch):
    streams = {"cuda:0": torch.full((16,), 7, dtype=torch.uint8)}
    generators = []

    class Generator(torch.Generator):
        def __new__(cls, device="cpu"):
            generators.append(torch.device(device).type)
            return super().__new__(cls)

    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda d: streams[str(d)])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda s, d: streams.update({str(d): s}))
    data = digits.to("cuda")
    f = torch.nn.Sequential(net(data, "MLP")(generator=rng(0)), torch.nn.Dropout(0.1)).to("cuda")
    train(f, *data.xy(), epochs=1, generator=1)
    assert "cuda" in generators and streams["cuda:0"].tolist() == [7] * 16


def test_a_flat_network(digits, cuda):
    f = net(digits)(generator=rng(0))
    flat = Flat(f)
    theta = flat.theta(f.to("cuda"))
    x = digits.to("cuda").xy()[0][:3]
    assert close(flat(theta, x), f(x)) and close(flat.load(theta)(x), f(x))


# ---- pruning


@pytest.mark.parametrize("score", SCORES)
def test_scores_and_what_is_kept(digits, score):
    def kept(data):
        s = scores(data, net(data), score, epochs=2, nets=1, progress=False, generator=1)
        return s.values, data.keep(keep(s, data, 0.5)).train.y

    (a, here), (b, there) = on_both(digits, kept)
    assert a.device == b.device and close(a, b, 1e-3) and there.device.type == "cuda"
    assert len(here) == len(there)


@pytest.mark.parametrize("score", ["loss", "grand"])
def test_a_classifier_scores_rows_named_on_the_device(digits, score, cuda):
    data = digits.to("cuda")
    f, rows = net(data)(generator=rng(0)).to("cuda"), torch.tensor([3, 1, 4], device="cuda")
    ask = partial(score_with, f, data.train.x, data.train.y, score, progress=False)
    ask = partial(ask, preprocess=data.norm.encode)
    assert close(ask(rows=rows), ask()[rows.cpu()])
    assert close(
        ask(),
        score_with(
            f.cpu(),
            digits.train.x,
            digits.train.y,
            score,
            progress=False,
            preprocess=digits.norm.encode,
        ),
    )


def test_folds_and_the_share_to_keep(digits, cuda):
    data = digits.to("cuda")
    s = scores(data, net(data), folds=2, nets=1, epochs=1, progress=False)
    proxy = dm_proxy(net(data), ipc=1, steps=2, batch=8, train_steps=3)
    kept = auto_keep(s, data, proxy, fractions=(0.5, 1.0), repeats=2, progress=False)
    assert len(kept.curve) == 2 and data.keep(kept).device.type == "cuda"


# ---- objectives


def experts_of(data, **options):
    return record(data, net(data), **EXPERTS | options)


def dm(data, **options):
    return DM(data, net(data), batch=8, generator=2, **options)


def dc(data, **options):
    return DC(data, net(data), batch=8, generator=2, **options)


def mtt(data, **options):
    return MTT(experts_of(data), generator=2, **INNER | options)


def iadd(data, **options):
    return IADD(experts_of(data), generator=2, **INNER | {"lr_w": 0.05} | options)


def tgdd(data, **options):
    return TGDD(experts_of(data), data=data, batch=8, generator=2, **options)


OBJECTIVES = {
    "DM": dm,
    "DM, ncfm": partial(dm, distance="ncfm"),
    "DM, hyperbolic": partial(dm, distance="hyperbolic"),
    "TGDD": tgdd,
    "TGDD, mixed, DSA": partial(tgdd, nets="mixed", aug=DSA()),
    "DM, DSA": partial(dm, aug=DSA()),
    "DM, in chunks": partial(dm, chunk=5),
    "DC, batched": partial(dc, batched=True),
    "DC, one by one": partial(dc, batched=False),
    "DC, DSA": partial(dc, aug=DSA(mode="all")),
    "DC, mse": partial(dc, distance="mse"),
    "DC, cos": partial(dc, distance="cos"),
    "DC, outer loop": partial(dc, outer=3),
    "DC, outer loop, one by one": partial(dc, outer=3, batched=False),
    "MTT": mtt,
    "MTT, batches, DSA": partial(mtt, batch=4, aug=DSA()),
    "MTT, segments": partial(mtt, segments=2, between=0.5),
    "MTT, blocks": partial(mtt, memory=1.0),
    "MTT, traced": partial(mtt, way="forward"),
    "MTT, compiled": partial(mtt, compile=True),
    "IADD": iadd,
    "IADD, uniform": partial(iadd, mode="uniform"),
    "IADD, mask": partial(iadd, mode="mask"),
    "IADD, paper": partial(iadd, mode="paper"),
    "IADD, channel": partial(iadd, per="channel"),
    "IADD, tensor": partial(iadd, per="tensor", full=(1, 2)),
    "IADD, layer, DSA": partial(iadd, per="layer", aug=DSA(), batch=4),
}
TRACED = ("MTT, traced", "MTT, compiled")  # make_fx does not see through the pretended tensors


def distilling(data, name, steps=3, **options):
    "A distillation as in README: data that is where it is, an objective, an optimiser."
    syn = Pixels(*init(data, 1, generator=1), **options)
    objective = OBJECTIVES[name](data)
    groups = [{"params": syn.parameters(), "lr": 0.1}, *objective.groups()]
    return Distilling(syn, objective, torch.optim.Adam(groups), steps)


def losses(records):
    return [r["loss"] for r in records]


@pytest.mark.parametrize("name", [k for k in OBJECTIVES if k not in TRACED])
def test_objectives_without_any_to(digits, name):
    def distilled(data):
        work = distilling(data, name)
        assert {p.device for p in work.objective.parameters()} <= {data.device}
        found = losses(work)
        return found, work.syn()[0]

    (here, a), (there, b) = on_both(digits, distilled)
    assert close(here, there) and close(a, b, 1e-2) and b.device.type == "cuda"


@pytest.mark.parametrize("name", TRACED)
def test_what_is_traced_holds_nothing_of_a_cpu(digits, name):
    "A graph with a constant or a factory of the CPU in it would mix devices on a GPU."
    from ddnb.trajectory.graph import traced

    flat = Flat(net(digits)(generator=rng(0)))
    x, y = digits.xy()
    labels = {"MTT, traced": y[:4], "MTT, compiled": torch.eye(10)[y[:4]]}[name]
    theta = flat.theta(net(digits)(generator=rng(0)))
    graph = traced(flat, *(t.to("meta") for t in (theta, x[:4], labels))).graph
    assert not [n for n in graph.nodes if n.op == "get_attr"]
    devices = {str(n.kwargs["device"]) for n in graph.nodes if n.kwargs.get("device") is not None}
    assert devices <= {"meta"}, devices


def test_formations(digits):
    def distilled(data):
        syn = Formations(*init(data, 1, tiled(2), generator=1), 2, data.norm)
        adam = torch.optim.Adam(syn.parameters(), lr=0.1)
        found = losses(Distilling(syn, tgdd(data), adam, 3))
        return found, syn()[0]

    (here, a), (there, b) = on_both(digits, distilled)
    assert close(here, there) and close(a, b, 1e-2) and b.device.type == "cuda"


@pytest.mark.parametrize("name", ["DM", "DC, batched", "DC, one by one", "MTT", "IADD"])
def test_soft_labels(digits, name):
    def distilled(data):
        return losses(distilling(data, name, learn_labels=True, classes=10))

    assert close(*on_both(digits, distilled))


def test_importance_before_the_first_call(digits, cuda):
    for mode in ("mask", "mean1"):
        assert iadd(digits.to("cuda"), mode=mode).importance.device.type == "cuda"


def test_devices_that_differ_are_named(digits, cuda):
    "The data is on the device and the images are not, or the other way round."
    for here, there in ((digits, digits.to("cuda")), (digits.to("cuda"), digits)):
        syn, objective = Pixels(*init(here, 1)), iadd(there)
        adam = torch.optim.Adam([{"params": syn.parameters()}, *objective.groups()])
        with pytest.raises(DdnbError, match=r"objective.to\('c"):
            Distilling(syn, objective, adam, 1)


def test_networks_and_images_apart_are_named(digits, cuda):
    f, (x, y) = net(digits)(generator=rng(0)), digits.to("cuda").xy()
    for images, labels in ((x, y), (x.cpu(), y)):
        with pytest.raises(DdnbError, match="cpu, cuda:0"):
            train(f, images, labels, steps=1)


@pytest.mark.parametrize("learn", [False, True])
def test_labels_go_where_the_images_are(digits, cuda, learn):
    x, y = init(digits, 1)
    images, labels = Pixels(x.to("cuda"), y, learn_labels=learn)()
    assert images.device == labels.device


@pytest.mark.parametrize("name", ["DM, DSA", "DC, DSA", "MTT, batches, DSA", "IADD, channel"])
def test_a_step_waits_once_and_copies_nothing_that_waits(digits, name, cuda):
    records = iter(distilling(digits.to("cuda"), name))
    next(records)
    cuda.reset()
    next(records)
    assert not cuda["copies"], cuda.lines("copies")
    assert cuda["waits"] == 1, cuda.lines("waits")
    assert cuda["sendings"] <= 3, cuda.lines("sendings")
    assert not cuda["unseeded"], cuda.lines("unseeded")


@pytest.mark.parametrize("kind, most", [(DM, 600), (DC, 1200)])
def test_a_hundred_classes_are_a_few_hundred_kernels(kind, most, cuda):
    x = torch.randint(256, (200, 3, 16, 16), generator=rng(0), dtype=torch.uint8)
    data = load((x, torch.arange(200) % 100), valid=0, test=0, device="cuda")
    o = kind(data, net(data, depth=2), batch=2, aug=DSA())
    syn = Pixels(*init(data, 1))
    records = iter(Distilling(syn, o, torch.optim.Adam(syn.parameters(), lr=0.1), 2))
    next(records)
    cuda.reset()
    next(records)
    assert cuda["kernels"] <= most, cuda.lines("kernels")


def test_a_step_that_goes_wrong_is_taken_back(digits, cuda):
    "On a GPU all is read after the move: the move is undone, down to the optimiser's moments."
    work = distilling(digits.to("cuda"), "IADD, channel")
    records = iter(work)
    next(records)
    tensors = [*work.syn.parameters(), *work.objective.parameters()]
    tensors += [v for of in work.optimiser.state.values() for v in of.values()]
    before = [t.detach().clone().cpu() for t in tensors]
    work.objective.limit = 0.0
    with pytest.raises(Diverged, match="call 2"):
        next(records)
    assert all(torch.equal(t.detach().cpu(), b) for t, b in zip(tensors, before))


def test_training_does_not_wait(digits, cuda, monkeypatch):
    monkeypatch.setattr(Fit, "beat", 1e9)  # seconds between two signs of life, each of which waits
    data = digits.to("cuda")
    f, (x, y) = net(data)(generator=rng(0)).to("cuda"), data.xy()
    train(f, x, y, epochs=1, batch=16, aug=DSA(), generator=1)
    cuda.reset()
    train(f, x, y, epochs=1, batch=16, aug=DSA(), generator=1)
    assert cuda["copies"] == 0 and cuda["waits"] <= 2, cuda.lines("waits")


def test_statistics_serve_training_after_scoring(digits):
    "They are copied to a device once, and not as tensors that only inference may use."
    norm, x = copy.deepcopy(digits.norm), torch.empty(2, 1, 8, 8, device="meta")
    with torch.inference_mode():
        first = norm._statistic("mean", x)
    assert not first.is_inference() and norm._statistic("mean", x) is first
    norm.mean = torch.zeros(1)
    assert norm._statistic("mean", x) is not first


# ---- stopped on one device, gone on with on another

WAYS = {"to the device": ("cpu", "cuda"), "from the device": ("cuda", "cpu")}


def at(digits, device, f):
    "What `f(data)` gives on a device that is there for as long as it takes."
    if device == "cpu":
        return f(digits)
    with pretended():
        return f(digits.to("cuda"))


def stopped(folder, make, steps, data):
    for _ in islice(Run(folder, make(data), log=None, every=1), steps):
        pass


RESUMED = [(name, "to the device") for name in OBJECTIVES if name not in TRACED]
RESUMED += [(k, "from the device") for k in ("DM, DSA", "DC, outer loop", "MTT", "IADD, channel")]


@pytest.mark.parametrize("name, way", RESUMED)
def test_a_distillation_goes_on_elsewhere(digits, tmp_path, name, way):
    def the_rest(data):
        work = distilling(data, name, steps=3)
        assert len(list(Run(tmp_path, work, log=None))) == 2
        return work.syn()[0].detach().cpu()

    first, second = WAYS[way]
    work = distilling(digits, name, steps=3)
    list(work)
    at(digits, first, partial(stopped, tmp_path, partial(distilling, name=name, steps=3), 1))
    assert close(work.syn()[0], at(digits, second, the_rest), 1e-2)


def scoring(data):
    from ddnb.prune import Scoring, Training

    return Scoring(data, net(data), training=Training(nets=2, epochs=2), generator=1)


def recording(data):
    return Recording(data, net(data), n=2, epochs=2, batch=64, workers=1)


def grid(data):
    return Grid(baselines(data, 1)["class mean"], data, net(data), seeds=2, steps=3)


def prior_training(data):
    return PriorTraining(data, generator=3, steps=(3, 3), widths=(8, 8), unet=(8, 16), batch=(4, 8))


WORKS = {"scores": scoring, "experts": recording, "judges": grid, "prior": prior_training}
RESULTS = {
    "scores": lambda work: work.result.values,
    "experts": lambda work: work.experts.rows(1, [2]),
    "judges": lambda work: torch.tensor(work.record(work.cells[0])["loss"]),
    "prior": lambda work: work.prior.table,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WORKS)
def test_other_works_go_on_elsewhere(digits, tmp_path, name, way):
    def the_rest(data):
        work = WORKS[name](data)
        list(Run(tmp_path, work, log=None))
        return RESULTS[name](work).detach().cpu()

    first, second = WAYS[way]
    work = WORKS[name](digits)
    list(Run(None, work, log=None))
    at(digits, first, partial(stopped, tmp_path, WORKS[name], 1))
    assert close(RESULTS[name](work), at(digits, second, the_rest), 1e-2)


# ---- experts


RECORDING = {
    "plain": {},
    "DSA": dict(aug=DSA()),
    "flat steps": dict(rho=0.01),
    "average": dict(ema=0.99),
    "half precision": dict(dtype="bfloat16"),
    "several": dict(workers=2),
}


@pytest.mark.parametrize("mode", RECORDING)
def test_experts(digits, mode, tmp_path):
    how = {"workers": "auto"} | RECORDING[mode]

    def ends(data):
        experts = experts_of(data, folder=tmp_path / data.device.type, **how)
        assert experts.device == data.device
        return experts.rows(1, [3])

    assert close(*on_both(digits, ends), 1e-3 if mode != "half precision" else 1e-2)


# ---- latents


def prior_of(data):
    kinds = dict(channels=data.channels, size=data.size, width=16)
    return random_prior("ldm", generator=rng(0), **kinds).to(data.device)


LATENT = {
    "DM": dm,
    "DC": dc,
    "MTT": mtt,
    "IADD": iadd,
}
SAMPLING = {
    "plain": {},
    "chunks": dict(chunk=3),
    "new noise": dict(fresh=True, steps=1),
    "gaussian": dict(how="gaussian", steps=1),
}


def latents(data, **options):
    options = dict(steps=2) | options
    return Latents.of(prior_of(data), data, 1, generator=1, **options)


@pytest.mark.parametrize("name", LATENT)
def test_latents_for_every_objective(digits, name):
    def distilled(data):
        syn, objective = latents(data), LATENT[name](data)
        adam = torch.optim.Adam([*syn.groups(), *objective.groups()])
        return losses(distill(syn, objective, adam, 2))

    assert close(*on_both(digits, distilled), 1e-3)


@pytest.mark.parametrize("mode", SAMPLING)
def test_ways_of_sampling(digits, mode):
    assert close(*on_both(digits, lambda data: latents(data, **SAMPLING[mode])()[0]), 1e-3)


def test_a_prior_elsewhere_is_named(digits, cuda):
    with pytest.warns(match="prior.to"):
        Latents.of(prior_of(digits), digits.to("cuda"), 1, steps=1)


# ---- judging


def test_baselines_and_judges(digits, cuda):
    data = digits.to("cuda")
    rivals = {k: v for k, v in baselines(data, 1).items() if k != "full data"}
    results = evaluate(rivals, data, net(data), seeds=2, steps=2)
    assert len(results) == len(rivals) and {r["device"] for r in results} == {"cuda:0"}


@pytest.mark.parametrize("protocol", ["plain", "mtt", "glad", "dc-bench"])
def test_protocols(digits, protocol):
    from ddnb.judge.protocols import PROTOCOLS

    name = next((k for k in PROTOCOLS if k.replace("_", "-") == protocol), protocol)
    length = {"steps": 2} if name == "plain" else {"epochs": 2}

    def means(data):
        (found,) = evaluate(init(data, 1), data, net(data), seeds=2, protocol=name, **length)
        return found["loss"]

    assert close(*on_both(digits, means), 1e-3)


def test_sets_of_a_cpu_are_judged_on_the_device(digits, cuda):
    (found,) = evaluate(init(digits, 1), digits.to("cuda"), net(digits), seeds=1, steps=2)
    assert found["device"] == "cuda:0"


def test_networks_with_batch_norm_and_augmentation(digits, cuda):
    data = digits.to("cuda")
    nets = {"batch": net(data, norm="batch"), "MLP": "MLP"}
    for aug in (AutoAug(norm=data.norm), RandAug(norm=data.norm)):
        assert len(evaluate(init(data, 1), data, nets, seeds=2, steps=2, aug=aug)) == 2


def test_ranking(digits, cuda):
    data = digits.to("cuda")
    found = ranking(init(data, 1), data, net(data), seeds=1, steps=2)
    assert set(found) == {"hlr", "ior", "lrs", "ars", "results"}


# ---- sharing


def shared(data):
    syn, norm = Pixels(*init(data, 1)), data.norm
    extra = {"W": torch.ones(3, device=data.device)}
    return artifact.Distilled(*syn(), data.classes, norm, alpha=0.1, extra=extra)


def test_an_artifact_holds_no_device(digits, tmp_path, cuda):
    mine = shared(digits.to("cuda"))
    artifact.save(mine, tmp_path / "set")
    again = artifact.load(tmp_path / "set")
    assert torch.equal(again.x, mine.x) and torch.equal(again.y, mine.y)
    assert {t.device.type for t in (mine.x, mine.y, *mine.extra.values())} == {"cpu"}
    assert again.tensors("cuda")[0].device.type == "cuda"
    mine._repr_mimebundle_()


EXPORTS = "to_imagefolder", "to_parquet", "to_mtt", "to_ddranking"


@pytest.mark.parametrize("name", EXPORTS)
def test_exports(digits, tmp_path, name):
    def written(data):
        folder = tmp_path / data.device.type
        getattr(artifact, name)(shared(data), folder)
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    here, there = on_both(digits, written)
    assert here == there


# ---- the command


def test_commands_compute_where_they_are_told(digits, cuda):
    from ddnb.recipe.sets import real_images

    d = shared(digits)
    for device, found in (("auto", "cuda:0"), ("cuda", "cuda:0"), ("cpu", "cpu")):
        assert str(real_images(d, "a set", "digits", device=device).device) == found


@pytest.mark.parametrize("name", ["demo", "evaluate", "export"])
def test_commands_that_compute_take_a_device(name):
    from ddnb.recipe import commands

    assert inspect.signature(getattr(commands, name)).parameters["device"].default == "auto"
