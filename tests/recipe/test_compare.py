"Finished runs side by side; the runs are written by hand, so every number is known."

import json
import statistics

import pytest

from ddnb.base.check import DdnbError
from ddnb.recipe import Recipe
from ddnb.recipe.comparing import compare

from .command_line import run


def record(train, accuracy, seeds, **more):
    "What a judge says of a training set."
    n, std = len(accuracy), statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
    told = {"train": train, "net": "ConvNet", "mean": statistics.fmean(accuracy), "std": std}
    place = {"data": "digits", "split": "test", "protocol": "plain", "device": "cpu", "images": 10}
    return told | place | {"n": n, "accuracy": accuracy, "seeds": seeds} | more


def made(folder, accuracy, seconds=5.0, random=0.5, **settings):
    "A finished run."
    recipe = Recipe.of(settings)
    seeds = [1000 * recipe.seed + k for k in range(len(accuracy))]
    sets = [record("distilled", accuracy, seeds), record("random real", [random], seeds[:1])]
    results = {"recipe": recipe.plain(), "results": sets, "seconds": {"distil": seconds}}
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(recipe.flat()))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_only_what_differs_is_a_column(tmp_path):
    a = made(tmp_path / "a", [0.8, 0.9], objective="DM", ipc=1)
    b = made(tmp_path / "b", [0.7, 0.8], objective="DC", ipc=1, seconds=7.0)
    found = compare(a, b)
    assert found.cells() == [
        ["objective", "sets", "ConvNet", "seconds"],
        ["DM", "1", "85.0 ± 7.1", "5"],
        ["DC", "1", "75.0 ± 7.1", "7"],
    ]
    assert "n = 2 networks on one distilled set" in found.caption
    assert found.reference == {"random real": 0.5}


def test_differences_are_paired_over_the_seeds_that_are_shared(tmp_path):
    a = made(tmp_path / "a", [0.80, 0.90, 0.85], objective="DM")
    b = made(tmp_path / "b", [0.70, 0.80, 0.75], objective="DC")
    (sentence,) = compare(a, b).verdicts
    assert sentence == "objective=DM: 10.0 ± 0.0 above objective=DC."
    c = made(tmp_path / "c", [0.70, 0.80, 0.75], objective="DC", seed=1)
    assert compare(a, c).verdicts == []  # judged with other seeds


def test_seeds_are_one_row_and_the_unit_is_the_distilled_set(tmp_path):
    for seed, low in enumerate((0.70, 0.74, 0.78)):
        made(tmp_path / f"a{seed}", [low, low + 0.02], objective="DM", seed=seed)
        made(tmp_path / f"b{seed}", [low - 0.05, low - 0.05], objective="DC", seed=seed)
    found = compare(tmp_path)
    assert [len(row.runs) for row in found.rows] == [3, 3]
    first = found.records[0]
    assert first["accuracy"] == pytest.approx([0.71, 0.75, 0.79]) and first["seeds"] == [
        (0, 0),
        (1, 0),
        (2, 0),
    ]
    assert (first["n"], first["std"]) == (3, pytest.approx(0.04))
    assert "6.0 ± 0.0 above objective=DC" in found.verdicts[0]
    assert "n = 3 distilled sets, each the mean of 2 networks" in found.caption
    assert len(found.to_csv().splitlines()) == 1 + 6


def test_further_distillations_of_a_run_are_sets_of_their_own(tmp_path):
    folders = [made(tmp_path / o, [0.8, 0.9], objective=o) for o in ("DM", "DC")]
    for folder, mean in zip(folders, (0.75, 0.55)):
        told = json.loads((folder / "results.json").read_text())
        more = record("distilled, distillation 2", [mean, mean], [0, 1], of="distilled", repeat=1)
        told["results"].insert(1, more)
        (folder / "results.json").write_text(json.dumps(told))
    found = compare(*folders)
    assert [row.sets for row in found.rows] == [2, 2]
    assert found.records[0]["accuracy"] == pytest.approx([0.85, 0.75])
    assert found.reference == {"random real": 0.5} and len(found.to_csv().splitlines()) == 1 + 4


def test_several_networks_are_columns(tmp_path):
    a, b = (
        made(tmp_path / n, [v], objective=o) for n, v, o in (("a", 0.8, "DM"), ("b", 0.7, "DC"))
    )
    told = json.loads((a / "results.json").read_text())
    told["results"].append(record("distilled", [0.6], [0], net="MLP"))
    (a / "results.json").write_text(json.dumps(told))
    found = compare(a, b)
    assert found.cells()[0] == ["objective", "sets", "ConvNet", "MLP", "seconds"]
    assert found.cells()[2][3] == "" and found.reference == {}


def test_unequal_classes_are_compared_by_balanced_accuracy(tmp_path):
    folders = [made(tmp_path / o, [0.9, 0.9], objective=o) for o in ("DM", "DC")]
    for folder in folders:
        told = json.loads((folder / "results.json").read_text())
        own = told["results"][0]
        told["results"][0] = own | {"balanced": [0.5, 0.6], "confusion": [[180, 0], [20, 0]]}
        (folder / "results.json").write_text(json.dumps(told))
    found = compare(*folders)
    assert found.measure == "balanced" and found.records[0]["mean"] == pytest.approx(0.55)
    assert found.caption.startswith("Balanced accuracy")


def test_names_of_others_cannot_break_a_table(tmp_path):
    a = made(tmp_path / "a", [0.8], data={"source": "<img src=x>|`*"})
    b = made(tmp_path / "b", [0.8], data={"source": "digits"})
    found = compare(a, b)
    assert "<img" not in found.to_markdown() and "<img" not in found._repr_html_()


def test_files_and_picture(tmp_path):
    made(tmp_path / "runs" / "a", [0.8, 0.9], objective="DM")
    made(tmp_path / "runs" / "b", [0.7, 0.8], objective="DC")
    code, out, err = run("compare", tmp_path / "runs", "--out", tmp_path / "out")
    assert code == 0 and "above objective=DC" in out, err
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "runs side by side" in page and "http" not in page
    assert (tmp_path / "out" / "compare.md").read_text().startswith("| objective |")


def test_what_cannot_be_compared_is_one_sentence(tmp_path):
    notes = []
    a = made(tmp_path / "a", [0.8])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "recipe.json").write_text("{}")
    assert len(compare(tmp_path, log=notes.append).rows) == 1
    assert notes == ["1 of 2 runs are not finished and left out."]
    (tmp_path / "empty").mkdir()
    for path, names in {"nowhere": "no folder", "empty": "no run", "b": "no finished run"}.items():
        with pytest.raises(DdnbError, match=names):
            compare(tmp_path / path, log=None)
    (a / "results.json").write_text("[1]")
    code, _, err = run("compare", a)
    assert code == 1 and "results.json" in err and err.count("\n") == 1
    assert run("compare")[0] == 2
