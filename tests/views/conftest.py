"Views without a browser. An exception in a callback fails the test."

import pytest
from ipywidgets.widgets.widget import CallbackDispatcher

from ddnb import data as D
from ddnb import views as V


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


@pytest.fixture
def threads(monkeypatch, tmp_path):
    "As in a kernel: each stage in a thread of its own."
    monkeypatch.delenv("IN_TEST")
    monkeypatch.setattr("ddnb.views.view.has_kernel", lambda: True)
    monkeypatch.setenv("DDNB_CACHE", str(tmp_path))


@pytest.fixture(scope="session")
def data():
    return D.load("digits")
