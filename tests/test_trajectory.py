"The engine of trajectory matching against the naive unroll, and what MTT does around it."

import shutil
import warnings

import pytest
import torch
import torch.nn.functional as F

from ddnb.augment import DSA
from ddnb.base.check import DdnbError, Diverged
from ddnb.base.rng import rng
from ddnb.base.run import Run
from ddnb.data import load
from ddnb.distil import Distilling, Pixels, init
from ddnb.latent import LiveBytes
from ddnb.nets import MLP, ConvNet, Flat, net_for
from ddnb.trajectory import IADD, MTT, Engine, Experts, record, schedule, unroll
from ddnb.trajectory.engine import Twice, block_length, blocks
from ddnb.trajectory.graph import thin_gradient


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def naive(flat, theta, x, y, alpha, batches, aug=None, marks=None):
    "J SGD steps with the whole graph kept: the oracle."
    out, alphas = [], alpha.expand(len(batches))
    for j, (idx, draw) in enumerate(batches):
        xb = x[idx] if aug is None else aug(x[idx], draw)
        (g,) = torch.autograd.grad(
            F.cross_entropy(flat(theta, xb), y[idx]), theta, create_graph=True
        )
        theta = theta - alphas[j] * g
        out.append(theta)
    return torch.stack([out[m - 1] for m in marks]) if marks else theta


def problem(
    J,
    norm="instance",
    soft=True,
    batch=4,
    aug=None,
    seed=0,
    dtype=torch.double,
    net=None,
    per_step=False,
):
    g = rng(seed)
    net = net or ConvNet(2, 5, 8, width=4, depth=2, norm=norm, generator=g)
    for n, b in net.named_buffers():  # batch norm: statistics that are not the trivial ones
        if b.is_floating_point():
            b.copy_(torch.rand(b.shape, generator=g) + 0.5)
    flat = Flat(net.to(dtype))
    x = torch.randn(10, 2, 8, 8, generator=g).to(dtype)
    y = torch.randn(10, 5, generator=g).to(dtype).softmax(1) if soft else torch.arange(10) % 5
    alpha = (
        torch.rand(J, generator=g).to(dtype) * 0.1 if per_step else torch.tensor(0.1, dtype=dtype)
    )
    return (
        flat,
        flat.theta(net),
        x,
        y,
        alpha,
        schedule(10, J, batch, aug, g),
        torch.randn(flat.numel, generator=g).to(dtype),
    )


def grads(f, theta, x, y, alpha, lam):
    args = [a.detach().clone().requires_grad_(a.is_floating_point()) for a in (theta, x, y, alpha)]
    return torch.autograd.grad((f(*args) * lam).sum(), [a for a in args if a.requires_grad])


def gap(J, way, memory=512e6, aug=None, marks=None, compile=False, **kw):
    flat, theta, x, y, alpha, batches, lam = problem(J, aug=aug, **kw)
    lam = lam if marks is None else torch.stack([lam * (i + 1) for i in range(len(marks))])
    engine = Engine(flat, compile=compile, way=way, memory=memory)
    a = grads(
        lambda t, x, y, al: naive(flat, t, x, y, al, batches, aug, marks), theta, x, y, alpha, lam
    )
    b = grads(
        lambda t, x, y, al: unroll(engine, t, x, y, al, batches, aug, marks),
        theta,
        x,
        y,
        alpha,
        lam,
    )
    return max(float((p - q).norm() / p.norm()) for p, q in zip(a, b))


WAYS = "reverse", "forward"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("J", [1, 5, 50])
def test_oracle_with_dsa_small_batches_and_soft_labels(J, way):
    assert gap(J, way, aug=DSA()) < 1e-10


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("norm", ["instance", "group", "batch", "none"])
def test_oracle_for_every_norm(norm, way):
    assert (
        gap(
            5,
            way,
            norm=norm,
            soft=norm in ("group", "none"),
            batch=3 if norm in ("batch", "none") else 10,
        )
        < 1e-10
    )


@pytest.mark.parametrize("way", WAYS)
def test_oracle_for_blocks_marks_and_a_rate_per_step(way):
    for memory in (0, 2e5, 1e9) if way == "reverse" else (2e5,):
        assert gap(7, way, memory=memory, marks=(2, 5, 7), per_step=True) < 1e-10


@pytest.mark.parametrize("way", WAYS)
def test_oracle_without_convolutions(way):
    assert gap(5, way, net=MLP(2, 5, 8, width=6, generator=rng(1))) < 1e-10


@pytest.mark.parametrize("way", WAYS)
def test_oracle_with_the_statistics_of_the_batch(way):
    "Batch norm as in training: the whole batch enters every statistic."
    g = rng(2)
    net = ConvNet(2, 5, 8, width=4, depth=2, norm="batch", generator=g).double()
    flat = Flat(net, batch_stats=True)
    x, lam = (
        torch.randn(6, 2, 8, 8, generator=g).double(),
        torch.randn(flat.numel, generator=g).double(),
    )
    y, batches, alpha, theta = (
        torch.arange(6) % 5,
        schedule(6, 3, 4, generator=g),
        torch.tensor(0.1).double(),
        flat.theta(net),
    )
    a = grads(lambda t, x, y, al: naive(flat, t, x, y, al, batches), theta, x, y, alpha, lam)
    b = grads(
        lambda t, x, y, al: unroll(Engine(flat, compile=False, way=way), t, x, y, al, batches),
        theta,
        x,
        y,
        alpha,
        lam,
    )
    assert max(float((p - q).norm() / p.norm()) for p, q in zip(a, b)) < 1e-10


@pytest.mark.parametrize(
    "kernel, padding", [((3, 3), (1, 1)), ((1, 1), (0, 0)), ((5, 3), (2, 0)), ((3, 3), (0, 2))]
)
def test_the_gradient_towards_few_channels_is_the_convolutions(kernel, padding):
    g = rng(0)
    x, w = (
        torch.randn(2, 3, 7, 6, generator=g, dtype=torch.double, requires_grad=True),
        torch.randn(5, 3, *kernel, generator=g, dtype=torch.double),
    )
    out = torch.nn.functional.conv2d(x, w, padding=padding)
    up = torch.randn(out.shape, generator=g, dtype=torch.double)
    assert torch.allclose(
        thin_gradient(up, w, (7, 6), padding), torch.autograd.grad(out, x, up)[0], atol=1e-12
    )


def test_a_wrong_gradient_is_noticed(monkeypatch):
    "The oracle test can fail: forget the weights' second-order term."
    back = Twice.back
    monkeypatch.setattr(
        Twice,
        "back",
        lambda self, kept, lam: [
            0 * h if i == 0 else h for i, h in enumerate(back(self, kept, lam))
        ],
    )
    assert gap(5, "reverse") > 1e-3


def test_float32_agrees_where_no_relu_flips():
    assert (
        gap(1, "reverse", dtype=torch.float32) < 1e-4
        and gap(1, "forward", dtype=torch.float32) < 1e-4
    )


def test_blocks_cover_all_steps_once():
    for J in range(1, 20):
        for k in range(25):
            b = blocks(J, k)
            assert [i for s, e in b for i in range(s, e)] == list(range(J)) and all(
                e - s <= max(1, k) for s, e in b
            )
            assert b[-1][1] - b[-1][0] == min(J, max(1, k))


def test_a_block_and_all_block_starts_fit_the_budget():
    for J in (1, 7, 100):
        for memory in (0, 50, 400, 10**6):
            k, early = block_length(J, memory, 40, 1)
            cost = lambda k: 40 * k + -(-J // k)
            assert 1 <= k <= J and early == (cost(k) <= memory)
            if early:
                assert k == J or cost(k + 1) > memory
            else:
                assert cost(k) == min(cost(i) for i in range(1, J + 1))


def test_memory_at_the_peak_is_flat_in_the_number_of_steps():
    flat, theta, x, y, alpha, _, _ = problem(1, dtype=torch.float32)
    step = Engine(flat, compile=False).step(theta, x, y).bytes

    def peak(J, memory):
        engine, xs = Engine(flat, compile=False, memory=memory), x.clone().requires_grad_()
        batches = schedule(10, J, generator=rng(0))
        with LiveBytes() as m:
            unroll(engine, theta, xs, y, alpha, batches).sum().backward()
        return m.peak

    assert peak(100, 5 * step) <= 1.2 * peak(10, 5 * step)
    assert peak(100, 0) < 0.2 * peak(100, 1e9)  # and the budget is what it costs


def test_two_runs_may_be_open_at_once():
    flat, theta, x, y, alpha, batches, lam = problem(4)
    engine = Engine(flat, compile=False)
    xs = x.clone().requires_grad_()
    a, b = (
        unroll(engine, theta, xs, y, alpha, batches),
        unroll(engine, theta * 1.1, xs, y, alpha, batches),
    )
    (both,) = torch.autograd.grad(a @ lam + b @ lam, xs)
    one = sum(
        torch.autograd.grad(unroll(engine, t, xs, y, alpha, batches) @ lam, xs)[0]
        for t in (theta, theta * 1.1)
    )
    assert torch.allclose(both, one, rtol=1e-12)


def test_schedule_uses_every_image_once_a_pass():
    s = schedule(10, 6, batch=5, generator=rng(0))
    assert all(
        sorted(torch.cat([s[j][0], s[j + 1][0]]).tolist()) == list(range(10)) for j in (0, 2, 4)
    )
    assert all(len(i) == 4 for i, _ in schedule(10, 9, batch=4, generator=rng(0)))
    assert [a[0].tolist() for a in schedule(10, 3, 5, generator=rng(1))] == [
        a[0].tolist() for a in schedule(10, 3, 5, generator=rng(1))
    ]


def test_compiling_that_fails_falls_back_with_one_warning(monkeypatch):
    def broken(m, **kw):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    flat, theta, x, y, alpha, batches, lam = problem(3)
    engine = Engine(flat, compile=True)
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        for _ in range(2):
            end = unroll(engine, theta, x, y, alpha, batches)
    assert sum("torch.compile did not work" in str(o.message) for o in w) == 1
    assert torch.allclose(end, naive(flat, theta.requires_grad_(), x, y, alpha, batches).detach())


@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="torch.compile needs a C++ compiler",
)
def test_compiled_is_exact():
    assert (
        gap(
            3,
            "forward",
            compile=True,
            soft=False,
            net=MLP(2, 5, 8, width=6, depth=1, generator=rng(1)),
        )
        < 1e-10
    )


def test_auto_counts_arithmetic_and_not_seconds():
    flat, theta, x, y, alpha, batches, _ = problem(3, dtype=torch.float32)
    a, b = Engine(flat), Engine(flat)
    for e in (a, b):
        unroll(e, theta, x, y, alpha, batches)
    assert a.work == b.work > 0


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    make = net_for(data, width=8, depth=2)
    return data, make, record(data, make, n=2, epochs=4, progress=False)


def images(data):
    return data.batch(0, 1, rng(0)).repeat(10, 1, 1, 1) + torch.randn(
        10, 1, 8, 8, generator=rng(1)
    ) * 0.3, torch.arange(10)


def test_mtt_is_the_ratio_of_distances(digits):
    data, make, experts = digits
    x, y = images(data)
    mtt = MTT(experts, make, max_start=2, steps=3, generator=rng(5))
    loss = mtt(x, y).detach()
    r = mtt.report()
    a, b = experts.rows(r["expert"], [r["start"], r["start"] + 2])
    end = naive(
        Flat(make(generator=rng(0))),
        a.clone().requires_grad_(),
        x,
        y,
        torch.tensor(0.05),
        [(torch.arange(10), None)] * 3,
    ).detach()
    assert (
        abs(float(loss) - float((end - b).square().sum() / (a - b).square().sum())) < 1e-5
        and abs(r["loss_unweighted"] - float(loss)) < 1e-6
    )


def test_segments_are_averaged(digits):
    data, make, experts = digits
    x, y = images(data)
    three = float(MTT(experts, make, steps=2, segments=3, generator=rng(5))(x, y).detach())
    m = MTT(experts, make, steps=2, generator=rng(5))
    ones = [float(m(x, y).detach()) for _ in range(3)]
    assert abs(three - sum(ones) / 3) < 1e-6


def test_targets_between(digits):
    data, make, experts = digits
    x, y = images(data)
    plain, more = (MTT(experts, make, steps=4, between=w, generator=rng(5)) for w in (0, 1.0))
    assert (
        float(more(x, y).detach()) > float(plain(x, y).detach()) == more.report()["loss_unweighted"]
    )


def test_the_window_grows(digits):
    data, make, experts = digits
    x, y = images(data)
    m = MTT(experts, make, steps=1, expert_epochs=1, max_start=3, grow=(1, 4), generator=rng(0))
    seen = []
    for _ in range(6):
        seen.append(m.window.at(int(m.calls))[1])
        m(x, y)
    assert seen == [1, 1, 2, 2, 3, 3]


def test_same_seed_same_bytes_and_resume(digits):
    data, make, experts = digits
    x, y = images(data)
    a, b = (MTT(experts, make, steps=2, aug=DSA(), generator=rng(9)) for _ in range(2))
    assert a(x, y).item() == b(x, y).item()
    c = MTT(experts, make, steps=2, aug=DSA(), generator=rng(0))
    c.load_state_dict(a.state_dict())
    assert a(x, y).item() == c(x, y).item() and int(c.calls) == 2


def test_alpha_is_learned_and_positive(digits):
    data, make, experts = digits
    x, y = images(data)
    m = MTT(experts, make, steps=2, generator=rng(0))
    opt = torch.optim.SGD(m.groups(lr_alpha=100.0), lr=1.0)
    for _ in range(2):
        try:
            m(x, y).backward()
        except Diverged:
            break
        opt.step()
        opt.zero_grad()
    assert m.alpha > 0 and m.alpha != 0.05


def test_images_that_are_no_numbers_are_a_divergence(digits):
    data, make, experts = digits
    x, y = images(data)
    with pytest.raises(Diverged, match="lower alpha"):
        MTT(experts, make, generator=rng(0))(x * float("nan"), y)


def test_experts_by_folder_and_their_own_network(digits, tmp_path):
    data, make, _ = digits
    record(data, make, tmp_path, n=1, epochs=3, progress=False)
    a, b = MTT(str(tmp_path), generator=rng(0)), MTT(Experts(tmp_path), make, generator=rng(0))
    x, y = images(data)
    assert torch.equal(a(x, y), b(x, y))
    e = Experts(tmp_path)
    e.info = e.info | {"spec": None}
    with pytest.raises(DdnbError, match="make"):
        MTT(e)


def test_an_objective_lives_where_its_experts_data_lives(digits):
    data, make, experts = digits
    away = Experts(theta=experts.theta, info=experts.info, device="meta")
    for objective in (
        MTT(away, make),
        IADD(away, make, per="layer"),
        IADD(away, make, mode="mask"),
    ):
        # the counter stays where nobody waits for it
        buffers = [b for b in objective.buffers() if b is not objective.calls]
        everything = [*objective.parameters(), *buffers]
        assert all(t.device.type == "meta" for t in everything)
        held = [p for group in objective.groups() for p in group["params"]]
        assert any(p is objective.log_alpha for p in held)
    assert experts.device == data.device and MTT(experts, make).calls.device == data.device


def test_a_recording_that_stands_still_is_refused(digits):
    data, make, experts = digits
    still = [rows[:1].repeat(len(rows), 1) for rows in experts.theta]
    with pytest.raises(DdnbError, match="did not move"):
        MTT(Experts(theta=still, info=experts.info), make)(*images(data))


def test_an_unknown_way_is_a_sentence(digits):
    _, make, _ = digits
    with pytest.raises(DdnbError, match="way"):
        Engine(make(generator=rng(0)), way="sideways")


def test_experts_are_not_matched_by_another_network_of_as_many_weights():
    data = load("digits")
    make = {n: net_for(data, width=4, depth=1, norm=n) for n in ("instance", "group")}
    ex = record(data, make["instance"], n=1, epochs=2, progress=False)
    assert (
        MTT(ex, make["instance"], expert_epochs=1).flat.numel == MTT(ex, expert_epochs=1).flat.numel
    )
    with pytest.raises(DdnbError, match="norm was 'instance' and is now 'group'"):
        MTT(ex, make["group"], expert_epochs=1)


def test_a_run_is_not_gone_on_with_other_experts_or_another_window(tmp_path):
    data = load("digits")
    make = net_for(data, width=4, depth=1)

    def go(seed, steps, **kw):
        syn = Pixels(*init(data, 1, generator=rng(0)))
        experts = record(data, make, n=1, epochs=3, seed=seed, progress=False)
        objective = MTT(experts, expert_epochs=1, steps=2, **kw)
        sgd = torch.optim.SGD(syn.parameters(), 0.1)
        return len(list(Run(tmp_path, Distilling(syn, objective, sgd, steps), log=None)))

    assert go(0, 1) == 1
    with pytest.raises(DdnbError, match="experts was"):
        go(1, 2)
    with pytest.raises(DdnbError, match="window was"):
        go(0, 2, max_start=1)
    assert go(0, 2) == 1
