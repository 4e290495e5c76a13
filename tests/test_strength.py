"The benchmark of published strength, with everything tiny: rows, resuming, budget, table."

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from ddnb.base.check import DdnbError

FILE = Path(__file__).parent / "bench" / "cifar10.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_cifar10", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for their own module
    spec.loader.exec_module(module)
    return module


def tiny(bench, out, *more):
    bench.main(["--smoke", "--out", str(out), *more])


def row_of(out, name):
    return json.loads((out / "rows" / f"{name}.json").read_text())


def test_names_are_told_apart_and_every_part_is_known(bench):
    rows = bench.table_rows()
    assert len({r.name for r in rows}) == len(rows)
    known = {e.name: e for e in bench.EXPERTS}
    for r in rows:
        assert r.method in {**bench.CHOSEN, **bench.LEARNED}
        assert r.experts is None or known[r.experts].zca == r.zca
        assert (r.steps > 0) == (r.method in bench.LEARNED)
        assert r.judges >= 3 or r.group == "tuning"


@pytest.mark.slow
def test_rows_are_made_once_and_say_what_they_cost(bench, tmp_path, capsys):
    tiny(bench, tmp_path, "--only", "tiles-1", "tgdd-1", "mtt-1")
    tiles, tgdd, mtt = (row_of(tmp_path, n) for n in ("tiles-1", "tgdd-1", "mtt-1"))
    assert (tiles["stored"], tiles["pictures"]) == (10, 40) and tiles["made"] == {}
    assert (tgdd["factor"], tgdd["results"][0]["images"], tgdd["results"][0]["n"]) == (2, 40, 2)
    assert mtt["zca"] and mtt["shared"]["cpu"] > 0 and mtt["made"]["peak"] > 0
    assert tgdd["losses"][0]["loss_Calibrate"] > 0 and tgdd["epoch"] > 0
    capsys.readouterr()
    before = (tmp_path / "rows" / "tgdd-1.json").stat().st_mtime_ns
    tiny(bench, tmp_path, "--only", "tgdd-1")
    assert (tmp_path / "rows" / "tgdd-1.json").stat().st_mtime_ns == before
    table = capsys.readouterr().out
    assert "10, seen as 40" in table and "not the same as plain sets" in table
    assert "Whitened" in table and "test split" in table


@pytest.mark.slow
def test_a_spent_budget_ends_cleanly_and_the_same_call_goes_on(bench, tmp_path):
    a = bench.arguments(["--smoke", "--out", str(tmp_path), "--budget", "1e-9"])
    with pytest.raises(bench.OutOfTime):
        bench.do(bench.Bench(a), "dm-1")
    assert not (tmp_path / "rows").exists() and (tmp_path / "dm-1" / "spent.json").exists()
    tiny(bench, tmp_path, "--only", "dm-1")
    assert row_of(tmp_path, "dm-1")["made"]["seconds"] > 0


@pytest.mark.slow
def test_the_list_has_prices_and_unknown_rows_are_named(bench, tmp_path, capsys):
    tiny(bench, tmp_path, "--list", "--only", "random-1", "tgdd-1")
    out = capsys.readouterr().out
    assert "experts fast" in out and "2 judges" in out and "All that is left" in out
    with pytest.raises(DdnbError, match="'tgdd-11'"):
        tiny(bench, tmp_path, "--only", "tgdd-11")
    with pytest.raises(DdnbError, match="--valid"):
        tiny(bench, tmp_path, "--only", "tuning")
    with pytest.raises(DdnbError, match="--data"):
        bench.main(["--out", str(tmp_path), "--list"])
