"Whatever is wrong is one sentence and an exit status; help is complete and light."

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ddnb import __version__
from ddnb.recipe import commands, jupyter
from ddnb.recipe.options import spelled
from ddnb.recipe.settings import docments
from ddnb.trajectory import OBJECTIVES

from .command_line import TINY, pictures, run

TEXTS = {
    "file": "mine",
    "config.yaml": "ipc: many\n",
    "odd.yaml": "ipq: 3\n",
    "tangled.yaml": "{: [",
    "recipe.yaml": "objective: {name: DM, batsh: 3}\n",
}


def harm(box, name):
    "A folder of pictures with something wrong, or another bad path."
    p = box / "bad" / name
    if p.exists():
        return p
    (box / "bad").mkdir(exist_ok=True)
    if name in TEXTS:
        p.write_text(TEXTS[name])
    elif name == "changed":
        shutil.copytree(box / "one", p)
        b = bytearray((p / "distilled.safetensors").read_bytes())
        b[-1] ^= 1
        (p / "distilled.safetensors").write_bytes(bytes(b))
    elif name in ("empty", "foreign"):
        p.mkdir()
        if name == "foreign":
            (p / "thesis.txt").write_text("mine")
    else:
        pictures(p)
    if name == "corrupt":
        (p / "no" / "5.png").write_bytes(b"not a picture")
    if name == "single":
        (p / "one").mkdir()
        Image.new("L", (8, 8)).save(p / "one" / "0.png")
    if name == "hollow":
        (p / "none").mkdir()
    return p


PETS = "--data {box}/pets --size 8"
# the command line, what the sentence names, the exit status
BAD = {
    "unknown command": ("dmeo", "'demo'", 2),
    "unknown option": ("demo --ipq 3", "--ipq.*'--ipc'", 2),
    "unknown setting": ("run x.yaml --objective.batsh 3", "'--objective.batch'", 2),
    "stray word": ("demo digits", "digits", 2),
    "option without value": ("demo --ipc", "--ipc", 2),
    "word for a number": ("demo --ipc many", "--ipc is 'many'", 2),
    "fraction for a whole number": ("demo --steps 1.5", "--steps is 1.5", 2),
    "word for a share": ("demo --keep half", "--keep is 'half'", 2),
    "keep nan": ("demo --keep nan", "--keep is nan", 2),
    "no ipc": ("demo --ipc 0", "--ipc is 0", 2),
    "negative seed": ("demo --seed -1", "--seed is -1", 2),
    "a size no network takes": ("demo --size 2", "--size is 2", 2),
    "a size in a recipe": ("run x.yaml --data.size 2", "--data.size is 2", 2),
    "a value for a switch": ("demo --overwrite=yes", "--overwrite", 2),
    "missing path": ("show", "path", 2),
    "missing format": ("export x", "to", 2),
    "config is a folder": ("demo --config {bad:empty}", "empty", 2),
    "config without options": ("demo --config {bad:file}", "no settings", 2),
    "config with an unknown option": ("demo --config {bad:odd.yaml}", "--ipq.*'--ipc'", 2),
    "bad config": ("demo --config {bad:config.yaml}", "--ipc is 'many'", 2),
    "tangled config": ("demo --config {bad:tangled.yaml}", "tangled.yaml", 2),
    "config nowhere": ("demo --config nowhere.yaml", "nowhere.yaml", 2),
    "recipe nowhere": ("run nowhere.yaml", "nowhere.yaml", 1),
    "recipe with an unknown setting": ("run {bad:recipe.yaml}", "objective.batsh.*'batch'", 1),
    "no such preset": ("run mtt-cifar10-ipc2", "'mtt-cifar10-ipc", 1),
    "show no preset": ("presets mtt-cifar10", "'mtt-cifar10-ipc", 1),
    "latents without a prior": ("run --syn latents --prior ./no", "syn.folder is './no'", 1),
    "a prior for pixels": ("run --prior .", "no setting syn.folder", 1),
    "recipe of pictures": ("run {box}/pets", "pets", 1),
    "impossible recipe": ("run {box}/one --ipc 500", "500", 1),
    "huge ipc": (f"demo {PETS} --ipc 500", "500", 1),
    "unknown device": ("demo --device gpu", "'gpu'", 1),
    "unknown data": ("demo --data digit", "digits", 1),
    "data nowhere": ("demo --data ./nowhere", "nowhere", 1),
    "empty data": ("demo --data {bad:empty}", "empty|no ", 1),
    "a class with one image": ("demo --data {bad:single} --size 8", "one", 1),
    "a class without images": ("demo --data {bad:hollow} --size 8", "none", 1),
    "corrupt image": ("demo --data {bad:corrupt} --size 8", "5.png.*--skip", 1),
    "data is a text file": ("demo --data {bad:file}", "file", 1),
    "out is a file": (f"demo {PETS} --out {{bad:file}}", "is a file", 1),
    "out inside a file": (f"demo {PETS} --out {{bad:file}}/x", "file", 1),
    "out is somebody's": (f"demo {PETS} --out {{bad:foreign}}", "foreign.*--out", 1),
    "show nothing": ("show nowhere", "nowhere", 1),
    "show a text": ("show {bad:file}", "not a file that ddnb wrote", 1),
    "show an altered set": ("show {bad:changed}", "altered", 1),
    "show over a file": ("show {box}/one --png {bad:file}", "file.*--png", 1),
    "show a folder of runs": ("show {box}", "give one of them, e.g. .*one", 1),
    "judge on what it was made from": ("evaluate {box}/one --split train", "--split.*valid", 2),
    "judge on no split": ("evaluate {box}/one --split tests", "--split.*'test'", 2),
    "judge with no seeds": ("evaluate {box}/one --seeds 0", "--seeds is 0", 2),
    "judge nowhere": ("evaluate {box}/one --device gpu", "'gpu'", 1),
    "judge on other data": ("evaluate {box}/one --data digits", "classes", 1),
    "judge at another size": ("evaluate {box}/one --data {box}/pets --size 12", "12, 12", 1),
    "judge with no net": ("evaluate {box}/one --nets ConvNot", "'ConvNet'", 1),
    "judge by no protocol": ("evaluate {box}/one --protocol mt", "'mtt'", 1),
    "judge under no augmentation": ("evaluate {box}/one --aug randaugg", "'randaug'", 1),
    "unknown format": ("export {box}/one --to parkett", "'parquet'", 1),
    "export over something": ("export {box}/one --to mtt --out {bad:foreign}", "foreign", 1),
    "export inside a file": ("export {box}/one --to mtt --out {bad:file}/x", "file", 1),
    "unknown tutorial": ("lab nothing-like-it", "tutorial", 1),
    "port beyond the last": ("lab quickstart --to t --port 70000", "--port", 2),
    "tutorials into a file": ("lab quickstart --to {bad:file}", "Cannot write", 1),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence(box, name, tmp_path, monkeypatch):
    line, names, status = BAD[name]
    line = re.sub(r"\{bad:([\w.]+)\}", lambda m: str(harm(box, m[1])), line)
    monkeypatch.chdir(tmp_path)

    def files():
        return {p: p.read_bytes() for p in box.rglob("*") if p.is_file()}

    before = files()
    code, out, err = run(*line.replace("{box}", str(box)).split())
    assert code == status and re.search(names, err), (code, err)
    assert err.startswith("ddnb: ") and err.count("\n") == 1 and "Traceback" not in err + out
    assert len(err) < 500 + 2 * len(str(box))
    assert files() == before
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"]


def test_a_folder_without_permission(box, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = run("demo", "--data", box / "pets", *TINY, "--out", tmp_path / "locked" / "x")
    assert code == 1 and "Cannot write" in err


def test_a_bug_is_a_sentence_too(monkeypatch):
    from ddnb.recipe import sets

    def broken(*a):
        raise KeyError("oops")

    monkeypatch.setattr(sets, "show", broken)
    code, _, err = run("show", "x")
    assert code == 70 and "KeyError" in err and err.count("\n") == 1
    monkeypatch.setenv("DDNB_DEBUG", "1")
    with pytest.raises(KeyError):
        run("show", "x")


def test_interrupted_is_130(monkeypatch):
    from ddnb.recipe import sets

    def stop(*a):
        raise KeyboardInterrupt

    monkeypatch.setattr(sets, "show", stop)
    code, _, err = run("show", "x")
    assert code == 130 and "the same command goes on" in err and err.count("\n") == 1


def test_the_command_puts_signal_handlers_back():
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(s) for s in names]
    run("show", "nowhere")
    assert [signal.getsignal(s) for s in names] == before


def cpu_seconds(args):
    before = os.times()
    subprocess.run(args, capture_output=True, check=True)
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def test_the_command_hears_the_signals_of_a_run():
    from ddnb.base.run import graceful
    from ddnb.recipe.command import SIGNALS

    assert set(SIGNALS) == set(graceful.names)


def test_help_is_complete_and_light():
    heavy = "torch", "numpy", "matplotlib", "sklearn", "diffusers", "PIL"
    code = (
        "import sys; from ddnb.cli import main\n"
        "try: main(['demo', '--help'])\nexcept SystemExit: pass\n"
        f"print('HEAVY', *[m for m in {heavy} if m in sys.modules])"
    )
    args = [sys.executable, "-c", code]
    out = subprocess.run(args, capture_output=True, text=True, check=True).stdout
    assert out.rstrip().endswith("HEAVY")
    assert [name for name in spelled("demo") if name not in out] == []
    main = [sys.executable, "-c", "from ddnb.cli import main; main([])"]
    assert min(cpu_seconds(main) for _ in range(3)) < 1


def test_help_of_run_knows_every_setting():
    code = "from ddnb.cli import main; main(['run', '--help'])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    for name in ("--objective", "--objective.max_start", "--syn.folder", "--prune.keep"):
        assert name in out


def test_help_of_one_objective_tells_of_that_one():
    code = "from ddnb.cli import main; main('run --objective DM --syn=pixels --help'.split())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "--objective.chunk" in out and "--syn.init" in out
    assert "--objective.max_start" not in out and "--syn.folder" not in out


SHELL = """
source {script}
complete_it() {{
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _shtab_ddnb ddnb "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
    echo "${{COMPREPLY[@]}}"
}}
complete_it ddnb pres
complete_it ddnb run --objective.st
complete_it ddnb run --objective ""
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_the_shell_completes_commands_options_and_names(tmp_path):
    code = "from ddnb.cli import main; main(['--print_completion', 'shtab-bash'])"
    script = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    (tmp_path / "ddnb.bash").write_text(script.stdout)
    line = SHELL.format(script=tmp_path / "ddnb.bash")
    out = subprocess.run(["bash", "-c", line], capture_output=True, text=True).stdout.splitlines()
    assert out == ["presets", "--objective.steps", " ".join(OBJECTIVES)]


@pytest.mark.parametrize("name", list(commands.COMMANDS))
def test_every_option_is_explained(name):
    assert all(docments(commands.COMMANDS[name]).values())


def test_the_installed_command():
    exe = Path(sys.executable).parent / "ddnb"
    if not exe.exists():
        pytest.skip("ddnb is not installed as a command here")
    out = subprocess.run([exe, "--version"], capture_output=True, text=True, check=True).stdout
    assert __version__ in out
    assert subprocess.run([exe, "demo", "--ipq", "1"], capture_output=True).returncode == 2


def test_tutorials_are_where_the_command_looks():
    assert (jupyter.tutorials() / "quickstart.ipynb").exists()
