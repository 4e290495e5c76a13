"Expert trajectories: recording, resuming, reading, damage, the reference format."

import pickle

import pytest
import torch

from ddnb.augment import DSA
from ddnb.base.check import DdnbError
from ddnb.base.files import lock
from ddnb.base.rng import rng
from ddnb.base.run import Run
from ddnb.data import load
from ddnb.nets import Flat, net_for
from ddnb.train import accuracy
from ddnb.trajectory import Experts, Recording, Window, read_buffers, record
from ddnb.trajectory.training import flat_step, trajectory


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def data():
    return load("digits")


@pytest.fixture(scope="module")
def make(data):
    return net_for(data, width=4, depth=2)


def rec(data, make, folder=None, **kw):
    return record(data, make, folder, **{"n": 2, "epochs": 2, "progress": False} | kw)


def same(a, b, epochs=(0, 1, 2)):
    return all(torch.equal(a.rows(i, epochs), b.rows(i, epochs)) for i in range(len(a)))


def test_snapshots_move_and_experts_differ(data, make, tmp_path):
    for e in (rec(data, make), rec(data, make, tmp_path)):
        a, b, c = e.rows(0, [0, 1, 2])
        assert (a - b).norm() > 0 and (b - c).norm() > 0 and not torch.equal(a, e.rows(1, [0])[0])
        assert (len(e), e.max_epoch, e.num_params) == (2, 2, len(a))


def test_they_learn(data, make):
    e = record(data, make, n=1, epochs=6, progress=False)
    x, y = data.xy("valid")
    flat = Flat(make(generator=rng(0)))
    first, last = (accuracy(flat.load(t), x, y) for t in e.rows(0, [0, 6]))
    assert last > first + 0.4


def test_folder_memory_order_and_number_make_no_difference(data, make, tmp_path):
    whole = rec(data, make, n=3)
    rec(data, make, tmp_path, n=1)
    grown = rec(data, make, tmp_path, n=3)
    assert same(whole, grown)
    (tmp_path / "expert_0001.safetensors").unlink()
    assert same(whole, rec(data, make, tmp_path, n=3))


def test_threads_make_no_difference(data, make, tmp_path):
    assert same(rec(data, make, n=3), rec(data, make, tmp_path, n=3, workers=2))


def test_bytes_do_not_depend_on_the_number_of_cores(data, make):
    one = rec(data, make, n=3, batch=512)
    torch.set_num_threads(2)
    assert same(one, rec(data, make, n=3, batch=512)) and torch.get_num_threads() == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_ends_soon_and_loses_nothing(data, make, tmp_path, workers):
    def stop(record):
        if record["step"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rec(data, make, tmp_path, n=6, epochs=40, progress=stop, workers=workers)
    have = len(list(tmp_path.glob("expert_*.safetensors")))
    assert 1 <= have <= 2 and not list(tmp_path.glob(".*.tmp"))
    more = rec(data, make, tmp_path, n=6, epochs=40, workers=workers)
    assert len(more) == 6 and same(more, rec(data, make, n=6, epochs=40), range(41))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kw", [{}, {"ema": 0.9, "aug": DSA("scale_crop"), "window": (2, 3, 1)}])
def test_an_interrupted_expert_goes_on_at_its_epoch(data, make, tmp_path, kw, workers):
    options = dict(n=3, epochs=5, workers=workers) | kw
    work, again = (Recording(data, make, **options) for _ in range(2))
    run = iter(Run(tmp_path, work, log=None))
    records = [next(run) for _ in range(3)]
    stopped = {k: expert.fit.step for k, expert in work.running.items()}
    run.close()
    assert "share" in records[-1] and records[-1]["step"] == 0 < stopped[0]
    run = iter(Run(tmp_path, again, log=None))
    next(run)
    assert again.step or again.running[0].fit.step > stopped[0]
    run.close()
    first = options.get("window", [0])[0]
    assert same(
        rec(data, make, tmp_path, **options),
        rec(data, make, **options),
        range(first, (4 if kw else 5) + 1),
    )


def test_an_expert_that_ended_before_its_record_was_read_is_kept(data, make):
    a = Recording(data, make, n=1, epochs=1)
    iter_a = iter(a)
    next(r for r in iter_a)
    state, b = a.state_dict(), Recording(data, make, n=1, epochs=1)
    b.load_state_dict(state)
    list(b)
    assert b.step == 1 and same(b.experts, rec(data, make, n=1, epochs=1), [0, 1])


def test_few_images_take_small_batches(data, make):
    few = data.keep(torch.arange(0, 1000, 20))
    e = rec(few, make, n=1, epochs=1)
    assert (
        e.info["recipe"]["batch"] == 8
        and rec(data, make, n=1, epochs=1).info["recipe"]["batch"] == 128
    )
    assert torch.equal(e.rows(0, [1]), rec(few, make, n=1, epochs=1, batch=8).rows(0, [1]))


def test_networks_by_name(data):
    assert rec(data, "MLP", n=1, epochs=1).spec["name"] == "MLP"
    with pytest.raises(DdnbError, match="Did you mean 'ConvNet'"):
        rec(data, "ConvNt")


@pytest.mark.parametrize(
    "kw", [{"micro": 17}, {"compile": True}, {"compile": True, "micro": 32, "rho": 0.05}]
)
def test_fast_ways_change_nothing_but_rounding(data, make, kw):
    slow = {k: v for k, v in kw.items() if k == "rho"} | {"micro": None, "compile": False}
    a, b = (rec(data, make, n=1, epochs=1, **o).rows(0, [0, 1]) for o in (kw, slow))
    assert torch.allclose(a, b, atol=1e-4) and (a[1] - a[0]).norm() > 0.1


def test_same_seed_same_bytes_other_seed_others(data, make, tmp_path):
    for f, seed in (("a", 0), ("b", 0), ("c", 1)):
        rec(data, make, tmp_path / f, n=1, seed=seed)
    a, b, c = ((tmp_path / f / "expert_0000.safetensors").read_bytes() for f in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    "kw, word",
    [
        ({"lr": 0.1}, "lr"),
        ({"epochs": 3}, "last"),
        ({"seed": 1}, "seed"),
        ({"aug": DSA("scale")}, "aug"),
        ({"dtype": "float16"}, "dtype"),
        ({"momentum": 0.0}, "momentum"),
    ],
)
def test_another_recipe_is_refused_by_name(data, make, tmp_path, kw, word):
    rec(data, make, tmp_path, n=1)
    with pytest.raises(DdnbError, match=f"{word} was"):
        rec(data, make, tmp_path, n=1, **kw)


def test_other_data_or_net_is_refused(data, make, tmp_path):
    rec(data, make, tmp_path, n=1)
    with pytest.raises(DdnbError, match="another recipe"):
        rec(data.keep(torch.arange(500)), make, tmp_path, n=1)
    with pytest.raises(DdnbError, match="another recipe"):
        rec(data, net_for(data, width=5, depth=2), tmp_path, n=1)


def test_rows_reads_only_what_is_asked(data, make, tmp_path, monkeypatch):
    e = rec(data, make, tmp_path)
    from ddnb.trajectory import experts as room

    asked = []
    read = room.tensor_rows
    monkeypatch.setattr(room, "tensor_rows", lambda p, n, r: asked.append(list(r)) or read(p, n, r))
    assert e.rows(1, [0, 2]).shape == (2, e.num_params) and asked == [[0, 2]]
    with pytest.raises(DdnbError, match="narrow"):
        e.rows(0, [3])
    with pytest.raises(DdnbError, match="narrow"):
        e.rows(0, [0.5])
    with pytest.raises(DdnbError, match="no expert 2"):
        e.rows(2, [0])


def test_fractions_of_epochs(data, make):
    e = rec(data, make, n=1, per_epoch=2)
    w = rec(data, make, n=1)
    assert (
        torch.equal(e.rows(0, [0, 1, 2]), w.rows(0, [0, 1, 2])) and e.rows(0, [0.5]).shape[0] == 1
    )


def test_the_window_keeps_what_it_reaches(data, make):
    e, w = (
        record(data, make, n=1, epochs=9, window=(1, 2, 1), progress=False),
        rec(data, make, n=1, epochs=3),
    )
    assert (e.first, e.max_epoch) == (1, 3) and torch.equal(
        e.rows(0, [1, 2, 3]), w.rows(0, [1, 2, 3])
    )
    assert same(
        e, record(data, make, n=1, epochs=9, window=Window(1, 2, 1), progress=False), [1, 3]
    )
    with pytest.raises(DdnbError, match="narrow the window"):
        record(data, make, n=1, epochs=3, window=(0, 3, 1), progress=False)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(data, make, tmp_path, dtype):
    h, w = rec(data, make, tmp_path, n=1, dtype=dtype), rec(data, make, n=1)
    assert h.rows(0, [2]).dtype == torch.float32 and torch.allclose(
        h.rows(0, [0, 2]), w.rows(0, [0, 2]), atol=1e-2
    )
    assert (tmp_path / "expert_0000.safetensors").stat().st_size < 2 * h.num_params * 3 + 1500


def test_damage_is_named(data, make, tmp_path):
    rec(data, make, tmp_path)
    f = tmp_path / "expert_0001.safetensors"
    whole = f.read_bytes()
    for cut in (7, 100, len(whole) // 2, len(whole) - 1):
        f.write_bytes(whole[:cut])
        with pytest.raises(DdnbError, match="expert_0001"):
            rec(data, make, tmp_path)
        with pytest.raises(DdnbError, match="expert_0001"):
            Experts(tmp_path).rows(1, [0, 2])
    for at in range(len(whole) - 1, len(whole) // 3, -len(whole) // 7):
        f.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
        with pytest.raises(DdnbError, match="expert_0001"):
            Experts(tmp_path).verify()
        with pytest.raises(DdnbError, match="expert_0001"):
            Experts(tmp_path).rows(1, [0, 1, 2])


def test_two_writers_are_refused(data, make, tmp_path):
    with lock(tmp_path), pytest.raises(DdnbError, match="Another process"):
        rec(data, make, tmp_path)


@pytest.mark.parametrize("kw", [{}, {"batch": 2000}, {"ema": 0.9, "workers": 1}])
def test_a_forecast_changes_nothing(data, make, kw):
    stream = torch.random.get_rng_state()
    a = Recording(data, make, n=1, epochs=2, **kw)
    cost = a.forecast()
    assert cost["seconds"] > 0 and a.disk() >= 3 * a.card["params"] * 4
    list(a)
    assert same(a.experts, rec(data, make, n=1, **kw))
    assert torch.equal(stream, torch.random.get_rng_state())


def test_fingerprint_knows_the_experts_not_their_place(data, make, tmp_path):
    a, b, c = rec(data, make, tmp_path), rec(data, make), rec(data, make, seed=1)
    assert (
        a.fingerprint == b.fingerprint != c.fingerprint
        and Experts(tmp_path, n=1).fingerprint != a.fingerprint
    )


def test_records_and_log(data, make, tmp_path):
    seen, log = [], []
    work = Recording(data, make, n=2, epochs=2)
    for r in Run(tmp_path, work, log=log.append, long=0):
        seen.append(r)
    assert len(log) == 1 and "2 of 2 experts" in log[0] and "on disk" in log[0]
    assert [r["step"] for r in seen if "share" not in r] == [1, 2]
    assert all(0 < r["share"] < 1 and "part" in r for r in seen if "share" in r)
    list(Run(tmp_path, Recording(data, make, n=2, epochs=2), log=log.append, long=0))
    assert len(log) == 1  # nothing to do, nothing to log


def test_experts_of_a_folder_without_a_checkpoint_are_known(data, make, tmp_path):
    want = rec(data, make, tmp_path)
    for file in ("checkpoint.safetensors", "previous.safetensors", "records.jsonl"):
        (tmp_path / file).unlink(missing_ok=True)
    with pytest.raises(DdnbError, match="lr was"):
        rec(data, make, tmp_path, lr=0.1)
    assert same(want, rec(data, make, tmp_path)) and same(want, rec(data, make))


def test_average_and_augmentation(data, make):
    plain, avg, aug = (
        rec(data, make, n=1),
        rec(data, make, n=1, ema=0.9),
        rec(data, make, n=1, aug=DSA("scale_crop")),
    )
    assert (
        torch.equal(plain.rows(0, [0]), avg.rows(0, [0]))
        and not torch.equal(plain.rows(0, [2]), avg.rows(0, [2]))
        and not torch.equal(plain.rows(0, [2]), aug.rows(0, [2]))
    )
    assert (avg.rows(0, [2]) - avg.rows(0, [0])).norm() < (
        plain.rows(0, [2]) - plain.rows(0, [0])
    ).norm()


def test_flat_step_by_hand():
    H = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.double))
    t = torch.tensor([1.0, 1.0], dtype=torch.double)
    g = H @ t
    up = H @ (t + 0.1 * g / g.norm())
    u = up / up.norm()
    assert torch.allclose(flat_step(lambda t: H @ t, t, 0.1, 0.0), up)
    assert torch.allclose(flat_step(lambda t: H @ t, t, 0.1, 0.5), up - 0.5 * (g - (g @ u) * u))


def test_flat_experts_lie_flatter(data, make):
    "The gradient at the end changes less along itself than that of plain SGD."

    def sharp(e):
        flat = Flat(make(generator=rng(0)))
        x, y = data.xy()
        t = e.rows(0, [4])[0]
        loss = lambda t: torch.nn.functional.cross_entropy(flat(t, x), y)
        g = torch.func.grad(loss)(t)
        return float(loss(t + 0.3 * g / g.norm()) - loss(t))

    assert sharp(rec(data, make, n=1, epochs=4, rho=0.3, mix=0.0)) < sharp(
        rec(data, make, n=1, epochs=4)
    )


def test_unknown_options_are_sentences(data, make):
    with pytest.raises(DdnbError, match="Did you mean 'momentum'"):
        record(data, make, n=1, momentun=0.9, progress=False)
    with pytest.raises(DdnbError, match="float16"):
        rec(data, make, dtype="float17")
    with pytest.raises(DdnbError, match="per_epoch"):
        rec(data, make, per_epoch=99)
    with pytest.raises(DdnbError, match="n is 0"):
        rec(data, make, n=0)
    with pytest.raises(DdnbError, match="no experts"):
        Experts("/nonexistent")


def test_buffers_of_the_reference(data, make, tmp_path):
    e = rec(data, make)
    flat = Flat(make(generator=rng(0)))
    f = tmp_path / "replay_buffer_0.pt"
    torch.save(
        [[list(flat.unflatten(t).values()) for t in e.rows(i, range(3))] for i in range(2)], f
    )
    assert same(e, read_buffers([f], make))
    with pytest.raises(DdnbError, match="width"):
        read_buffers(f, net_for(data, width=5, depth=2))
    torch.save([[[torch.ones(3)] * 1] * 4], f)
    with pytest.raises(DdnbError, match="without copying"):
        read_buffers(f)
    for junk in ({"a": 1}, [], [[]], [[torch.ones(2)]]):
        torch.save(junk, f)
        with pytest.raises(DdnbError, match="replay_buffer"):
            read_buffers(f)


def test_buffers_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    f = tmp_path / "replay_buffer_0.pt"
    torch.save([[[Evil()]]], f)
    with pytest.raises(DdnbError, match="replay_buffer_0.pt.*run code"):
        read_buffers(f)
    f.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DdnbError, match="replay_buffer_0.pt.*run code"):
        read_buffers(f)
    assert not (tmp_path / "ran").exists()


def test_trajectory_is_a_generator_of_clones(data, make):
    a, b = trajectory(data, make, epochs=1, generator=rng(0))
    assert a.data_ptr() != b.data_ptr()
