"A folder with pictures and one finished demo, for all tests of the command."

import signal
import socket

import pytest

from .command_line import TINY, pictures, run


def _refuse(*a, **kw):
    raise AssertionError("the demo touched the network")


@pytest.fixture(scope="session")
def box(tmp_path_factory):
    "Pictures in `pets`, a finished demo in `one`, what it printed; the network is out of reach."
    box = tmp_path_factory.mktemp("box")
    pictures(box / "pets")
    with pytest.MonkeyPatch.context() as m:
        for name in ("connect", "connect_ex", "bind"):
            m.setattr(socket.socket, name, _refuse)
        code, out, err = run("demo", "--data", box / "pets", "--out", box / "one", *TINY)
    assert code == 0, err
    (box / "printed.txt").write_text(out)
    return box


@pytest.fixture(autouse=True)
def shelf(monkeypatch, tmp_path_factory):
    "What runs share is shared within a test only."
    monkeypatch.setenv("DDNB_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def signals():
    "Signal handlers stay as they were, whatever a test does."
    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for s, h in old.items():
        signal.signal(s, h)
