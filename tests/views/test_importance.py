"Numbers on screen are those of the records."

import pytest
import torch

from ddnb import views as V

from .hands import front, importance_of


def test_importance_numbers_follow_the_step():
    v = V.ImportanceExplorer(
        [dict(step=t * 10, loss=0.0, W=importance_of(t)) for t in range(5)],
        weights={0: torch.ones(7)},
    )
    assert v.step == 40 and v.values()["W"]["a"] == pytest.approx(1.4)
    front(v.c_step, value=2)
    assert v.step == 20 and "largest in a (1.2)" in v.summary()
    front(v.c_step, value=0)
    assert "7 weights at step 0" in v.spread.value
    front(v.c_layers, index=[1])
    assert v.lines.value.count("<polyline") == 1
    front(v.c_log, value=True)
    assert "log10" in v.heat.value
