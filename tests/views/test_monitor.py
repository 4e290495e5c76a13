"States of a run, refreshes, errors, what is kept."

import threading
import time

import pytest
import torch

from ddnb import data as D
from ddnb import distill, syn
from ddnb import views as V
from ddnb.base.check import DdnbError

from .hands import expected, front, interrupt_the_wait, press, steps, until


def expected_error():
    yield dict(step=1, loss=1.0)
    raise expected(ValueError("no"))


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
    assert 'role="status"' in m._ending.value


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

        work = distill.Distilling(p, Pull(), torch.optim.SGD(p.parameters(), 0.1), n)
        return distill.Run(tmp_path, work)

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

    def make():
        work = distill.Distilling(p, Pull(), torch.optim.SGD(p.parameters(), 0.1), 10**6)
        return distill.Run(tmp_path, work, every=10**6, log=None)

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
    assert m.pace.seconds < 0.1
    m.stop()
    m.wait(5)


def test_a_monitor_of_a_long_run_forgets_every_second_old_record(monkeypatch):
    monkeypatch.setattr("ddnb.views.monitor.MANY", 40)
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
    for column in m.columns.values():
        t = column.steps
        assert len(t) == len(column.values) < 60 and t == sorted(t)
    assert m.columns["valid"].steps == [100, 200, 300, 400, 500]
    assert m.columns["loss"].values == [1 / i for i in m.columns["loss"].steps]
