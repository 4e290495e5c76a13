"What a front end sends, and how long a test waits."

import base64
import io
import threading
import time

from PIL import Image


def expected(e):
    "An exception that the test is about."
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


def until(f, timeout=120.0):
    end = time.monotonic() + timeout
    while not f():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def png(view):
    b = view._repr_mimebundle_()
    return Image.open(io.BytesIO(base64.b64decode(b["image/png"]))), b["text/plain"]


def steps(n=10**6, pause=0.005, **more):
    for t in range(1, n + 1):
        time.sleep(pause)
        yield dict(step=t, loss=1 / t, **more)


def interrupt_the_wait(monkeypatch):
    "Ctrl-C at the third time the main thread sleeps."
    real, count = time.sleep, [0]

    def sleep(s):
        if threading.current_thread() is threading.main_thread():
            count[0] += 1
            if count[0] == 3:
                raise KeyboardInterrupt
        real(s)

    monkeypatch.setattr(time, "sleep", sleep)


def importance_of(t):
    "Importance weights of two layers at step t."
    return {
        "a": dict(mean=1 + t / 10, q05=0.5, q50=1.0, q95=2.0),
        "b": dict(mean=1.0, q05=0.9, q50=1.0, q95=1.1),
    }


ROWS = [
    dict(train=t, net=n, accuracy=a)
    for t in ("x", "y")
    for n, a in (("A", 0.5 + 0.1 * (t == "y")), ("B", 0.8 - 0.1 * (t == "y")), ("A", 0.6))
]
