"Whatever kills a run, the same call ends with the same bytes, and nothing half-written is left."

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KILLS = 50


def run(folder, kills, seed):
    r = subprocess.run(
        [sys.executable, HERE / "kill_run.py", folder, str(kills), str(seed)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert r.returncode == 0, r.stderr[-2000:]
    return int(r.stdout)


def content(folder):
    "Every file's bytes, the measured seconds and the locks aside."
    out = {}
    for p in sorted(Path(folder).rglob("*")):
        if not p.is_file() or p.name == ".lock":
            continue
        raw = p.read_bytes()
        if p.name == "records.jsonl":
            raw = [
                {k: v for k, v in json.loads(line).items() if k != "seconds"}
                for line in raw.splitlines()
            ]
        out[str(p.relative_to(folder))] = raw
    return out


@pytest.mark.kill
@pytest.mark.skipif(
    not hasattr(__import__("os"), "fork"), reason="needs fork, to kill often enough in a minute"
)
def test_fifty_kills_change_nothing(tmp_path):
    run(tmp_path / "calm", 0, 0)
    kills = run(tmp_path / "wild", KILLS, 7)
    assert kills == KILLS
    calm = content(tmp_path / "calm" / "0")
    assert {f.split("/")[0] for f in calm} == {"experts", "run", "set"}
    for folder in (tmp_path / "wild").iterdir():
        wild = content(folder)
        assert sorted(calm) == sorted(wild), "a file is missing, or something half-written was left"
        assert [f for f in calm if calm[f] != wild[f] and "previous" not in f] == []
