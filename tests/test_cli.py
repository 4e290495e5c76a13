"The command as people use it: a tiny demo from end to end, equal bytes, resumption, and sentences for everything that can be wrong."

import contextlib, io, itertools, json, os, re, shutil, signal, socket, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddnb import artifact, cli

ROOT = Path(__file__).parent.parent
TINY = [
    "--steps",
    "3",
    "--experts",
    "1",
    "--nets",
    "1",
    "--width",
    "4",
    "--size",
    "8",
    "--device",
    "cpu",
]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*argv):
    "Exit status, stdout and stderr of the command, in this process."
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(a) for a in argv])
    return code, out.getvalue(), err.getvalue()


def pictures(folder, classes=("no", "yes", "may-be"), n=16):
    "A folder of small pictures: each class has its own dark row, and sizes and modes differ."
    g = np.random.default_rng(0)
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            a = g.integers(100, 255, (8 + i % 3, 8)).astype("uint8")
            a[2 * c : 2 * c + 2] //= 8
            Image.fromarray(a).convert(("L", "RGB", "P")[i % 3]).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    "A folder with pictures and one finished demo; the network is out of reach."
    box = tmp_path_factory.mktemp("box")
    pictures(box / "pets")

    def refuse(*a, **kw):
        raise AssertionError("the demo touched the network")

    with pytest.MonkeyPatch.context() as m:
        for name in ("connect", "connect_ex", "bind"):
            m.setattr(socket.socket, name, refuse)
        code, out, err = run("demo", "--data", box / "pets", "--out", box / "one", *TINY)
    assert code == 0, err
    (box / "said.txt").write_text(out)
    return box


@pytest.fixture(autouse=True)
def signals():
    "Signal handlers stay as they were, whatever a test does."
    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for s, h in old.items():
        signal.signal(s, h)


# ---- the demo


def test_the_demo_tells_its_story_and_leaves_everything(box):
    said = (box / "said.txt").read_text()
    for word in (
        "1 Prune",
        "KEPT",
        "2 Record",
        "3 Distil",
        "4 Judge",
        "distilled by IADD",
        "random real",
        "class mean",
        "real, all",
        "Done; ",
    ):
        assert word in said, word
    assert "\r" not in said
    names = {p.name for p in (box / "one").iterdir()}
    assert {
        "distilled.safetensors",
        "card.json",
        "distilled.png",
        "curves.png",
        "results.json",
        "results.md",
        "settings.yaml",
    } <= names
    r = json.loads((box / "one" / "results.json").read_text())
    assert [m["n"] for m in r["results"]] == [1] * 5 and {m["split"] for m in r["results"]} == {
        "test"
    }
    assert all(Image.open(box / "one" / f).size[0] > 50 for f in ("distilled.png", "curves.png"))


def test_the_card_says_everything_needed(box):
    d = artifact.load(box / "one")
    c = d.card
    assert d.classes == ["may-be", "no", "yes"] and d.x.shape == (3, 3, 8, 8) and d.alpha > 0
    assert (
        c["seed"] == 0
        and c["objective"] == "IADD"
        and c["network"]["name"] == "ConvNet"
        and c["hyper"]["steps"] == 3
    )
    assert (
        c["pruning"]["kept"] < c["data"]["train"]
        and c["w"]["mean"] == pytest.approx(1, abs=1e-4)
        and "ask their owner" in c["licence"]
    )
    assert {"ddnb", "torch", "python"} <= set(c["versions"]) and [
        m["split"] for m in c["metrics"]
    ] == ["test"] * 5
    assert str(box) not in json.dumps(c)  # what is handed on does not tell where it was made


def test_one_seed_one_set(box):
    same = lambda f: (box / f / "distilled.safetensors").read_bytes()
    assert run("demo", "--data", box / "pets", "--out", box / "two", *TINY)[0] == 0
    assert run("demo", "--data", box / "pets", "--out", box / "three", *TINY, "--seed", "1")[0] == 0
    assert same("one") == same("two") != same("three")
    assert not torch.equal(artifact.load(box / "one").x, artifact.load(box / "three").x)


def test_forecasts_tell_and_change_nothing(box, tmp_path, monkeypatch):
    said = (box / "said.txt").read_text()
    for text in (
        "Scoring 33 images takes about ",
        "Recording 1 of 1 experts: ",
        " a step), ",
        "Training and judging 5 networks takes about ",
    ):
        assert text in said, said
    monkeypatch.setattr(cli, "_ahead", None)
    code, out, _ = run("demo", "--data", box / "pets", "--out", tmp_path / "o", *TINY)
    assert code == 0 and "takes about" not in out
    assert (tmp_path / "o" / "distilled.safetensors").read_bytes() == (
        box / "one" / "distilled.safetensors"
    ).read_bytes()
    rows = lambda f: [
        (r["train"], r["accuracy"], r["loss"])
        for r in json.loads((f / "results.json").read_text())["results"]
    ]
    assert rows(tmp_path / "o") == rows(box / "one")


def test_a_finished_run_is_not_repeated(box):
    before = {
        p: (p.stat().st_mtime_ns, p.read_bytes())
        for p in (box / "one").rglob("*")
        if p.is_file() and p.name != ".lock"
    }
    code, out, _ = run("demo", "--data", box / "pets", "--out", box / "one", *TINY)
    assert code == 0 and "already holds this very run" in out and "| class mean" in out
    assert before == {
        p: (p.stat().st_mtime_ns, p.read_bytes())
        for p in (box / "one").rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def test_another_run_spoils_nothing(box, monkeypatch, tmp_path):
    code, _, err = run("demo", "--data", box / "pets", "--out", box / "one", *TINY, "--ipc", "2")
    assert code == 1 and "ipc 1 instead of 2" in err and "--overwrite" in err
    monkeypatch.chdir(tmp_path)
    shutil.copytree(box / "one", "runs/demo")
    Path("runs/demo/mine.txt").write_text("mine")
    old = Path("runs/demo/distilled.safetensors").read_bytes()
    recipe = json.loads(Path("runs/demo/recipe.json").read_text())
    assert cli.place(None, recipe) == Path("runs/demo") and cli.place(
        None, recipe | {"seed": 9}
    ) == Path("runs/demo-2")
    assert cli.place("runs/demo", recipe | {"seed": 9}, overwrite=True) == Path("runs/demo")
    assert old and [p.name for p in Path("runs/demo").iterdir() if p.name != ".lock"] == [
        "mine.txt"
    ]


def test_settings_come_from_a_file(box):
    code, out, err = run("demo", "--config", box / "one" / "settings.yaml", "--out", box / "one")
    assert code == 0 and "already holds this very run" in out, err


def stopped(folder, module, name, at, sig, *argv):
    "The command in a process of its own, which gets a signal at the `at`-th call of a function: exit status, stdout, stderr."
    import importlib

    if (pid := os.fork()) == 0:
        m, n, code = importlib.import_module(module), itertools.count(1), 99
        f = getattr(m, name)

        def hit(*a, **kw):
            if next(n) == at:
                os.kill(os.getpid(), sig)
            return f(*a, **kw)

        setattr(m, name, hit)
        try:
            with (
                open(folder / "out", "w") as o,
                open(folder / "err", "w") as e,
                contextlib.redirect_stdout(o),
                contextlib.redirect_stderr(e),
            ):
                code = cli.main([str(a) for a in argv])
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, (folder / "out").read_text(), (folder / "err").read_text()


def counted(monkeypatch, module, name):
    "The list that grows with every call of a function."
    import importlib

    m, calls = importlib.import_module(module), []
    f = getattr(m, name)
    monkeypatch.setattr(m, name, lambda *a, **kw: calls.append(1) or f(*a, **kw))
    return calls


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_stopped_in_every_stage_and_resumed_equals_undisturbed(box, tmp_path, monkeypatch):
    "Ctrl-C, SIGTERM and SIGUSR1: one sentence, their exit status, and the same command ends with the same bytes and repeats nothing."
    args = ["demo", "--data", box / "pets", *TINY]
    args[args.index("--steps") + 1], args[args.index("--experts") + 1] = "20", "3"
    for module, name, at, sig, stage in (
        ("ddnb.prune.scoring", "_Scorer", 2, signal.SIGINT, 1),
        ("ddnb.experts", "_one", 3, signal.SIGTERM, 2),
        ("ddnb.distil.loop", "_step", 5, signal.SIGUSR1, 3),
        ("ddnb.evaluate", "_cell", 3, signal.SIGINT, 4),
    ):
        code, out, err = stopped(tmp_path, module, name, at, sig, *args, "--out", tmp_path / "a")
        assert (
            code == (130 if sig == signal.SIGINT else 75)
            and f"\n{stage} " in out
            and f"\n{stage + 1} " not in out
        ), (code, out, err)
        assert re.fullmatch(
            r"ddnb: (Interrupted|SIGTERM|SIGUSR1): .*stopped.*(kept|saved).*the same command goes on from there\.\n",
            err,
        ), err
    assert not (tmp_path / "a" / "results.json").exists() and not list(
        (tmp_path / "a").rglob(".*.tmp")
    )
    nets, made, steps, cells = (
        counted(monkeypatch, *f)
        for f in (
            ("ddnb.prune.scoring", "_Scorer"),
            ("ddnb.experts", "_one"),
            ("ddnb.distil.loop", "_step"),
            ("ddnb.evaluate", "_cell"),
        )
    )
    assert run(*args, "--out", tmp_path / "a")[0] == 0
    assert [len(c) for c in (nets, made, steps, cells)] == [0, 0, 0, 3], (
        "scores, experts, steps and two rows were there"
    )
    assert run(*args, "--out", tmp_path / "b")[0] == 0
    assert [len(c) for c in (nets, made, steps, cells)] == [2, 3, 20, 8]
    assert (tmp_path / "a" / "distilled.safetensors").read_bytes() == (
        tmp_path / "b" / "distilled.safetensors"
    ).read_bytes()
    rows = lambda f: [
        (r["train"], r["accuracy"])
        for r in json.loads((tmp_path / f / "results.json").read_text())["results"]
    ]
    assert rows("a") == rows("b")


def test_what_a_demo_leaves_can_be_cleared_away(box, tmp_path):
    shutil.copytree(box / "one", tmp_path / "o")
    (tmp_path / "o" / "scored" / "scores-1.part").write_text("of an interrupted scoring")
    cli._clear(tmp_path / "o")
    assert [p.name for p in (tmp_path / "o").rglob("*") if p.name != ".lock"] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_stopped_evaluation_goes_on(box, tmp_path, monkeypatch):
    "The network that was judged is not judged again; when all are there nothing is left behind, unless a folder was asked for."
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    args = ["evaluate", box / "one", "--data", box / "pets", "--nets", "MLP,LeNet", "--seeds", "1"]
    code, out, err = stopped(tmp_path, "ddnb.evaluate", "_cell", 2, signal.SIGUSR1, *args)
    assert (
        code == 75
        and err.endswith("the same command goes on from there.\n")
        and len(list(tmp_path.rglob("cell-*.json"))) == 1
    )
    cells = counted(monkeypatch, "ddnb.evaluate", "_cell")
    code, out, _ = run(*args)
    assert code == 0 and len(cells) == 1 and not list(here.iterdir())
    assert (
        run(*args, "--out", tmp_path / "rows")[1] == out
        and len(cells) == 3
        and len(list((tmp_path / "rows").glob("cell-*"))) == 2
    )
    assert run(*args, "--out", tmp_path / "rows")[1] == out and len(cells) == 3


# ---- distilled sets on the command line


def test_show_evaluate_export(box, tmp_path):
    code, out, _ = run("show", box / "one", "--png", tmp_path / "sheet.png")
    assert (
        code == 0
        and "Classes in label order" in out
        and Image.open(tmp_path / "sheet.png").size[0] > 50
    )
    code, out, _ = run("evaluate", box / "one", "--seeds", "2")  # finds its data by itself
    assert code == 0 and re.search(r"this set +3 +\d+\.\d ± \d", out)
    code, two, _ = run("evaluate", box / "one", "--seeds", "2", "--data", box / "pets")
    assert two == out
    assert (
        run("evaluate", box / "one", "--seeds", "2", "--aug", "none")[1] == out
    )  # the plain protocol has none
    assert (
        run(
            "evaluate", box / "one", "--seeds", "2", "--aug", "randaug", "--out", tmp_path / "rand"
        )[0]
        == 0
    )
    assert (
        json.loads(next((tmp_path / "rand").glob("cell-*")).read_text())["recipe"]["aug"]["name"]
        == "randaug"
    )
    for form in artifact.EXPORTS:
        assert run("export", box / "one", "--to", form, "--out", tmp_path / form)[0] == 0
        assert len(artifact.read(tmp_path / form)) == 3
        assert (
            run(
                "evaluate",
                tmp_path / form,
                "--data",
                box / "pets",
                "--seeds",
                "1",
                "--split",
                "valid",
            )[0]
            == 0
        )


def test_export_writes_both_accuracies(box, tmp_path):
    assert (
        run("export", box / "one", "--to", "imagefolder", "--out", tmp_path / "x", "--score")[0]
        == 0
    )
    m = json.loads((tmp_path / "x" / "ddnb.json").read_text())["metrics"]
    assert len(m) > 2, "the rows of the demo stay"
    m = m[-2:]
    assert [i["set"] for i in m] == ["exact", "as exported"] and all(
        0 <= i["mean"] <= 1 and i["n"] == 5 for i in m
    )


# ---- what can be wrong: the command line, what the message must hold, the exit status


def harm(box, name):
    "A folder of pictures with something wrong, or another bad path."
    p = box / "bad" / name
    if p.exists():
        return p
    if name in ("corrupt", "truncated", "single", "hollow"):
        pictures(p)
    else:
        (box / "bad").mkdir(exist_ok=True)
    if name == "empty":
        p.mkdir()
    if name == "corrupt":
        (p / "no" / "5.png").write_bytes(b"not a picture")
    if name == "truncated":
        (p / "yes" / "5.png").write_bytes((p / "yes" / "5.png").read_bytes()[:60])
    if name == "single":
        (p / "one").mkdir()
        Image.new("L", (8, 8)).save(p / "one" / "0.png")
    if name == "hollow":
        (p / "none").mkdir()
    if name == "file":
        p.write_text("mine")
    if name == "foreign":
        p.mkdir()
        (p / "thesis.txt").write_text("mine")
    if name == "changed":
        shutil.copytree(box / "one", p)
        b = bytearray((p / "distilled.safetensors").read_bytes())
        b[-1] ^= 1
        (p / "distilled.safetensors").write_bytes(bytes(b))
    if name == "config.yaml":
        p.write_text("ipc: many\n")
    if name == "odd.yaml":
        p.write_text("ipq: 3\n")
    if name == "tangled.yaml":
        p.write_text("{: [")
    return p


BAD = {
    "unknown command": ("dmeo", "Did you mean 'demo'", 2),
    "unknown option": ("demo --ipq 3", "Did you mean '--ipc'", 2),
    "stray word": ("demo digits", "no option digits", 2),
    "option without value": ("demo --ipc", "needs a value", 2),
    "word for a number": ("demo --ipc many", "expected a whole number", 2),
    "fraction for a whole number": ("demo --steps 1.5", "expected a whole number", 2),
    "word for a share": ("demo --keep half", "expected a number", 2),
    "missing path": ("show", "needs PATH", 2),
    "missing format": ("export x", "needs --to", 2),
    "no ipc": ("demo --ipc 0", "--ipc is 0", 1),
    "negative ipc": ("demo --ipc -2", "--ipc is -2", 1),
    "huge ipc": ("demo --data {box}/pets --size 8 --ipc 500", "fewer|needed|has", 1),
    "keep nothing": ("demo --keep 0", "--keep is 0", 1),
    "keep too much": ("demo --keep 1.5", "--keep is 1.5", 1),
    "keep nan": ("demo --keep nan", "--keep is nan", 1),
    "no steps": ("demo --steps 0", "--steps is 0", 1),
    "no experts": ("demo --experts 0", "--experts is 0", 1),
    "no nets": ("demo --nets 0", "--nets is 0", 1),
    "no width": ("demo --width 0", "--width is 0", 1),
    "negative seed": ("demo --seed -1", "--seed is -1", 1),
    "unknown device": ("demo --device gpu", "no device 'gpu'", 1),
    "unknown data": ("demo --data digit", "digits", 1),
    "data nowhere": ("demo --data ./nowhere", "nowhere", 1),
    "empty data": ("demo --data {bad:empty}", "empty|no ", 1),
    "a class with one image": ("demo --data {bad:single} --size 8", "'one'|one/|class one", 1),
    "a class without images": ("demo --data {bad:hollow} --size 8", "none", 1),
    "corrupt image": ("demo --data {bad:corrupt} --size 8", "5.png", 1),
    "truncated image": ("demo --data {bad:truncated} --size 8", "5.png", 1),
    "a size no network takes": ("demo --size 2", "--size is 2, expected a whole number from 4", 1),
    "config without options": ("demo --config {bad:file}", "holds no options", 2),
    "config is a folder": ("demo --config {bad:empty}", "Is a directory", 2),
    "config with an unknown option": (
        "demo --config {bad:odd.yaml}",
        "option 'ipq'.*Did you mean 'ipc'",
        2,
    ),
    "a value for a switch": ("demo --overwrite=yes", "takes no value", 2),
    "show a folder of runs": (
        "show {box}",
        r"holds \d+ distilled sets? .*give one of them, e.g. .*one",
        1,
    ),
    "judge on what it was made from": (
        "evaluate {box}/one --split train",
        "expected test or valid",
        1,
    ),
    "judge at a size no network takes": ("evaluate {box}/one --size 2", "--size is 2", 1),
    "no size": ("demo --data {box}/pets --size 0", "size", 1),
    "data is a text file": ("demo --data {bad:file}", "file", 1),
    "out is a file": ("demo --data {box}/pets --size 8 --out {bad:file}", "is a file", 1),
    "out inside a file": ("demo --data {box}/pets --size 8 --out {bad:file}/x", "file", 1),
    "out is somebody's": (
        "demo --data {box}/pets --size 8 --out {bad:foreign}",
        "not a ddnb demo",
        1,
    ),
    "bad config": ("demo --config {bad:config.yaml}", "many", 2),
    "tangled config": ("demo --config {bad:tangled.yaml}", "tangled.yaml|config", 2),
    "config nowhere": ("demo --config nowhere.yaml", "nowhere.yaml", 2),
    "show nothing": ("show nowhere", "nothing at nowhere", 1),
    "show a text": ("show {bad:file}", "not a file that ddnb wrote", 1),
    "show an altered set": ("show {bad:changed}", "altered", 1),
    "show over a file": ("show {box}/one --png {bad:file}", "exists already", 1),
    "evaluate on other data": ("evaluate {box}/one --data digits", "classes", 1),
    "evaluate at another size": ("evaluate {box}/one --data {box}/pets --size 12", "12, 12", 1),
    "evaluate on no split": ("evaluate {box}/one --split tests", "Did you mean 'test'", 1),
    "evaluate with no net": ("evaluate {box}/one --nets ConvNot", "Did you mean 'ConvNet'", 1),
    "evaluate by no protocol": ("evaluate {box}/one --protocol mt", "Did you mean 'mtt'", 1),
    "evaluate under no augmentation": (
        "evaluate {box}/one --aug randaugg",
        "Did you mean 'randaug'",
        1,
    ),
    "evaluate with no seeds": ("evaluate {box}/one --seeds 0", "--seeds is 0", 1),
    "unknown format": ("export {box}/one --to parkett", "Did you mean 'parquet'", 1),
    "export over something": ("export {box}/one --to mtt --out {bad:foreign}", "not empty", 1),
    "export inside a file": ("export {box}/one --to mtt --out {bad:file}/x", "Cannot write", 1),
    "unknown tutorial": ("lab nothing-like-it", "no tutorial", 1),
    "port beyond the last": ("lab {tutorial} --to t --port 70000", "port", 1),
    "tutorials into a file": ("lab {tutorial} --to {bad:file}", "Cannot write", 1),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence(box, name, tmp_path, monkeypatch):
    line, says, status = BAD[name]
    line = (
        re.sub(r"\{bad:([\w.]+)\}", lambda m: str(harm(box, m[1])), line)
        .replace("{box}", str(box))
        .replace("{tutorial}", next(cli._tutorials().glob("*.ipynb")).stem)
    )
    monkeypatch.chdir(tmp_path)
    files = lambda: {p: p.read_bytes() for p in box.rglob("*") if p.is_file()}
    before = files()
    code, out, err = run(*line.split())
    assert code == status and re.search(says, err), (code, err)
    assert (
        err.startswith("ddnb: ")
        and err.count("\n") == 1
        and "Traceback" not in err + out
        and len(err) < 500 + 2 * len(str(box))
    ), err
    assert files() == before and not any(
        p.is_file() and p.name != ".lock" for p in tmp_path.rglob("*")
    )


def test_a_folder_without_permission(box, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = run("demo", "--data", box / "pets", *TINY, "--out", tmp_path / "locked" / "x")
    assert code == 1 and "Cannot write" in err


def test_a_bug_is_a_sentence_too(monkeypatch):
    def broken(path):
        raise KeyError("oops")

    monkeypatch.setitem(cli.COMMANDS, "show", broken)
    code, _, err = run("show", "x")
    assert code == 70 and "KeyError" in err and err.count("\n") == 1
    monkeypatch.setenv("DDNB_DEBUG", "1")
    with pytest.raises(KeyError):
        run("show", "x")


def test_interrupted_is_130(monkeypatch):
    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "show", stop)
    code, _, err = run("show", "x")
    assert (
        code == 130
        and err
        == "ddnb: Interrupted: stopped; what is finished is kept, and the same command goes on from there.\n"
    )


def test_the_command_puts_signal_handlers_back():
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(s) for s in names]
    run("show", "nowhere")
    assert [signal.getsignal(s) for s in names] == before


# ---- the command itself


def test_help_is_complete_and_light():
    code = "import sys; from ddnb.cli import main\ntry: main(['demo', '--help'])\nexcept SystemExit: pass\nprint('HEAVY', *[m for m in ('torch', 'numpy', 'matplotlib', 'sklearn', 'diffusers', 'PIL') if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.rstrip().endswith("HEAVY")
    import inspect

    for k in inspect.signature(cli.demo).parameters:
        assert f"--{k} " in out, k
    t = min(
        _seconds([sys.executable, "-c", "from ddnb.cli import main; main([])"]) for _ in range(3)
    )
    assert t < 1.5


def _seconds(args):
    t = time.perf_counter()
    subprocess.run(args, capture_output=True, check=True)
    return time.perf_counter() - t


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_option_is_explained(name):
    import inspect

    said = cli._comments(cli.COMMANDS[name])
    assert all(said.get(k) for k in inspect.signature(cli.COMMANDS[name]).parameters)


def test_the_installed_command():
    exe = Path(sys.executable).parent / "ddnb"
    if not exe.exists():
        pytest.skip("ddnb is not installed as a command here")
    from ddnb import __version__

    assert (
        __version__
        in subprocess.run([exe, "--version"], capture_output=True, text=True, check=True).stdout
    )
    assert subprocess.run([exe, "demo", "--ipq", "1"], capture_output=True).returncode == 2


# ---- tutorials and JupyterLab


def test_tutorials_are_copied_but_never_over(tmp_path):
    names = sorted(p.name for p in cli._tutorials().glob("*.ipynb"))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / names[0]).write_text("my work")
    assert (
        cli.copy_tutorials(tmp_path / "t") == names[1:]
        and (tmp_path / "t" / names[0]).read_text() == "my work"
    )
    assert cli.copy_tutorials(tmp_path / "t") == []


def test_the_build_carries_the_tutorials(tmp_path):
    pytest.importorskip("setuptools")
    src = tmp_path / "src"
    src.mkdir()
    for f in ("settings.ini", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / f, src)
    for f in ("ddnb", "nbs"):
        shutil.copytree(ROOT / f, src / f, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")],
        cwd=src,
        check=True,
        capture_output=True,
    )
    want = {p.name: p.read_bytes() for p in (ROOT / "nbs" / "tutorials").glob("*.ipynb")}
    assert {
        p.name: p.read_bytes() for p in (tmp_path / "lib" / "ddnb" / "tutorials").glob("*.ipynb")
    } == want


def test_lab_answers_this_computer_with_a_token_only(tmp_path):
    pytest.importorskip("jupyterlab")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    dirs = {f"JUPYTER_{k}_DIR": str(tmp_path / k) for k in ("CONFIG", "RUNTIME", "DATA")} | {
        f"JUPYTERLAB_{k}_DIR": str(tmp_path / k) for k in ("SETTINGS", "WORKSPACES")
    }
    name = next(cli._tutorials().glob("*.ipynb")).stem
    args = [
        sys.executable,
        "-c",
        "import sys; from ddnb.cli import main; sys.exit(main())",
        "lab",
        name,
        "--to",
        str(tmp_path / "t"),
        "--browser",
        "false",
        "--port",
        str(port),
    ]
    with open(tmp_path / "log", "w") as log:
        p = subprocess.Popen(args, env={**ENV, **dirs}, stdout=log, stderr=log)
    try:
        _check_lab(p, tmp_path / "log", port)
    finally:
        p.terminate()
        p.wait(20)
    assert (tmp_path / "t" / f"{name}.ipynb").exists()


def _check_lab(p, log, port):
    t0 = time.time()
    url = None
    while not url and time.time() - t0 < 90 and p.poll() is None:
        time.sleep(0.2)
        url = "is running at" in log.read_text() and re.search(
            r"(http://127\.0\.0\.1:\d+/\S*[?&]token=([0-9a-f]{48}))", log.read_text()
        )
    assert url, log.read_text()[-2000:]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as e:
        opener.open(f"http://127.0.0.1:{port}/api/contents", timeout=10)
    assert e.value.code == 403
    assert (
        opener.open(f"http://127.0.0.1:{port}/api/contents?token={url[2]}", timeout=10).status
        == 200
    )


# ---- what a careless person does next


def test_overwrite_spares_files_of_others(box, tmp_path):
    shutil.copytree(box / "one", tmp_path / "o")
    mine = [
        tmp_path / "o" / p
        for p in (
            "notes.txt",
            "experts/notes.md",
            "experts/expert_mine.safetensors",
            "run/mine.txt",
        )
    ]
    for p in mine:
        p.write_text("mine")
    assert (
        run(
            "demo",
            "--data",
            box / "pets",
            "--out",
            tmp_path / "o",
            *TINY,
            "--seed",
            "5",
            "--overwrite",
        )[0]
        == 0
    )
    assert all(p.read_text() == "mine" for p in mine)


def test_a_damaged_result_is_made_again(box, tmp_path):
    shutil.copytree(box / "one", tmp_path / "o")
    file = tmp_path / "o" / "distilled.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:200])
    code, out, _ = run("demo", "--data", box / "pets", "--out", tmp_path / "o", *TINY)
    assert code == 0 and "made again" in out and file.read_bytes() == whole


def test_a_set_is_judged_by_its_own_network_and_other_data_are_noted(box, tmp_path):
    code, out, _ = run("evaluate", box / "one", "--data", box / "pets", "--seeds", "1")
    assert code == 0 and "width" in out and "Note:" not in out
    shutil.copytree(box / "pets", tmp_path / "pets")
    next((tmp_path / "pets" / "no").iterdir()).unlink()
    code, out, _ = run("evaluate", box / "one", "--data", tmp_path / "pets", "--seeds", "1")
    assert code == 0 and "Note: the training images" in out


def test_data_that_are_not_here_are_asked_for(box, tmp_path):
    shutil.copytree(box / "one", tmp_path / "o")
    with contextlib.chdir(tmp_path) if hasattr(contextlib, "chdir") else contextlib.nullcontext():
        (tmp_path / "o" / "x").mkdir()
        from ddnb import artifact

        d = artifact.load(box / "one")
        d.card["data"] = {"name": "scans"}
        artifact.save(d, tmp_path / "p")
        code, _, err = run("evaluate", tmp_path / "p")
    assert code == 1 and "names 'scans'" in err and "--data" in err


def test_a_broken_picture_is_skipped_when_asked(tmp_path):
    pictures(tmp_path / "pets")
    (tmp_path / "pets" / "no" / "3.png").write_bytes(b"\x89PNG nothing")
    code, _, err = run("demo", "--data", tmp_path / "pets", "--out", tmp_path / "o", *TINY)
    assert code == 1 and "3.png" in err and "--skip" in err and "errors=" not in err
    assert (
        run("demo", "--data", tmp_path / "pets", "--out", tmp_path / "o", *TINY, "--skip")[0] == 0
    )


def test_an_unfinished_demo_is_named(box, tmp_path):
    shutil.copytree(box / "one", tmp_path / "o")
    for f in ("distilled.safetensors", "results.json", "card.json"):
        (tmp_path / "o" / f).unlink()
    for command in ("show", "evaluate"):
        code, _, err = run(command, tmp_path / "o")
        assert code == 1 and "not finished" in err and "goes on" in err


def test_the_validation_split_may_choose_what_stays(box, tmp_path, monkeypatch):
    from ddnb import match, prune

    say, out, total = (
        ("demo", "--data", box / "pets", "--out", tmp_path / "o", *TINY, "--keep", "auto"),
        [],
        artifact.load(box / "one").card["data"]["train"],
    )
    monkeypatch.setattr(
        match,
        "dm_proxy",
        lambda make, ipc: (
            lambda data, generator: (
                out.append(len(data)) or (0.9 if 0.5 < len(data) / total < 0.7 else 0.5)
            )
        ),
    )
    code, said, err = run(*say)
    assert code == 0, err
    assert (
        "validation split, say how many" in said
        and "; validation accuracy by share: 20 %" in said
        and "60 %: 90.0 ± 0.0" in said
        and "(n = 3 trials each)" in said
    )
    card = artifact.load(tmp_path / "o").card
    assert card["pruning"]["recipe"]["fraction"] == 0.6 and card["hyper"]["keep"] == "auto"
    tried = len(out)
    (tmp_path / "o" / "results.json").unlink()
    assert run(*say)[0] == 0 and len(out) == tried, "the choice is kept"
    assert prune.Kept.from_json(tmp_path / "o" / "scored" / "kept.json").recipe["fraction"] == 0.6


def test_trials_of_a_stopped_choice_are_kept_but_not_taken_by_another_run(
    box, tmp_path, monkeypatch
):
    from ddnb import match

    seen, stop = [], [4]

    def proxy(data, generator):
        if len(seen) == stop[0]:
            stop[0] = -1
            raise KeyboardInterrupt
        seen.append(len(data))
        return 0.5

    monkeypatch.setattr(match, "dm_proxy", lambda make, ipc: proxy)

    def go(out, *more):
        before = len(seen)
        code = run(
            "demo", "--data", box / "pets", *TINY, "--keep", "auto", "--out", tmp_path / out, *more
        )[0]
        return code, len(seen) - before

    assert go("a") == (130, 4)
    code, rest = go("a")
    assert code == 0 and rest > 0
    stop[0] = len(seen) + 4
    assert go("b") == (130, 4)
    assert go("b", "--seed", "7") == (0, 4 + rest), (
        "a run that was stopped while it scored makes room, and leaves nothing to another"
    )


def test_with_all_kept_no_row_stands_twice():
    from ddnb import prune
    from ddnb.data import load

    d = load("digits")
    rows = lambda share: list(cli.rivals(d, prune.keep(None, d, share, order="random"), 1))
    assert rows(0.5)[-2:] == ["real, the 628 kept", "real, all 1259"] and rows(1.0)[-2:] == [
        "class mean, 1 per class",
        "real, all 1259",
    ]


def test_a_full_disk_refuses_the_demo_unless_it_is_forced(box, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(100, 100, 0))
    args = ["demo", "--data", box / "pets", "--out", tmp_path / "a", *TINY]
    code, _, err = run(*args)
    assert (
        code == 1
        and re.search(r"needs .* only 0 B are free; free some space", err)
        and err.count("\n") == 1
    )
    assert (
        run(*args, "--force")[0] == 0
        and (tmp_path / "a" / "distilled.safetensors").read_bytes()
        == (box / "one" / "distilled.safetensors").read_bytes()
    )


def test_two_processes_on_one_demo(box, tmp_path):
    "The second is refused while the first lives, and goes on where it was killed."
    args = [
        sys.executable,
        "-c",
        "import sys; from ddnb.cli import main; sys.exit(main())",
        "demo",
        "--data",
        str(box / "pets"),
        "--out",
        str(tmp_path / "a"),
        *TINY,
    ]
    args[args.index("--steps") + 1] = "4000"
    p = subprocess.Popen(args, env=ENV, stdout=subprocess.PIPE, text=True)
    for line in p.stdout:
        if line.startswith("3 "):
            break
    code, _, err = run(*args[3:])
    assert code == 1 and "Another process is working in" in err
    code, _, err = run(*args[3:], "--seed", "5", "--overwrite")
    assert (
        code == 1
        and "Another process is working in" in err
        and list((tmp_path / "a" / "experts").glob("expert_*"))
        and p.poll() is None
    )
    p.kill()
    p.wait()
    p.stdout.close()
    args[args.index("--steps") + 1] = "3"
    code, _, err = run(*args[3:])
    assert code == 1 and "steps 4000 instead of 3" in err, (
        "the lock died with the process; its settings did not"
    )


def test_trials_say_how_long_the_others_take_and_when_their_lead_is_noise(tmp_path, capsys):
    from types import SimpleNamespace

    d = SimpleNamespace(fingerprint="f", kept=SimpleNamespace(indices=torch.arange(3)))
    made = []
    proxy = lambda data, g: made.append(1) or 0.5
    for again in range(2):
        trial = cli._remembered(proxy, tmp_path / "trials.json", 4)
        for seed in range(3 + again):
            assert trial(d, torch.Generator().manual_seed(seed)) == 0.5
    said = capsys.readouterr().out
    assert (
        len(made) == 4 and said.count("A trial takes about") == 1 and "the up to 3 others" in said
    )
    row = lambda f, a, s: dict(fraction=f, accuracy=a, accuracy_std=s, n=3)
    assert (
        cli._lead([row(0.2, 0.456, 0.107), row(1.0, 0.422, 0.107)])
        == "; the lead over 100 % is within the noise"
    )
    assert (
        cli._lead([row(0.2, 0.9, 0.01), row(1.0, 0.422, 0.01)])
        == ""
        == cli._lead([row(0.2, 0.4, 0.1), row(1.0, 0.422, 0.1)])
    )


def test_a_set_made_without_a_broken_image_is_judged_and_repeated_without_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pictures(tmp_path / "data")
    (data / "no" / "3.png").write_bytes(b"no picture")
    assert run("demo", "--data", data, "--skip", *TINY, "--out", "made")[0] == 0
    for argv in (
        ("evaluate", "made", "--seeds", "1"),
        ("export", "made", "--to", "imagefolder", "--score"),
    ):
        code, out, err = run(*argv)
        assert (
            code == 0
            and "1 image of data was skipped, because no/3.png" in err
            and "not those" not in out
        )
    code, out, err = run("demo", "--config", "made/settings.yaml", "--out", "made")
    assert code == 0 and "already holds this very run" in out


def test_a_forecast_does_not_end_up_in_the_line_of_a_bar(monkeypatch):
    both = io.StringIO()
    both.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both)
    with cli._bar(3, "experts", "expert"):
        cli._ahead("Recording.")
    assert " " * 11 + "Recording." in re.split("[\r\n]", both.getvalue())


def test_groups_are_split_whole_written_down_and_used_again_by_evaluate(box, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, seen, load = shutil.copytree(box / "pets", "scans"), [], cli.load_data
    for p in list(Path(data).rglob("*.png")):
        p.rename(p.with_name(f"patient{int(p.stem) // 2}_{int(p.stem) % 2}.png"))

    def spy(*a, **kw):
        seen.append(load(*a, **kw))
        return seen[-1]

    monkeypatch.setattr(cli, "load_data", spy)
    pattern = r"(\w+-?\w*/patient\d+)_"  # each class has patients of its own
    assert run("demo", "--data", data, "--groups", pattern, *TINY, "--out", "made")[0] == 0
    recipe, old = (json.loads((p / "recipe.json").read_text()) for p in (Path("made"), box / "one"))
    assert recipe["groups"] == pattern and "groups" not in old and set(recipe) == {*old, "groups"}
    assert (
        "groups" not in (box / "one" / "settings.yaml").read_text()
        and artifact.load("made").card["hyper"]["groups"] == pattern
    )
    who = [
        {p.rsplit("_", 1)[0] for p in seen[0].split(s).paths} for s in ("train", "valid", "test")
    ]
    assert sum(map(len, who)) == len(set.union(*who)) == 24
    code, out, err = run("demo", "--config", "made/settings.yaml", "--out", "made")
    assert code == 0 and "already holds this very run" in out, err
    for more in ([], ["--data", data, "--groups", pattern]):
        code, out, err = run("evaluate", "made", "--seeds", "1", *more)
        assert (
            code == 0 and "not those" not in out and seen[-1].fingerprint == seen[0].fingerprint
        ), err
    assert "not those" in run("evaluate", "made", "--seeds", "1", "--data", data)[1]
    code, out, err = run("demo", "--data", data, "--groups", r"person\d", *TINY, "--out", "x")
    assert code == 1 and "finds a group in 0 of 48 paths" in err
    code, out, err = run("demo", "--data", data, "--groups", "(", *TINY, "--out", "x")
    assert code == 1 and "no regular expression" in err and not Path("x").exists()
