"A distillation in a run folder: logs, full disks, damaged files, signals, the stop button."

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ddnb.base import checkpoint
from ddnb.base.check import DdnbError
from ddnb.base.files import lock
from ddnb.base.run import Run
from ddnb.distil import DM
from runs import failing, iadd, small

HERE = str(Path(__file__).parent)


def steps_in(log):
    return [r["step"] for r in map(json.loads, log.read_text().splitlines()) if "step" in r]


def test_an_unwritable_run_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DdnbError, match="Cannot write"):
        list(small(DM, tmp_path / "file" / "run", 2))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_pair_of_checkpoints_is_named_not_overwritten(tmp_path):
    list(small(DM, tmp_path, 9))
    for name in ("checkpoint", "previous"):
        p = tmp_path / f"{name}.safetensors"
        p.write_bytes(p.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="checkpoint"), pytest.raises(DdnbError, match="previous"):
        list(small(DM, tmp_path, 9))


def test_a_damaged_checkpoint_costs_an_interval_and_changes_nothing(tmp_path):
    list(whole := small(DM, tmp_path / "a", 12))
    for record in small(DM, tmp_path / "b", 12):
        if record["step"] == 9:
            break
    file = tmp_path / "b" / "checkpoint.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.warns(UserWarning, match="altered"):
        list(again := small(DM, tmp_path / "b", 12))
    assert torch.equal(whole.work.syn.x, again.work.syn.x)


def test_a_run_is_refused_where_the_disk_is_full(tmp_path, monkeypatch):
    list(small(DM, tmp_path / "done", 4))
    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(DdnbError, match="0 B"):
        list(small(DM, tmp_path / "a", 4))
    assert len(list(small(DM, tmp_path / "a", 4, run={"force": True}))) == 4
    assert list(small(DM, tmp_path / "done", 4)) == [], "a finished run needs no room"


def test_the_log_holds_every_step_once_whatever_happened(tmp_path, monkeypatch):
    "Backed off, cut, with a torn last line: on disk one record a step; in memory a thinned list."
    wrap, log = failing(6), tmp_path / "a" / "records.jsonl"
    run = iadd(tmp_path / "a", n=9, wrap=wrap, run={"every": 4})
    with pytest.warns(UserWarning, match="back to step 4"):
        for r in run:
            if r["step"] == 7:
                break
    assert steps_in(log) == [r["step"] for r in run.history] == list(range(1, 8))
    with open(log, "a") as f:
        f.write('{"step": 8, "lo')
    list(run := iadd(tmp_path / "a", n=9, wrap=wrap))
    assert steps_in(log) == [r["step"] for r in run.history] == list(range(1, 10))


class Sparse:
    "Ten steps, of which every fifth has a record; the rest beat only the heart."

    steps, settings = 10, {"work": "sparse"}
    step = 0

    def __iter__(self):
        while self.step < self.steps:
            self.step += 1
            at = {"step": self.step, "steps": self.steps}
            yield at if self.step % 5 == 0 else at | {"share": 0.5}

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]


@pytest.mark.filterwarnings("error")
def test_a_work_that_records_seldom_lacks_nothing_when_it_goes_on(tmp_path):
    for at in (3, 7):
        for record in Run(tmp_path, Sparse(), log=None):
            if record["step"] == at:
                break
    log = tmp_path / "records.jsonl"
    assert steps_in(log) == [5]
    log.write_text(log.read_text().splitlines()[0] + "\n")
    with pytest.warns(UserWarning, match="lacks the records of steps 1 to 5"):
        list(run := Run(tmp_path, Sparse(), log=None))
    assert [r["step"] for r in run.history] == [10]


def test_a_long_history_is_thinned_the_same_way_after_a_resume(tmp_path):
    def thinned(steps):
        history = []
        for k in steps:
            checkpoint.remember(history, {"step": k}, most=6)
        return [r["step"] for r in history]

    assert thinned(range(1, 10)) == [1, 5, 6, 7, 8, 9]


def test_a_full_disk_is_one_sentence_and_spoils_nothing(tmp_path, monkeypatch):
    "It ends while a checkpoint is written, then while a record is; the same call goes on later."
    import builtins

    from safetensors import SafetensorError

    from ddnb.base import files

    list(whole := small(DM, tmp_path / "whole", 12))

    def full(tensors, tmp, metadata=None):
        Path(tmp).write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as m, pytest.raises(DdnbError, match="checkpoint.*No space left"):
        for r in small(DM, tmp_path / "a", 12):
            if r["step"] == 6:
                m.setattr(files, "save_file", full)
    real = open

    def no_room(file, mode="r", *a, **kw):
        if str(file).endswith("records.jsonl") and mode == "a":
            raise OSError(28, "No space left on device")
        return real(file, mode, *a, **kw)

    with monkeypatch.context() as m, pytest.raises(DdnbError, match="records.jsonl: No space left"):
        m.setattr(builtins, "open", no_room)
        list(small(DM, tmp_path / "a", 12))
    assert not list(tmp_path.rglob(".*.tmp"))
    list(last := small(DM, tmp_path / "a", 12))
    assert torch.equal(whole.work.syn.x, last.work.syn.x)
    assert [r["step"] for r in last.history] == list(range(1, 13))


# ---- processes


JOB = f"""
import sys; sys.path.insert(0, {HERE!r})
from pathlib import Path
from runs import small
from ddnb.base.run import Interrupted
from ddnb.distil import DM
try:
    for r in small(DM, Path(sys.argv[1]), 4000, schedule=None): print(r['step'], flush=True)
except Interrupted as e: print(e, flush=True); sys.exit(e.code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name, code", [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_a_signal_ends_with_a_checkpoint_and_its_own_exit_code(tmp_path, name, code):
    import signal

    job = [sys.executable, "-c", JOB, str(tmp_path)]
    p = subprocess.Popen(job, stdout=subprocess.PIPE, text=True)
    for line in p.stdout:
        if line.strip() == "3":
            break
    p.send_signal(getattr(signal, name))
    out = p.stdout.read()
    assert p.wait(60) == code and ("Interrupted" if code == 130 else name) in out
    run = small(DM, tmp_path, 4000, schedule=None)
    assert run.load() and run.step == int(out.split("after step ")[1].split()[0])


@pytest.mark.slow
def test_a_dead_process_holds_no_lock(tmp_path):
    code = "import sys, time\nfrom ddnb.base.files import lock\n"
    code += "with lock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    job = [sys.executable, "-c", code, str(tmp_path)]
    p = subprocess.Popen(job, stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline().strip() == "held"
    with pytest.raises(DdnbError, match="Another process"), lock(tmp_path):
        pass
    p.kill()
    p.wait()
    with lock(tmp_path):
        pass


@pytest.mark.slow
def test_the_stop_button_of_a_notebook_saves_and_leaves_the_kernel_usable(tmp_path):
    "A kernel is interrupted in the middle of a run; its next cell goes on, to the same bytes."
    from jupyter_client.manager import start_new_kernel

    km, kc = start_new_kernel(kernel_name="python3")

    def execute(code):
        reply = kc.execute_interactive(code, timeout=120, output_hook=lambda m: None)
        assert reply["content"]["status"] == "ok"

    try:
        execute(
            f"import sys; sys.path.insert(0, {HERE!r})\nfrom pathlib import Path\n"
            "from runs import DM, small\n"
            f"run = small(DM, Path({str(tmp_path / 'a')!r}), 400)"
        )
        kc.execute("for r in run: pass")
        start, log = time.time(), tmp_path / "a" / "records.jsonl"
        while time.time() - start < 60 and not (log.exists() and len(steps_in(log)) > 3):
            time.sleep(0.01)
        km.interrupt_kernel()
        reply = kc.get_shell_msg(timeout=60)["content"]
        assert reply["ename"] == "Interrupted", reply
        run = small(DM, tmp_path / "a", 400)
        assert run.load() and 0 < run.step < 400
        execute("for r in run: pass")
    finally:
        kc.stop_channels()
        km.shutdown_kernel(now=True)
    list(whole := small(DM, tmp_path / "b", 400))
    a, b = ((tmp_path / f / "checkpoint.safetensors").read_bytes() for f in "ab")
    assert a == b and whole.step == 400
