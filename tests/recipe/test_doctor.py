"Every check finds the fault it is for, names it and its cure, and keeps silent on a sound machine."

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from ddnb.base.check import DdnbError
from ddnb.recipe import doctor as D

SOUND = D.Machine(
    python=(3, 12, 0),
    versions={"torch": "2.9.0", "nbdev": "2.4.14", "ray": None},
    asked={"torch": ("", False), "nbdev": ("<3,>=2.4.14", True), "ray": (">=2.9", True)},
    cores=2,
    folder="here",
    free={"folder": 9 << 30, "cache": 9 << 30},
    cache="there",
    memory=4 << 30,
    threads=2,
)
# check -> what is changed on a sound machine, what its sentence names, what its cure names
FAULTS = {
    "old_python": (dict(python=(3, 9, 1)), "3.9", "3.10"),
    "broken_torch": (dict(broken="OSError: libgomp"), "libgomp", "pip install"),
    "no_cuda": (dict(driver="550.54"), "without CUDA", "pip install"),
    "hidden_gpu": (dict(driver="470.1", cuda="13.0"), "470.1", "CUDA_VISIBLE_DEVICES"),
    "many_threads": (dict(threads=8), "8 threads on 2 cores", "OMP_NUM_THREADS=2"),
    "missing": (dict(versions=SOUND.versions | {"torch": None}), "torch", "pip install torch"),
    "wrong_version": (
        dict(versions=SOUND.versions | {"nbdev": "3.0.1"}),
        "nbdev 3.0.1",
        "'nbdev<3,>=2.4.14'",
    ),
    "full_disk": (dict(free={"folder": 9 << 30, "cache": 5 << 20}), "there", "DDNB_CACHE"),
    "little_memory": (dict(memory=1 << 20), "memory", "--width"),
    "closed_cache": (dict(closed=("cache",)), "there", "DDNB_CACHE"),
    "closed_folder": (dict(closed=("folder",)), "here", "--out"),
}


def test_every_check_has_a_fault_here():
    assert set(FAULTS) == set(D.CHECKS)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_alone_with_its_cure(name, capsys):
    changed, what, cure = FAULTS[name]
    sick = replace(SOUND, **changed)
    ((found, said, line),) = D.wrong(sick)
    assert found == name and what in said and cure in line
    with pytest.raises(DdnbError, match="1 thing is wrong"):
        D.doctor(sick)
    assert said in capsys.readouterr().out


def test_a_sound_machine_is_told_so(capsys):
    D.doctor(SOUND)
    assert "Nothing is wrong" in capsys.readouterr().out


def test_a_gpu_that_works_beside_its_driver_is_sound():
    assert D.wrong(replace(SOUND, driver="580.1", cuda="13.0", devices=("H100",))) == []


def test_this_machine_is_described():
    m = D.examine()
    assert (
        m.versions["torch"]
        and m.cores >= 1
        and not m.broken
        and set(m.free) == set(("folder", "cache"))
    )


def test_without_a_torch_that_works_it_still_answers(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libgomp.so.1: cannot open')")
    code = "import sys; from ddnb.cli import main; sys.exit(main(['doctor']))"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "libgomp" in done.stdout and "pip install" in done.stdout
