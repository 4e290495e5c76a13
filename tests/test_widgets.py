"Views without a browser: messages as a front end sends them, states of a run, text and bytes. An exception in a callback fails the test."

import base64, io, threading, time
import ipywidgets as W
import numpy as np
import pytest
import torch
from ipywidgets.widgets.widget import CallbackDispatcher
from PIL import Image
from ddnb import data as D, distill, syn, widgets as V
from ddnb.store import DdnbError


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    "ipywidgets swallows what a callback raises; here it is collected and fails the test."
    seen = []

    def call(self, *a, **kw):
        for f in self.callbacks:
            try:
                f(*a, **kw)
            except Exception as e:
                seen.append(e)
                raise

    monkeypatch.setattr(CallbackDispatcher, "__call__", call)
    fail = V.View.fail
    monkeypatch.setattr(V.View, "fail", lambda self, e: (seen.append(e), fail(self, e)))
    monkeypatch.setenv("IN_TEST", "1")
    yield seen
    if V.Worker.busy is not None:
        V.Worker.busy.stop()
    unexpected = [e for e in seen if not getattr(e, "expected", False)]
    assert unexpected == []


def expected(e):
    e.expected = True
    return e


def front(w, **state):
    w._handle_msg(
        {
            "content": {"data": {"method": "update", "state": state, "buffer_paths": []}},
            "buffers": [],
        }
    )


def press(b):
    b._handle_custom_msg({"event": "click"}, [])


def until(f, timeout=10.0):
    end = time.monotonic() + timeout
    while not f():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def png(view):
    b = view._repr_mimebundle_()
    return Image.open(io.BytesIO(base64.b64decode(b["image/png"]))), b["text/plain"]


@pytest.fixture(scope="module")
def data():
    return D.load("digits")


def steps(n=10**6, pause=0.005, **more):
    for t in range(1, n + 1):
        time.sleep(pause)
        yield dict(step=t, loss=1 / t, **more)


def test_the_strict_fixture_sees_a_swallowed_exception(strict):
    b = V.button("x", "y", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        press(b)
    assert {type(e) for e in strict} == {ZeroDivisionError}
    strict.clear()


def test_a_defect_in_an_observer_is_shown_and_raised(strict):
    v = V.View()
    s = W.IntSlider()
    v.watch(s, call=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        s.value = 3
    assert "ZeroDivisionError" in v.trouble.value and isinstance(v.problem, ZeroDivisionError)
    strict.clear()


# ---- pruning


def test_pruning_agrees_with_prune_keep(data):
    from ddnb.prune import keep

    loss = torch.rand(len(data.train), generator=D.rng(0))
    v = V.PruningExplorer(loss, data=data)
    for f, order, per in ((0.3, "easy", "class"), (0.5, "hard", "class"), (0.8, "easy", "global")):
        front(v.c_keep, value=f)
        front(v.c_order, index=["easy", "hard"].index(order))
        front(v.c_per, index=["class", "global"].index(per))
        want = keep(loss, data, f, order=order, per=per)
        assert (
            torch.equal(v.kept.indices, want.indices) and (v.kept_idx == want.indices.numpy()).all()
        )
        assert (
            v.counts.tolist() == want.counts
            and f"kept {len(want)} of {len(data.train)}" in v.summary()
        )


def test_pruning_that_empties_a_class_is_said_and_refused(data):
    loss = (data.train.y == 3).float() + 0.1 * torch.rand(len(data.train), generator=D.rng(0))
    v = V.PruningExplorer(loss, data=data, keep=0.5)
    front(v.c_per, index=1)
    assert (
        v.kept is None
        and "fewer than 1 left in class 3" in v.summary()
        and 'role="alert"' in v.trouble.value
    )
    with pytest.raises(DdnbError):
        v.subset(data)
    front(v.c_per, index=0)
    assert v.kept is not None and v.trouble.value == ""


def test_pruning_without_images_and_with_a_loader_and_empty():
    loss, y, asked = torch.rand(30), torch.arange(30) % 3, []
    V.PruningExplorer(loss, y)

    def loader(i):
        asked.append(len(i))
        return torch.zeros(len(i), 1, 4, 4)

    V.PruningExplorer(loss, y, loader)
    assert asked and max(asked) <= 20
    assert (
        V.PruningExplorer(torch.zeros(0), torch.zeros(0, dtype=torch.long)).summary()
        == "no images to prune"
    )
    with pytest.raises(DdnbError, match="30 losses for 29 labels"):
        V.PruningExplorer(loss, y[1:])


def test_pruning_pages_show_every_dropped_image_once():
    loss, y = torch.arange(90.0), torch.zeros(90, dtype=torch.long)
    seen = []
    v = V.PruningExplorer(
        loss, y, lambda i: (seen.append(i.tolist()), torch.zeros(len(i), 1, 4, 4))[1], keep=0.5
    )
    seen.clear()
    for p in range(1, v.c_page.max + 1):
        front(v.c_page, value=p) if p > 1 else v.draw()
    assert sorted(sum(seen, [])) == list(range(90))


# ---- importance and gallery

W_ = lambda t: {
    "a": dict(mean=1 + t / 10, q05=0.5, q50=1.0, q95=2.0),
    "b": dict(mean=1.0, q05=0.9, q50=1.0, q95=1.1),
}


def test_importance_numbers_follow_the_step():
    v = V.ImportanceExplorer(
        [dict(step=t * 10, loss=0.0, W=W_(t)) for t in range(5)], weights={0: torch.ones(7)}
    )
    assert v.step == 40 and v.values()["W"]["a"] == pytest.approx(1.4)
    front(v.c_step, value=2)
    assert v.step == 20 and "largest in a (1.2)" in v.summary()
    front(v.c_step, value=0)
    assert "7 weights at step 0" in v.spread.value
    front(v.c_layers, index=[1])
    assert v.lines.value.count("<polyline") == 1
    front(v.c_log, value=True)
    assert "log10" in v.heat.value


def test_gallery_pixels_are_the_images(data):
    u = data.train.x[:20]
    v = V.DistilledGallery({"0": u}, data.train.y[:20])
    assert (v.pixels()[0][..., 0] == u[:, 0].numpy()).all()
    im = np.asarray(Image.open(io.BytesIO(v.pic.value)).convert("RGB"))
    assert im.shape == (2 * 9 - 1, 10 * 9 - 1, 3) and (im[:8, :8, 0] == u[0, 0].numpy()).all()
    assert v.pic.width == str(round((10 * 9 - 1) * 44 / 8)) and v.pic.layout.height.endswith("px")


def test_gallery_remembers_at_most_fifty(data):
    x = data.xy()[0][:10]
    v = V.DistilledGallery({t: x + t for t in range(70)}, norm=data.norm)
    for i in range(70):
        front(v.c_step, index=i)
    assert len(v.cache) == 50
    assert V.DistilledGallery({}).summary() == "no images yet"


def test_gallery_adds_while_a_run_goes_on_and_stays_where_the_reader_is(data):
    x = data.xy()[0][:10]
    v = V.DistilledGallery({0: x}, norm=data.norm)
    v.add(10, x)
    assert v.step == 10
    front(v.c_step, index=0)
    v.add(20, x)
    assert v.step == 0 and len(v.c_step.options) == 3
    x += 100  # the snapshot is a copy
    assert float((v.shots[20] - x).abs().min()) > 50


def test_gallery_takes_latent_trails_soft_labels_and_large_images():
    v = V.DistilledGallery(
        {0: torch.rand(4, 3, 16, 16)},
        torch.eye(2).repeat_interleave(2, 0),
        trail=torch.rand(5, 4, 3, 16, 16),
    )
    assert "soft labels" in v.summary() and v.along.value[:4] == b"\x89PNG"
    v = V.DistilledGallery(torch.rand(100, 3, 128, 128), torch.arange(10).repeat_interleave(10))
    assert v.pic.format == "jpeg" and v.pic.value[:2] == b"\xff\xd8"


# ---- runs


def test_states_of_a_run_in_a_thread():
    m = V.RunMonitor(10**6)
    assert (m.state, m.b_pause.disabled, m.b_stop.disabled) == ("idle", True, True)
    m.start(steps(), background=True)
    until(lambda: m.step > 3 and not m.b_pause.disabled)
    assert m.state == "running"
    press(m.b_pause)
    until(lambda: m.state == "paused" and not m.b_resume.disabled)
    at = m.step
    time.sleep(0.15)
    assert m.step == at and "paused at step" in m.summary()
    t = time.monotonic()
    press(m.b_resume)
    until(lambda: m.step > at)
    assert time.monotonic() - t < 1
    press(m.b_stop)
    best = m.wait(5)
    assert m.state == "stopped" and best["step"] == m.step == len(m.history)
    assert all(b.disabled for b in (m.b_pause, m.b_resume, m.b_stop))
    assert 'role="status"' in m.announced.value


def test_stop_while_paused_ends_and_closes_the_generator():
    closed = []

    def g():
        try:
            yield from steps()
        finally:
            closed.append(threading.current_thread().name)

    m = V.RunMonitor(10).start(g(), background=True)
    press(m.b_pause)
    until(lambda: m.state == "paused")
    press(m.b_stop)
    m.wait(5)
    assert m.state == "stopped" and closed == ["ddnb-run"]


def test_error_is_kept_shown_and_raised(strict):
    def g():
        yield dict(step=1, loss=1.0)
        raise expected(RuntimeError("<b>broken</b>"))

    m = V.RunMonitor(5).start(g(), background=True)
    with pytest.raises(RuntimeError, match="broken"):
        m.wait(5)
    assert (
        m.state == "failed"
        and "&lt;b&gt;broken" in m.trouble.value
        and "failed after step 1 of 5" in m.summary()
    )
    m.start(steps(3), background=True)  # the view can be used again
    assert m.wait(5)["step"] == 3 and m.state == "done"


def test_without_a_kernel_the_error_comes_at_once(strict):
    with pytest.raises(ValueError):
        V.RunMonitor(5).start(expected_error())


def expected_error():
    yield dict(step=1, loss=1.0)
    raise expected(ValueError("no"))


def test_a_second_run_is_refused_and_the_first_goes_on():
    m = V.RunMonitor(10**6).start(steps(), background=True)
    other = V.RunMonitor(5)
    with pytest.raises(DdnbError, match="Another run is still going"):
        other.start(steps(5))
    assert other.state == "idle" and other.wait() is None
    with pytest.raises(DdnbError, match="still going"):
        m.start(steps(5))
    at = m.step
    until(lambda: m.step > at)
    m.stop()
    m.wait(5)
    assert other.start(steps(5)).state == "done"


def interrupt_the_wait(monkeypatch):
    "Ctrl-C at the third time the main thread sleeps."
    real, count = time.sleep, [0]

    def sleep(s):
        if threading.current_thread() is threading.main_thread():
            count[0] += 1
            if count[0] == 3:
                raise KeyboardInterrupt
        real(s)

    monkeypatch.setattr(V.time, "sleep", sleep)


def test_interrupt_while_waiting_stops_and_keeps(monkeypatch):
    m = V.RunMonitor(10**6).start(steps(), background=True)
    until(lambda: m.step > 2)
    interrupt_the_wait(monkeypatch)
    assert m.wait(10)["step"] > 2 and m.state == "stopped" and m.error is None


def test_waiting_has_a_limit():
    m = V.RunMonitor(10**6).start(steps(), background=True)
    with pytest.raises(TimeoutError):
        m.wait(0.1)
    m.stop()
    m.wait(5)


def test_await_done():
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    m = V.RunMonitor(20).start(steps(20, 0.001), background=True)
    with ThreadPoolExecutor(1) as p:
        assert (
            p.submit(asyncio.run, m.done()).result()["step"] == 20
        )  # a thread: this one may have a loop already


def test_grad_mode_and_autocast_reach_the_worker():
    def g():
        yield dict(
            step=1, loss=0.0, grad=torch.is_grad_enabled(), auto=torch.is_autocast_enabled("cpu")
        )

    with torch.no_grad(), torch.autocast("cpu"):
        m = V.RunMonitor(1).start(g(), background=True)
    m.wait(5)
    assert m.history[0]["grad"] is False and m.history[0]["auto"] is True


def test_refreshes_are_at_most_four_a_second():
    m = V.RunMonitor(10**6)
    n = []
    m.curve.observe(lambda c: n.append(time.monotonic()), "value")
    m.start(steps(pause=0.002), background=True)
    time.sleep(1.6)
    m.stop()
    m.wait(5)
    assert 2 <= len(n) <= 8  # 1.6 s at 4 Hz, and the last


def test_one_thread_writes():
    m, who = V.RunMonitor(10**6), set()
    for w in (m.curve, m.side, m.status, m.facts):
        w.observe(lambda c: who.add(threading.current_thread().name), "value")
    m.start(steps(), background=True)
    until(lambda: m.step > 50)
    front(m.c_smooth, value=0.5)
    press(m.b_pause)
    press(m.b_resume)
    m.stop()
    m.wait(5)
    assert who == {"ddnb-paint"}


def test_not_a_number_is_counted_and_can_stop():
    def g():
        for t in range(1, 100):
            yield dict(step=t, loss=float("nan") if t == 5 else 1.0)

    m = V.RunMonitor(99).start(g())
    assert (
        m.bad == 1
        and "1 steps without a finite loss" in m.facts.value
        and m.curve.value.count("<polyline") == 2
    )
    assert V.RunMonitor(99, stop_on_nan=True).start(g()).step == 5


def test_best_is_by_validation_and_its_images_are_kept(data):
    p = syn.Pixels(*syn.init(data, 1, generator=D.rng(0)))
    score = iter([(0.5, 0.1), (0.9, 0.1), (0.7, 0.1)])

    def g():
        for t in range(1, 31):
            with torch.no_grad():
                p.x.fill_(t)
            yield dict(step=t, loss=1.0)

    m = V.RunMonitor(30, syn=p, data=data, validate=lambda: next(score), validate_every=10).start(
        g()
    )
    assert m.best["step"] == 20 and m.best["valid"] == 0.9 and m.history[19]["valid_std"] == 0.1
    assert float(m.best_images.mean()) == 20.0 and list(m.gallery.shots)[-1] == 30
    assert "best validation accuracy 0.9 at step 20" in m.best_line()


def test_a_resumed_run_shows_what_it_had(data, tmp_path):
    def run(n):
        p = syn.Pixels(*syn.init(data, 1, generator=D.rng(0)))

        class Pull(torch.nn.Module):
            def forward(self, x, y):
                return (x**2).mean()

        return distill.Run(tmp_path, p, Pull(), torch.optim.SGD(p.parameters(), 0.1), n)

    a = V.RunMonitor().start(run(7))
    assert a.total == 7 and a.step == 7
    b = V.RunMonitor().start(run(12))
    assert [r["step"] for r in b.history] == list(range(1, 13)) and b.history[0][
        "loss"
    ] == a.history[0]["loss"]


def test_stop_saves_a_checkpoint(data, tmp_path):
    p = syn.Pixels(*syn.init(data, 1, generator=D.rng(0)))

    class Pull(torch.nn.Module):
        def forward(self, x, y):
            time.sleep(0.01)
            return (x**2).mean()

    make = lambda: distill.Run(
        tmp_path, p, Pull(), torch.optim.SGD(p.parameters(), 0.1), 10**6, every=10**6
    )
    m = V.RunMonitor().start(make(), background=True)
    until(lambda: m.step > 3)
    press(m.b_stop)
    m.wait(5)
    r = make()
    next(iter(r))
    assert r.step == m.step + 1  # the stopped step was saved, the next one follows


def test_time_left_leaves_pauses_out():
    m = V.RunMonitor(1000).start(steps(pause=0.005), background=True)
    until(lambda: m.step > 10)
    m.pause()
    until(lambda: m.state == "paused")
    time.sleep(0.5)
    m.resume()
    at = m.step
    until(lambda: m.step > at + 3)
    assert m.pace < 0.1
    m.stop()
    m.wait(5)


# ---- architectures, studio, saved notebook

ROWS = [
    dict(train=t, net=n, accuracy=a)
    for t in ("x", "y")
    for n, a in (("A", 0.5 + 0.1 * (t == "y")), ("B", 0.8 - 0.1 * (t == "y")), ("A", 0.6))
]


def test_cross_marks_the_best_of_each_network():
    v = V.CrossArchitecture(ROWS, reference={"chance": 0.1})
    assert {k: b["train"] for k, b in v.best().items()} == {"A": "y", "B": "x"}
    assert (
        v.table.value.count("best</td>") == 2
        and 'scope="col"' in v.table.value
        and "<caption>" in v.table.value
    )
    front(v.c_what, index=1)
    assert "<td>0.500</td>" in v.table.value
    assert v.to_markdown().splitlines()[2].startswith("| x | 0.500")


def test_cross_takes_results_of_evaluate(data):
    from ddnb.evaluate import evaluate
    from ddnb.nets import net_for

    r = evaluate(
        {"mean": syn.init(data, 1, "mean", generator=D.rng(0))},
        data,
        {"ConvNet": net_for(data, "ConvNet", width=8, depth=2)},
        seeds=2,
        steps=5,
    )
    v = V.CrossArchitecture(r)
    assert v.rows[0]["n"] == 2 and v.rows[0]["mean"] == pytest.approx(r.mean)


def test_cross_fills_while_it_runs():
    v = V.CrossArchitecture()

    def g():
        for r in ROWS:
            time.sleep(0.02)
            yield r

    v.start(g(), background=True)
    assert len(v.wait(5)) == 4 and v.state == "done" and "done: 6 results" in v.status.value


def test_studio_code_is_what_it_runs(data):
    s = V.Studio(data)
    s.c["Distil"]["method"].value, s.c["Distil"]["steps"].value = "MTT", 2
    s.c["Distil"]["experts"].value, s.c["Distil"]["epochs"].value, s.c["Prune"]["width"].value = (
        1,
        2,
        8,
    )
    press(s.go["Distil"])
    s.wait()
    ns = {"data": data}
    exec(s.code, ns)
    assert torch.equal(ns["syn"]()[0], s.ns["syn"]()[0]) and "kept, pruned = None, data" in s.code
    assert not s.go["Save"].disabled and s.ns["monitor"].state == "done"


def test_studio_says_what_is_wrong(strict):
    s = V.Studio()
    assert s.go["Prune"].disabled and s.go["Save"].disabled
    s.c["Data"]["source"].value = "digts"
    press(s.go["Data"])
    assert isinstance(s.problem, DdnbError) and "Did you mean 'digits'" in s.trouble.value.replace(
        "&#x27;", "'"
    )
    strict.clear()
    s.c["Data"]["source"].value = "digits"
    press(s.go["Data"])
    assert s.problem is None and not s.go["Prune"].disabled and "digits" in s.summary()


def test_studio_saves_and_reads_back(data, tmp_path):
    from ddnb import artifact

    s = V.Studio(data, folder=str(tmp_path / "mine"))
    s.c["Distil"]["method"].value, s.c["Distil"]["steps"].value, s.c["Prune"]["width"].value = (
        "DM",
        2,
        8,
    )
    for k in ("Distil", "Save"):
        press(s.go[k])
        s.wait()
    assert torch.equal(artifact.load(tmp_path / "mine").x, s.ns["syn"]()[0].detach())


# ---- studio: latents through a prior


@pytest.fixture
def prior(data):
    from ddnb.latent import Prior

    return Prior.random("ldm", generator=D.rng(0), channels=1, size=8, classes=10, width=16)


def latents(s, steps=2, **more):
    "A studio that is about to distil latents, quickly."
    for k, v in (dict(method="DM", images="latents", steps=steps, sampling=1) | more).items():
        s.c["Distil"][k].value = v
    s.c["Prune"]["width"].value = 8
    return s


def same_images(s, **ns):
    "The studio's script gives the studio's images."
    exec(s.code, ns)
    ns["monitor"].wait()
    return torch.equal(ns["syn"]()[0], s.ns["syn"]()[0])


def test_studio_shows_only_what_the_choice_needs(data, prior):
    shown = lambda s: {
        k for k in V.LATENT if k in s.c["Distil"] and s.c["Distil"][k].layout.display != "none"
    }
    s = V.Studio(data)
    assert (
        shown(s) == set()
        and "Pixels(" in s.codes["Distil"].value
        and "prior" not in s.codes["Distil"].value
    )
    front(s.c["Distil"]["images"], index=1)
    assert (
        shown(s) == set(V.LATENT)
        and "tiny_prior(pruned, steps=(400, 120)" in s.codes["Distil"].value
    )
    s.c["Distil"]["prior"].value = "my/prior "
    assert (
        shown(s) == {"skip", "sampling", "prior"}
        and "Prior.load(&#x27;my/prior&#x27;" in s.codes["Distil"].value
    )
    assert (
        shown(s := latents(V.Studio(data, prior=prior))) == {"skip", "sampling"}
        and s.c["Distil"]["experts"].layout.display == "none"
    )
    s.c["Distil"]["method"].value = "MTT"
    assert s.c["Distil"]["experts"].layout.display == ""


def test_the_picture_of_a_studio_that_is_still_reading(threads, monkeypatch):
    "Shown before the data are there: no error, and a picture."
    gate, load = threading.Event(), D.load
    monkeypatch.setattr(D, "load", lambda *a, **k: gate.wait(10) and load(*a, **k))
    s = V.Studio()
    press(s.go["Data"])
    assert png(s)[1].endswith("Data: working ...")
    gate.set()
    s.wait()
    assert s.problem is None and s.done


@pytest.mark.parametrize("method", V.METHODS.values())
def test_studio_distils_latents_by_any_objective(data, prior, method, tmp_path):
    from ddnb import artifact

    s = latents(
        V.Studio(data, folder=str(tmp_path / "mine"), prior=prior),
        method=method,
        experts=1,
        epochs=2,
        skip="paper",
    )
    for k in ("Distil", "Save"):
        press(s.go[k])
        s.wait()
    x = s.ns["syn"]()[0].detach()
    assert not torch.equal(x, s.ns["monitor"].gallery.shots[0]), "nothing was learned"
    kept = artifact.load(tmp_path / "mine")
    assert (
        torch.equal(kept.x, x)
        and set(kept.extra) == {"z", "noise", "c"}
        and kept.card["hyper"]["skip"] == "paper"
    )


def test_studio_trains_a_prior_once(data, tmp_path, monkeypatch):
    monkeypatch.setenv("DDNB_CACHE", str(tmp_path / "cache"))
    s = latents(V.Studio(data), prior_steps=4, skip="none")
    said = []
    s.says.observe(lambda c: said.append(c["new"]), "value")
    monkeypatch.setattr(V.LiveView, "period", 0.0)
    press(s.go["Distil"])
    s.wait()
    text = "\n".join(said)
    assert (
        "Training the prior takes about" in text
        and "autoencoder 4 of 4, loss" in text
        and "denoiser 1 of 1, loss" in text
    )
    assert (
        s.ns["syn"].sampler.skip is None
        and s.live.layout.display == "none"
        and len(list((tmp_path / "cache").glob("prior-*/model_index.json"))) == 1
    )
    said.clear()
    assert same_images(s, data=data)
    press(s.go["Distil"])
    s.wait()
    assert (
        not any("Training" in t for t in said)
        and len(list((tmp_path / "cache").glob("prior-*/model_index.json"))) == 1
    )


def test_studio_prunes_then_learns_latents_of_a_folder(data, prior, tmp_path):
    prior.save(tmp_path / "prior")
    s = latents(V.Studio(data, prior=tmp_path / "prior"))
    s.c["Prune"]["nets"].value = s.c["Prune"]["epochs"].value = 1
    for k in ("Prune", "Distil"):
        press(s.go[k])
        s.wait()
    assert (
        len(s.ns["pruned"].train) < len(data.train)
        and s.ns["monitor"].state == "done"
        and s.ns["prior"] is not prior
    )


def test_studio_says_what_is_wrong_with_a_prior(data, tmp_path, strict):
    with pytest.raises(DdnbError, match="prior is a int"):
        V.Studio(data, prior=3)
    s = latents(V.Studio(data, prior=str(tmp_path)))
    press(s.go["Distil"])
    assert (
        isinstance(s.problem, DdnbError)
        and "No diffusers pipeline was found" in s.trouble.value
        and s.live.layout.display == "none"
        and not s.go["Distil"].disabled
    )
    strict.clear()


@pytest.fixture
def threads(monkeypatch, tmp_path):
    "As in a kernel: each stage in a thread of its own."
    monkeypatch.delenv("IN_TEST")
    monkeypatch.setattr(V, "has_kernel", lambda: True)
    monkeypatch.setenv("DDNB_CACHE", str(tmp_path))


def test_the_training_of_a_prior_pauses_stops_and_goes_on(data, threads):
    s = latents(V.Studio(data), prior_steps=10**4)
    press(s.go["Distil"])
    pause, resume, stop = s.steering
    until(lambda: s.at is not None and s.live.layout.display == "" and not pause.disabled, 60)
    assert (
        s.running == "Distil"
        and s.go["Distil"].disabled
        and s.says.value.count("Training the prior takes about") == 1
    )
    press(pause)
    until(lambda: "paused at autoencoder" in s.says.value)
    at = s.at["step"]
    time.sleep(0.3)
    assert s.at["step"] == at and pause.disabled and not resume.disabled
    front(s.c["Distil"]["ipc"], value=2)  # the kernel is free meanwhile
    assert "paused at autoencoder" in s.says.value
    press(resume)
    until(lambda: s.at["step"] > at)
    press(stop)
    s.wait()
    cut = s.at["step"]
    assert (
        s.problem is None
        and s.running is None
        and f"Distil was stopped at autoencoder {cut} of 10000" in s.says.value
        and "go on from there" in s.says.value
        and "Distil" not in s.done
        and s.go["Compare"].disabled
    )
    press(s.go["Distil"])
    until(lambda: s.at is not None, 60)
    assert s.at["step"] == cut + 1, "the training does not go on from where it was stopped"
    press(stop)
    s.wait()


def test_the_recording_of_experts_stops_too(data, threads):
    s = V.Studio(data)
    for k, v in dict(experts=200, epochs=2).items():
        s.c["Distil"][k].value = v
    s.c["Prune"]["width"].value = 8
    press(s.go["Distil"])
    until(lambda: s.at is not None, 60)
    assert "Recording 200 of 200 experts" in s.forecast
    press(s.steering[2])
    s.wait()
    assert s.problem is None and "begin again" in s.summary() and "monitor" not in s.ns
    press(s.steering[2])  # after the end nothing comes of it
    assert s.running is None


def test_an_interrupt_while_the_studio_waits_stops_the_training(data, threads, monkeypatch):
    s = latents(V.Studio(data), prior_steps=10**4)
    press(s.go["Distil"])
    until(lambda: s.at is not None, 60)
    interrupt_the_wait(monkeypatch)
    s.wait()
    assert "Distil was stopped at autoencoder" in s.summary()


def test_progress_without_a_run_prints_the_end_of_each_part(capsys):
    for r in (
        "takes a while",
        dict(part="a", step=1, steps=2, loss=1.0),
        dict(part="a", step=2, steps=2, loss=0.5),
    ):
        V.progress(r)
    V.progress(1, 2)
    V.progress(2, 2)
    assert capsys.readouterr().out.splitlines() == [
        "takes a while",
        "a 2 of 2, loss 0.5",
        "done 2 of 2",
    ]


VIEWS = dict(
    pruning=lambda: V.PruningExplorer(torch.rand(30), torch.arange(30) % 3),
    importance=lambda: V.ImportanceExplorer([dict(step=1, W=W_(1)), dict(step=2, W=W_(2))]),
    gallery=lambda: V.DistilledGallery(torch.rand(4, 1, 8, 8)),
    run=lambda: V.RunMonitor(3).start(steps(3, 0)),
    cross=lambda: V.CrossArchitecture(ROWS),
    studio=V.Studio,
)


@pytest.mark.parametrize("name", VIEWS)
def test_the_saved_notebook_has_a_picture_and_words_but_no_state(name, tmp_path):
    v = VIEWS[name]()
    im, text = png(v)
    assert (
        min(im.size) > 60
        and text.startswith(type(v).__name__ + ": ")
        and len(v.still()["image/png"]) < 150_000
    )
    assert v.save(tmp_path / "v.png").stat().st_size > 1000
    assert f"ddnb-{name}" in v._dom_classes and isinstance(v.values(), dict)


@pytest.mark.parametrize("name", VIEWS)
def test_every_control_has_a_name_and_a_tooltip(name):
    def walk(w):
        yield w
        for c in getattr(w, "children", ()):
            yield from walk(c)

    kinds = (
        W.Button,
        W.IntSlider,
        W.FloatSlider,
        W.Dropdown,
        W.ToggleButtons,
        W.ToggleButton,
        W.SelectMultiple,
        W.Text,
        W.BoundedIntText,
    )
    for w in walk(VIEWS[name]()):
        if isinstance(w, kinds):
            assert w.description and (w.tooltip or getattr(w, "tooltips", None)), w
        if isinstance(w, V.Picture):
            assert w.width and w.height


def test_a_monitor_of_a_long_run_forgets_every_second_old_record(monkeypatch):
    from ddnb import widgets

    monkeypatch.setattr(widgets, "MANY", 40)
    m = V.RunMonitor(500)
    m.start(
        (
            {"step": i, "loss": 1 / i, **({"valid": 0.5} if i % 100 == 0 else {})}
            for i in range(1, 501)
        ),
        background=False,
    )
    steps = [r["step"] for r in m.history]
    assert (
        len(steps) < 60
        and steps[-20:] == list(range(481, 501))
        and {100, 200, 300, 400, 500} <= set(steps)
        and steps[0] == 1
        and steps == sorted(steps)
    )
    for t, a in m.cols.values():
        assert len(t) == len(a) < 60 and t == sorted(t)
    assert m.cols["valid"][0] == [100, 200, 300, 400, 500] and m.cols["loss"][1] == [
        1 / i for i in m.cols["loss"][0]
    ]
