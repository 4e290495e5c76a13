"Work in a child process that is killed in the middle."

import multiprocessing
import signal
import time

import pytest

needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(),
    reason="needs fork, to kill often enough in a minute",
)


def killed(work, *args, after=0.0, until=None):
    """Whether `work(*args)`, in a child process, was still going on when it was killed.

    The kill comes `after` so many seconds, counted from when `until()` is true; with None it never
    comes. Work that fails by itself fails the test.
    """
    child = multiprocessing.get_context("fork").Process(target=work, args=args)
    child.start()
    while until and child.is_alive() and not until():
        time.sleep(0.002)
    if after is not None:
        child.join(after)
        child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL), "the work failed by itself"
    return child.exitcode != 0
