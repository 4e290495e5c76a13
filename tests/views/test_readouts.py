"Values under the mouse: every place tells its numbers, the list holds the same, without a script."

import re

import numpy as np
import torch

from ddnb.views import CrossArchitecture, ImportanceExplorer, PruningExplorer, RunMonitor, svg_lines
from ddnb.views.charts import Svg

STEPS = np.arange(1, 201.0)


def told(svg):
    "The lines of every read-out."
    groups = re.findall(r'<g class="ddnb-at">.*?</g></g>', svg)
    return [re.findall(r"<tspan[^>]*>(.*?)</tspan>", g) for g in groups]


def test_a_curve_tells_its_own_values_at_its_own_steps():
    values = 1 / STEPS
    found = told(svg_lines({"loss": (STEPS, values)}, stops=10))
    assert len(found) == 10 and found[0][0] == "step 1" and found[-1][0] == "step 200"
    for step, value in found:
        at = int(step.split()[1])
        assert value == f"loss {values[at - 1]:.4g}"


def test_places_of_a_curve_cover_the_axis_without_a_gap():
    svg = svg_lines({"a": (STEPS, STEPS)}, logy=True)
    places = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    ends = [(float(x), float(x) + float(w)) for x, w in places]
    assert len(ends) == 32
    assert all(abs(b - c) < 0.11 for (_, b), (c, _) in zip(ends, ends[1:]))


def test_the_list_says_what_the_mouse_is_told():
    svg = svg_lines({"a": ([1, 2], [3, 4]), "b": ([2], [5])})
    listed = re.search(r"<pre[^>]*>(.*?)</pre>", svg, re.DOTALL)[1].split("\n")
    assert listed == ["step 1: a 3", "step 2: a 4, b 5"]
    assert [f"{head}: {', '.join(rest)}" for head, *rest in told(svg)] == listed


def test_names_are_escaped_and_nothing_is_a_script():
    svg = svg_lines({"<script>": ([1, 2], [3, 4])})
    assert "<script" not in svg and "&lt;script&gt; 3" in svg
    dots = Svg((0, 1), (0, 1)).dots([0.5], [0.5], words=["<b>"]).html("t")
    assert "<title>&lt;b&gt;</title>" in dots


def test_words_stay_inside_the_chart():
    svg = svg_lines({"a": (STEPS, STEPS)}, w=270)
    for anchor, x in re.findall(r'text-anchor="(start|end)"><tspan x="([\d.]+)"', svg):
        assert float(x) < 175 if anchor == "start" else float(x) > 130


def test_every_view_tells_values(data):
    losses = torch.linspace(0, 1, len(data.train))
    pruning = PruningExplorer(losses, data=data)
    assert f"kept {pruning.counts[0]} of" in pruning.bars.value
    bars = [int(line[1].split()[1]) for line in told(pruning.hist.value)]
    assert sum(bars) == pruning.mask.sum()
    points = re.findall(r"<title>image (\d+): class (\S+), loss", pruning.map.chart.value)
    assert len(points) == len(pruning.map.rows)
    assert all(str(int(data.train.y[int(i)])) == c for i, c in points)
    w = {"mean": 1.5, "std": 0.1, "q05": 1.0, "q50": 1.5, "q95": 2.0, "min": 1.0, "max": 2.0}
    records = [{"step": s, "loss": 1.0, "W": {"first": w, "last": w}} for s in range(1, 300)]
    weights = ImportanceExplorer(records)
    cells = told(weights.heat.value)
    assert len(cells) == 160 and cells[0] == ["step 1, first", "1.5"]
    assert "1, 1.5, 2" in weights.spread.value
    cross = CrossArchitecture([{"train": "ours", "net": "MLP", "mean": 0.5, "std": 0.1, "n": 3}])
    assert "<title>ours, MLP: 0.500 ± 0.100 (n = 3)</title>" in cross.dots.value


def test_a_running_monitor_draws_less_and_lists_at_its_end(monkeypatch):
    monitor = RunMonitor()
    for s in range(1, 101):
        monitor.keep({"step": s, "loss": 1 / s})
    monkeypatch.setattr(RunMonitor, "state", "running")
    monitor.paint()
    assert len(told(monitor.curve.value)) == 12 and "<details" not in monitor.curve.value
    monkeypatch.setattr(RunMonitor, "state", "done")
    monitor.paint()
    assert len(told(monitor.curve.value)) == 32 and "<details" in monitor.curve.value
