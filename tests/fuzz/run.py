"""Cases for the readers, in this process: `python run.py CASES [NAME ...]`.

Each case has a limit of time (a hang ends the process, with a traceback) and this process has one
of memory. A case is taken or refused in one sentence; anything else is a defect. Prints a line of
JSON for each reader.
"""

import faulthandler
import json
import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

SECONDS = 60  # for one case, on a machine that does much else
ROOM = 3 << 30  # bytes of address space beside what the process has when it begins

sys.path.insert(0, str(Path(__file__).parent))


def limit_memory():
    "No case may ask for more than ROOM."
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def held():
    "Bytes that this process has now."
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def run(name, count, seed=0):
    "The cases of one reader; raises at a defect, with the smallest case that shows it."
    from hypothesis import HealthCheck, Phase, given, seed as seeded, settings

    import readers
    from ddnb.base.check import DdnbError

    cases, read = readers.READERS[name]
    seen, took = Counter(), [0.0]

    @seeded(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(cases)
    def each(case):
        start = time.perf_counter()
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            read(case)
            seen["taken"] += 1
        except DdnbError as e:
            assert "\n" not in str(e), f"a sentence of several lines: {e!r}"
            str(e).encode()
            seen["refused"] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()
            took[0] = max(took[0], time.perf_counter() - start)

    before = held()
    each()
    return dict(seen) | {"slowest": round(took[0], 3), "growth": held() - before}


def main(count, *names):
    import readers

    limit_memory()
    warnings.simplefilter("ignore")
    unknown = [n for n in names if n not in readers.READERS]
    assert not unknown, f"no reader {unknown}, only {list(readers.READERS)}"
    status = 0
    for name in names or readers.READERS:
        try:
            found = run(name, int(count))
        except BaseException as e:  # noqa: B902
            import traceback

            traceback.print_exception(e)
            found, status = {"defect": f"{type(e).__name__}: {str(e)[:300]}"}, 1
        print(json.dumps({"reader": name} | found), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
