"""Whatever a stranger hands over is taken or refused in a sentence: no hang, no raw error, no
growth.

`pytest tests/fuzz --fuzz 2000` gives every reader that many cases.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GROWTH = 600 << 20  # bytes that a reader's cases may leave in the process


def fuzz(count, *names):
    "What the cases of some readers, or of all, came to."
    call = [sys.executable, HERE / "run.py", str(count), *names]
    done = subprocess.run(call, capture_output=True, text=True, timeout=3600)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines and done.returncode == 0, done.stderr[-3000:]
    return {line.pop("reader"): line for line in lines}


@pytest.mark.slow
def test_every_reader_takes_or_refuses(request):
    count = request.config.getoption("--fuzz")
    found = fuzz(count)
    print(*(f"{name}: {what}" for name, what in found.items()), sep="\n")
    for name, what in found.items():
        assert what.get("taken", 0) + what.get("refused", 0) >= min(count, 10), (name, what)
        assert what["growth"] < GROWTH, (name, what)
