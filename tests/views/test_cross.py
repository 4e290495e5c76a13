"Rows, the best of each network, and results that are still coming."

import time

import pytest

from ddnb import data as D
from ddnb import syn
from ddnb import views as V

from .hands import ROWS, front


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
