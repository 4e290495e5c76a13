"""The attacks that once succeeded, each a line: what happened then, what is said now.

`python tests/test_attack.py` prints the table.
"""

import io
import json
import os
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddnb.base.check import DdnbError
from ddnb.base.checkpoint import Log
from ddnb.base.files import load_tensors, save_tensors
from ddnb.base.forms import from_yaml, read_json
from ddnb.data import Norm, load
from ddnb.data.dicom import patient_of
from ddnb.judge import Results
from ddnb.latent import load_prior
from ddnb.recipe import Recipe
from ddnb.recipe.command import main
from ddnb.recipe.comparing import Finished
from ddnb.recipe.folders import identity_in
from ddnb.recipe.plan import recipes_of
from ddnb.recipe.saving import curve_in_words
from ddnb.share import Distilled, card, load_classifier, read, save, to_markdown
from ddnb.share import load as load_set
from ddnb.trajectory import Experts

MARKUP = "<img src=x onerror=alert(1)>|*b*\n# head `c` [d](e)"


def pets(folder):
    "Two classes of small pictures."
    for c in ("cat", "dog"):
        for i in range(10):
            (folder / c).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 20 * i).save(folder / c / f"{i}.png")
    return folder


def a_set(**story):
    y = torch.arange(3).repeat_interleave(2)
    x = torch.linspace(-1, 1, 6 * 64).view(6, 1, 8, 8)
    return Distilled(x, y, ["a", "b", "c"], Norm([0.4], [0.3]), 0.1, card() | story)


def forged(folder, tensors=None, **story):
    "A set with a valid checksum whose card says something else."
    file = save(a_set(), folder / "set") / "distilled.safetensors"
    (folder / "set" / "card.json").unlink()
    held, told = load_tensors(file)
    save_tensors(file, held | (tensors or {}), told | story)
    return folder / "set"


def said(*argv):
    "Exit status and what the command printed on stderr."
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(a) for a in argv])
    return code, err.getvalue()


def pipe(d):
    os.mkfifo(pets(d / "p") / "cat" / "x.png")
    return load(d / "p")


def only_pipes(d):
    (pets(d / "p") / "eel").mkdir()
    os.mkfifo(d / "p" / "eel" / "x")
    return load(d / "p")


def scan_pipe(d):
    os.mkfifo(d / "x.dcm")
    return patient_of(d / "x.dcm")


def latin(d):
    os.mkdir(os.fsencode(pets(d / "p")) + b"/caf\xe9")
    return load(d / "p")


def deep(d):
    path, home = pets(d / "p") / "cat", os.getcwd()
    os.chdir(path)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(home)
    try:
        return load(d / "p")
    finally:
        subprocess.run(["rm", "-rf", path], check=True)


def pt(d, **files):
    for name, v in files.items():
        torch.save(v, d / f"{name}_best.pt")
    return read(d)


def identity(d):
    (d / "recipe.json").write_text("[1, 2]")
    return identity_in(d)


def link_to_itself(d):
    (pets(d / "p") / "cat" / "again").symlink_to(d / "p")
    return load(d / "p")


def prior(d):
    return load_prior("typo-of-a-prior")


def yaml_bomb(d):
    return from_yaml("a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]")


def cell(d):
    (d / "network-0.json").write_text("[1, 2]")
    return read_json(d / "network-0.json")


def expert(d):
    save_tensors(d / "expert_0000.safetensors", {"theta": torch.ones(2, 3)}, {"rows": 2})
    return Experts(d).fingerprint


def model(d):
    told = {"kind": "classifier", "classes": None, "network": {"size": 8}}
    return load_classifier(save_tensors(d / "m.safetensors", {"net.w": torch.ones(2)}, told))


def results_of_nobody(d):
    (d / "results.json").write_text('{"recipe": {"seed": 0}, "seconds": {}, "results": [[1]]}')
    return Finished.of(d)


def ragged(d):
    row = {"train": "a", "net": "b", "images": 1, "n": 1, "mean": 0.5, "std": 0.0}
    row |= {"accuracy": [0.5], "seeds": [0], "split": "test", "data": "c", "protocol": "plain"}
    table = [row | {"device": "cpu", "confusion": [[1, 2], [3]]}]
    return Results.from_json(json.dumps({"results": table}))


def endless_sweep(d):
    return recipes_of(Recipe(), {k: list(range(1, 99)) for k in ("seed", "ipc", "steps")})


X = torch.ones(4, 1, 4, 4)
WIDE = torch.zeros(1).expand(4, 1, 40_000, 40_000)
REFUSED = {  # what: (how, what happened before, what the sentence names now)
    "named pipe x.png in a class": (pipe, "hangs for ever", "is a pipe"),
    "named pipe alone in a class": (only_pipes, "hangs for ever", "'eel' has no image"),
    "named pipe x.dcm": (scan_pipe, "hangs for ever", "is a pipe"),
    "class name in Latin-1": (latin, "fails after four stages", "not UTF-8"),
    "1,500 nested folders": (deep, "RecursionError", "32 folders deep"),
    "link to the folder itself": (link_to_itself, "a sentence", "leads back"),
    "recipe.json is a list": (identity, "AttributeError", "not a run of ddnb"),
    "judged cell is a list": (cell, "AttributeError", "no dict"),
    "an expert without checksums": (expert, "KeyError", "recipe"),
    "a classifier without classes": (model, "TypeError", "classes"),
    "results that are no records": (results_of_nobody, "TypeError", r"results\[0\]"),
    "a ragged confusion table": (ragged, "ValueError", "no square table"),
    "a sweep of a million runs": (endless_sweep, "builds them all", "941,192 runs"),
    "label 387,420,489": (
        lambda d: pt(d, images=X, labels=torch.full((4,), 387_420_489)),
        "as many class names",
        "at most 100,000 classes",
    ),
    "expanded tensor of stride 0": (
        lambda d: pt(d, images=WIDE, labels=torch.arange(4)),
        "asks for 25.6 GB",
        "was not read",
    ),
    "a list of expanded tensors": (
        lambda d: pt(d, images=[WIDE[0]] * 9, labels=torch.arange(9)),
        "asks for 58 GB",
        "was not read",
    ),
    "sparse labels": (
        lambda d: pt(d, images=X, labels=torch.eye(4).to_sparse()),
        "NotImplementedError",
        "sparse_coo",
    ),
    "complex labels": (
        lambda d: pt(d, images=X, labels=torch.zeros(4, dtype=torch.complex64)),
        "RuntimeError",
        "complex64",
    ),
    "meta labels": (
        lambda d: pt(d, images=X, labels=torch.zeros(4, device="meta")),
        "NotImplementedError",
        "tensor|could run code",
    ),
    "quantised images": (
        lambda d: pt(d, images=torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)),
        "RuntimeError",
        "qint8|could run code",
    ),
    "lr of 400 digits": (
        lambda d: pt(d, images=X, labels=torch.arange(4), lr=10**400),
        "OverflowError",
        "single number|could run code",
    ),
    "card: data is 5": (lambda d: load_set(forged(d, data=5)), "AttributeError", "data is 5"),
    "card: pruning is 3": (lambda d: load_set(forged(d, pruning=3)), "AttributeError", "pruning"),
    "card: network is text": (lambda d: load_set(forged(d, network="x")), "TypeError", "network"),
    "card: metrics is text": (lambda d: load_set(forged(d, metrics="xx")), "TypeError", "metrics"),
    "card: metrics holds 1": (lambda d: load_set(forged(d, metrics=[1])), "TypeError", "metrics"),
    "card: half a character": (
        lambda d: load_set(forged(d, data={"name": "\ud800"})),
        "UnicodeEncodeError",
        "half a character",
    ),
    "statistics with zca_W alone": (
        lambda d: load_set(forged(d, {"norm.zca_W": torch.eye(64)})),
        "KeyError",
        "not a complete distilled set",
    ),
    "a recipe of aliases": (yaml_bomb, "gigabytes when printed", "alias"),
    "cifar10 that is not there": (
        lambda d: load("cifar10", root=d),
        "unpickled, downloaded unasked",
        "download=True",
    ),
    "mnist that is not there": (
        lambda d: load("mnist", root=d),
        "downloaded unasked",
        "download=True",
    ),
    "a prior's name misspelt": (prior, "asks the hub", "hub:ID"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_once_broke_is_one_sentence(what, tmp_path):
    how, _, names = REFUSED[what]
    errors = (DdnbError,) if what != "a recipe of aliases" else Exception
    with pytest.raises(errors, match=names) as e:
        how(tmp_path)
    assert "\n" not in str(e.value)


def test_half_a_character_on_a_command_line_can_be_said():
    code, err = said("demo", "=caf\udce9")
    assert code == 2 and err.count("\n") == 1 and err.encode()


def test_show_of_a_deep_folder_is_a_sentence(tmp_path):
    code, err = said("show", "/proc")
    assert code == 1 and err.count("\n") == 1


@pytest.mark.parametrize("content", ["", '{"run": "another"}\n{"step": 1, "loss": 1}\n', "[1]\n"])
def test_an_empty_or_foreign_log_is_said_to_be_lost(content, tmp_path):
    (tmp_path / "records.jsonl").write_text(content)
    with pytest.warns(UserWarning, match="records.jsonl"):
        history = Log(tmp_path / "records.jsonl", "ours").cut(3)
    assert curve_in_words(history) == "The log of the steps is lost"


def test_markup_in_names_stays_text(tmp_path):
    d = a_set(data={"name": MARKUP}, network={"name": MARKUP}, objective=MARKUP)
    d.classes = [MARKUP, "b|", r"\input{x}"]
    text = to_markdown(d)
    assert "<img" not in text and "\n# head" not in text and "`c`" not in text.replace(r"\`", "")
    row = {"train": MARKUP, "net": r"\input{y}$", "images": 1, "n": 1, "mean": 0.5, "std": 0.0}
    row |= {"accuracy": [0.5], "balanced": [0.5], "seeds": [0], "split": "test", "data": MARKUP}
    row |= {"protocol": MARKUP, "device": "cpu", "counts": [1], "classes": ["a"]}
    results = Results([row])
    assert "<img" not in results.to_markdown() and "<img" not in results._repr_html_()
    latex = results.to_latex()
    assert r"\input" not in latex and r"\textbackslash{}input" in latex
    assert "\n# head" not in latex


def test_no_name_of_a_set_reaches_a_file_or_page_raw():
    "Names go through one escape each, wherever a room writes Markdown, LaTeX, HTML or files."
    from ddnb.judge.tables import for_latex, for_markdown, one_line
    from ddnb.share.names import safe_name

    assert "\n" not in one_line(MARKUP)
    assert for_markdown("<b>|") == r"&lt;b&gt;\|" and for_latex("a_{b}") == r"a\_\{b\}"
    assert "/" not in safe_name("../../x") and not safe_name("../../x").startswith(".")


def table():
    "The table of the attack, before and after."
    import tempfile

    rows = ["| attack | before | now |", "|---|---|---|"]
    for what, (how, before, _) in REFUSED.items():
        with tempfile.TemporaryDirectory() as d, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                how(Path(d))
                now = "taken"
            except Exception as e:
                now = str(e).replace(d, "...")
        rows.append(f"| {what} | {before} | {now} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
    sys.exit()
