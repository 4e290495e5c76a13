"""What is done differently on a GPU, held against the plain way, as far as a CPU can tell."""

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pretend_cuda import pretended

from ddnb.base.check import DdnbError
from ddnb.base.device import PRECISIONS, Figures, Rows, chosen, computing, moved, read, sent, stored
from ddnb.base.rng import rng
from ddnb.base.run import complete
from ddnb.base.shelf import Shelf
from ddnb.data import images as room
from ddnb.data import load
from ddnb.distil import DM, Distilling, Pixels, init
from ddnb.judge import evaluate
from ddnb.judge.cell import cells
from ddnb.latent import Latents, PriorTraining, random_prior
from ddnb.nets import net_for
from ddnb.nets.augment import DSA
from ddnb.nets.graphs import Graphed
from ddnb.prune import scores
from ddnb.recipe import Recipe
from ddnb.recipe.remembering import drawer_for
from ddnb.trajectory import MTT, Recording, record
from ddnb.trajectory.experts import Near
from ddnb.trajectory.training import Expert, Training, in_step


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    return data.keep(torch.arange(0, len(data.train), 8))


def small(data, name="ConvNet", **settings):
    return net_for(data, name, **dict(width=4, depth=1) | settings)


# ---- one copy, one wait


def test_tensors_of_every_kind_are_sent_in_one_copy():
    given = [
        torch.arange(3),
        torch.tensor(2.5, dtype=torch.float64),
        torch.tensor([True, False, True]),
        torch.rand(2, 3)[:, ::2],
        torch.empty(0),
        torch.arange(5, dtype=torch.uint8),
    ]
    with pretended() as counts:
        there = sent(given, "cuda")
        assert counts["sendings"] == 1 and not counts["copies"] and not counts["waits"]
        for a, b in zip(given, there, strict=True):
            assert b.device.type == "cuda" and a.dtype == b.dtype
            assert torch.equal(a, b.cpu())


def test_a_network_is_moved_in_one_copy(digits):
    net = small(digits, norm="batch")(generator=rng(0))
    want = [t.clone() for t in net.state_dict().values()]
    with pretended() as counts:
        moved(net, torch.zeros(1, device="cuda"))
        assert counts["sendings"] == 1 and not counts["copies"]
        assert {p.device.type for p in net.parameters()} == {"cuda"}
        assert all(torch.equal(a, b.cpu()) for a, b in zip(want, net.state_dict().values()))


def test_all_figures_are_read_at_once():
    with pretended() as counts:
        a = Figures(torch.ones(2, device="cuda"), sum)
        b = Figures(torch.tensor(7).to("cuda"), lambda v: int(v[0]))
        counts.reset()
        assert read(a, b, Figures(torch.zeros(0), len)) == [2.0, 7, 0] and counts["waits"] == 1


def test_rows_are_those_of_the_tensor():
    x = torch.randint(256, (9, 1, 4, 4), generator=rng(0)).to(torch.uint8)
    rows = Rows(x, lambda b: b.float() / 255, dtype=torch.float32)
    whole, i = x.float() / 255, torch.tensor([8, 0, 3])
    assert torch.equal(rows[i], whole[i]) and torch.equal(rows[2:4], whole[2:4])
    assert torch.equal(torch.cat(list(rows.split(4))), whole) and rows.shape == x.shape
    with pretended():
        there = Rows(x, device="cuda")
        assert there.is_cuda and torch.equal(there[i].cpu(), x[i])


# ---- sets that stay bytes, and sets that a GPU has no room for


@pytest.mark.parametrize("work", ["experts", "judges", "scores"])
def test_a_set_that_stays_bytes_gives_the_same_bytes(digits, work, monkeypatch):
    def made():
        if work == "experts":
            how = dict(n=1, epochs=2, batch=32, progress=False, log=None)
            return record(digits, small(digits), **how).rows(0, [2])
        if work == "judges":
            (found,) = evaluate(digits, digits, small(digits), seeds=1, steps=3)
            return torch.tensor(found["loss"])
        return scores(digits, small(digits), nets=1, epochs=1, progress=False).values

    whole = made()
    monkeypatch.setattr(room, "MANY", 0)
    assert isinstance(digits.images(), Rows) and torch.equal(whole, made())


def test_a_set_without_room_on_the_gpu_is_fed_from_the_host(digits, monkeypatch):
    def made(data):
        o = DM(data, small(data), batch=4, aug=DSA(), generator=1)
        syn = Pixels(*init(data, 1, generator=2))
        adam = torch.optim.Adam(syn.parameters(), lr=0.1)
        return [r["loss"] for r in Distilling(syn, o, adam, 2)]

    monkeypatch.setattr(room, "_ROOM", 1e-9)
    with pretended():
        data = digits.to("cuda")
        assert isinstance(data.train.x, Rows) and data.device.type == "cuda"
        assert data.fingerprint == digits.fingerprint
        assert made(data) == pytest.approx(made(digits), rel=1e-4)
        kept = data.keep(torch.arange(0, len(data.train), 2))
        assert isinstance(kept.train.x, Rows)
        assert scores(kept, small(kept), nets=1, epochs=1, progress=False).values.isfinite().all()
        assert data.to("cpu").train.x.equal(digits.train.x)


def test_digests_do_not_ask_where_images_lie(digits, tmp_path):
    def keys(data):
        (cell,) = cells(init(digits, 1), data, "MLP")
        work = SimpleNamespace(settings={"nets": 1})
        return cell.key, drawer_for(Shelf(tmp_path), "scored", work, data).folder, data.fingerprint

    parts = {name: digits.split(name) for name in room.SPLITS}
    held = {name: room.Split(Rows(Rows(s.x)), s.y) for name, s in parts.items()}
    assert keys(replace(digits, **held)) == keys(digits)
    assert stored(held["train"].x) is digits.train.x


# ---- CUDA graphs: what a recording is trusted with


def replaying(f, args):
    "A stand-in for a recorded graph: its own inputs, its own outputs, written anew each time."
    own, outputs = [a.clone() for a in args], [o.clone() for o in f(*args)]

    def replay(*given):
        for o, g in zip(own, given):
            o.copy_(g)
        for out, new in zip(outputs, f(*own)):
            out.copy_(new)
        return outputs

    return replay


@pytest.fixture
def graphs_everywhere(monkeypatch):
    "Every Graphed replays a stand-in from the first call on; yields them."
    from ddnb.nets import graphs

    made, init_ = [], Graphed.__init__

    def init(self, f, graphs="auto", what="a step", capture=None):
        init_(self, f, graphs, what, replaying)
        made.append(self)

    monkeypatch.setattr(graphs, "_PAYS", 1)
    monkeypatch.setattr(Graphed, "__init__", init)
    return made


@pytest.mark.parametrize("together", [True, False])
def test_judges_learn_the_same_from_replayed_steps(digits, together, graphs_everywhere):
    from ddnb.nets.train import train_many

    def trained(graphs):
        nets = [small(digits)(generator=rng(k)) for k in range(2)]
        how = dict(steps=4, batch=30, aug=DSA(), together=together, graphs=graphs, micro=None)
        rows = train_many(nets, *digits.xy(), **how)
        return rows[1][-1]["loss"], torch.cat([p.detach().flatten() for p in nets[1].parameters()])

    (a, plain), (b, replayed) = trained(False), trained("auto")
    assert any(g.replays for g in graphs_everywhere)
    assert a == pytest.approx(b) and torch.allclose(plain, replayed, atol=1e-6)


def three(data, **settings):
    x, y = data.xy()
    training = Training(micro=None, **settings).of(len(y))
    return [Expert(small(data), x, y, 2, training, rng(k)) for k in range(3)]


@pytest.mark.parametrize(
    "settings", [{}, dict(aug=DSA()), dict(aug=DSA(mode="all")), dict(ema=0.9)], ids=str
)
def test_experts_in_one_stack_are_those_that_learned_alone(digits, settings):
    alone, stacked = three(digits, graphs=False, **settings), three(digits, **settings)
    for expert in alone:
        list(expert)
    ends = [k for k, r in in_step(stacked) if "share" not in r]
    assert sorted(ends) == [0, 0, 1, 1, 2, 2]
    for a, b in zip(alone, stacked):
        assert torch.allclose(a.weights(), b.weights(), atol=1e-5)
        assert torch.equal(a.generator.get_state(), b.generator.get_state())
        assert [r[0] for r in a.fit.log] == [r[0] for r in b.fit.log]


@pytest.mark.parametrize("rho", [None, 0.01])
def test_experts_learn_the_same_from_replayed_steps(digits, rho, graphs_everywhere):
    alone, replayed = three(digits, graphs=False, rho=rho)[:1], three(digits, rho=rho)[:1]
    for expert in (*alone, *replayed):
        list(expert)
    assert any(g.replays for g in graphs_everywhere)
    assert torch.allclose(alone[0].weights(), replayed[0].weights(), atol=1e-5)


def test_a_replay_that_is_not_the_step_is_refused_in_a_sentence():
    def wrong(f, args):
        return lambda *given: [t + 1 for t in f(*given)]

    def broken(f, args):
        raise RuntimeError("stream is capturing")

    for capture, why in ((wrong, "away from"), (broken, "stream is capturing")):
        graphed = Graphed(lambda x: (x * 2,), what="this step", capture=capture)
        with pytest.warns(UserWarning, match=f"this step.*{why}"):
            found = [graphed(torch.full((2,), float(k)))[0][0].item() for k in range(12)]
        assert found == [2.0 * k for k in range(12)]


def test_without_a_gpu_nothing_is_recorded(digits):
    graphed = Graphed(lambda x: (x,))
    assert not graphed.wanted(torch.ones(2))
    with pretended():
        assert not graphed.wanted(torch.ones(2, device="cuda"))


# ---- precision


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_block_leaves_the_switches_as_they_were(precision):
    def now():
        b = torch.backends
        kinds = b.cuda.matmul.allow_tf32, b.cudnn.allow_tf32
        return *kinds, torch.are_deterministic_algorithms_enabled()

    before, tf32 = now(), PRECISIONS[precision][0]
    with computing("cuda", precision, deterministic=True):
        assert now() == (tf32, tf32, True)
    with computing("cpu", precision, deterministic=True):
        assert now() == before
    assert now() == before


def test_a_lower_precision_is_in_the_caption_and_in_the_keys(digits):
    how = dict(seeds=1, steps=2)
    plain = evaluate(init(digits, 1), digits, small(digits), **how)
    half = evaluate(init(digits, 1), digits, small(digits), precision="bfloat16", **how)
    assert "bfloat16" in half.to_text() and "bfloat16" not in plain.to_text()
    assert plain.records[0]["digest"] != half.records[0]["digest"]
    assert plain.records[0]["loss"] == pytest.approx(half.records[0]["loss"], rel=0.05)
    assert plain.records[0]["loss"] != half.records[0]["loss"]


ASKING = {  # work: what computes in bfloat16
    "scores": lambda d: scores(d, small(d), nets=1, epochs=1, precision="bfloat16", log=None),
    "judges": lambda d: evaluate(init(d, 1), d, small(d), seeds=1, steps=2, precision="bfloat16"),
    "prior": lambda d: list(PriorTraining(d, steps=(1, 1), generator=0, precision="bfloat16")),
    "latents": lambda d: Latents.of(prior_of(d), d, steps=1, autocast=torch.bfloat16)(),
}


def prior_of(data):
    kinds = dict(channels=data.channels, size=data.size, width=16)
    return random_prior("ldm", generator=rng(0), **kinds).to(data.device)


@pytest.mark.parametrize("work", ASKING)
def test_bfloat16_is_asked_for_where_the_data_is(digits, work, monkeypatch):
    asked = []

    def autocast(device, dtype=None, enabled=True):
        asked.append((device, dtype, enabled))
        return nullcontext()

    monkeypatch.setattr(torch, "autocast", autocast)
    with pretended():
        ASKING[work](digits.to("cuda"))
    assert {kind for kind in asked if kind[2]} == {("cuda", torch.bfloat16, True)}


def test_experts_of_another_precision_are_others(digits, tmp_path):
    def recording(device="cuda", precision=None):
        data = digits.to(device)
        return Recording(data, small(data), n=1, epochs=1, batch=64, precision=precision)

    with pretended():
        plain, lower = recording(precision="float32"), recording(precision="tf32")
        with computing("cuda", "tf32"):
            assert recording().settings == lower.settings
        assert lower.settings["recipe"]["precision"] == "tf32"
        complete(plain, tmp_path, progress=False, log=None)
        with pytest.raises(DdnbError, match="precision"):
            complete(lower, tmp_path, progress=False, log=None)
    here = [recording("cpu", p).settings for p in (None, "tf32", "bfloat16")]
    assert here == 3 * [plain.settings]


def test_what_is_kept_for_all_runs_is_kept_by_precision(digits, tmp_path):
    work, data = Recording(digits, small(digits), n=1, epochs=1), digits
    ways = [("cpu", "tf32", True), ("cuda", "float32", False)]
    plain = [drawer_for(Shelf(tmp_path), "experts", work, data, chosen(*way)) for way in ways]
    assert len({d.folder for d in plain}) == 1
    ways = [("cuda", "tf32", False), ("cuda", "float32", True), ("cuda", "bfloat16", False)]
    lower = [drawer_for(Shelf(tmp_path), "experts", work, data, chosen(*way)) for way in ways]
    assert len({d.folder for d in plain + lower}) == 4


# ---- experts on the device


def matching(data, window):
    experts = record(data, small(data), n=1, epochs=3, batch=64, progress=False, log=None)
    return MTT(experts, steps=2, expert_epochs=1, max_start=window, generator=rng(0))


def test_a_segment_is_sent_once(digits):
    def losses(data):
        objective, images = matching(data, 0), init(data, 1)
        return objective, [objective(*images).item() for _ in range(3)]

    _, here = losses(digits)
    with pretended() as counts:
        objective, there = losses(digits.to("cuda"))
        x, y = init(digits.to("cuda"), 1)
        counts.reset()
        objective(x, y)
        again = counts["sendings"]
        objective.near.held.clear()
        counts.reset()
        objective(x, y)
    assert there == pytest.approx(here, rel=1e-4)
    assert counts["sendings"] == again + 1


def test_segments_stay_only_where_there_is_room(monkeypatch):
    read = []

    def rows(expert, start):
        read.append((expert, start))
        return torch.full((2, 4), float(start))

    with pretended():
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *device: (4 * 40, 10**9))
        near = Near(rows)  # a quarter of the free memory has room for one segment of 32 bytes
        for start in (0, 1, 0, 1):
            assert near("cuda", 0, start).cpu().eq(start).all()
    assert read == [(0, 0), (0, 1), (0, 1)]


def test_a_recipe_says_how_a_gpu_computes():
    recipe = Recipe().but({"precision": "tf32", "deterministic": True})
    assert Recipe.of(recipe.plain()) == recipe and recipe.flat()["precision"] == "tf32"
    with pytest.raises(Exception, match="bfloat16"):
        Recipe().but({"precision": "half"})


# ---- the table of figures


@pytest.mark.slow
def test_every_row_of_the_gpu_table_runs_on_a_cpu(tmp_path):
    bench = Path(__file__).parent / "bench" / "gpu.py"
    out = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, bench, "--tiny", "--device", "cpu", "--json", out],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    kinds = "engine", "scoring", "experts", "judges", "DM, 100", "DC, 100", "latents", "tf32"
    for kind in kinds:
        assert any(kind in row["name"] for row in found["rows"]), kind
    assert found["versions"]["torch"] and found["machine"] and not found["left"]


# ---- what people copy


README = {  # what stands there: what stands for it here, so that it takes seconds
    'load("digits")': 'load("digits", device="cuda")',
    "width=32, depth=2": "width=4, depth=1",
    "generator=rng(0), progress=False": "nets=1, epochs=1, progress=False",
    "n=2, epochs=8": "n=2, epochs=3",
    "optimiser, 40,": "optimiser, 2,",
    "seeds=3,": "seeds=2, steps=2,",
}


def test_the_code_of_the_readme_runs_with_its_data_on_the_device():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    for old, new in README.items():
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    with pretended() as counts:
        names = {}
        exec(compile(code, "README.md", "exec"), names)
        assert names["syn"].x.device.type == names["objective"].W.device.type == "cuda"
        assert [r["step"] for r in names["history"]] == [1, 2] and not counts["unseeded"]
