"""40 short digits cells by an engine, workers killed on the way, beside the same cells in series.

    python tests/bench/sweep_cells.py serial FOLDER
    python tests/bench/sweep_cells.py local FOLDER --like FOLDER/serial [--kill 1]
    python tests/bench/sweep_cells.py slurm FOLDER --like FOLDER/serial [--kill 1]
    python tests/bench/sweep_cells.py ray FOLDER --like FOLDER/serial [--kill 1 --restart 1]

Of `ray` a cluster of two workers is started with logical GPUs; `--restart` stops its head in the
middle and starts it anew. Printed are seconds, bytes that differ from the serial cells, and how
often each cell was begun and ended.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ddnb.recipe import Recipe
from ddnb.recipe.plan import recipes_of
from ddnb.recipe.sweeping import attempts, sweep

SHORT = {
    "network": {"width": 4},
    "prune": {"nets": 1, "epochs": 1},
    "judge": {"nets": 1, "baselines": False},
    "steps": 20,
    "repeats": 1,
}
METHODS = [{"name": "DM", "batch": 8}, {"name": "DC", "batch": 8}]
PORT = 26379


def recipes(n):
    "`n` cells: two methods, two numbers of images, two shares, and seeds."
    lists = {"objective": METHODS, "ipc": [1, 2], "prune.keep": [1.0, 0.6]}
    return recipes_of(Recipe.of(SHORT), lists | {"seed": list(range(n // 8))})


def folders(path):
    return sorted(p for p in path.glob("*=*") if p.is_dir()) if path.exists() else []


def ended(path):
    return sum((p / "results.json").exists() for p in folders(path))


def kill_workers(path, n, times):
    "Kill -9 a process that distils, `times` times, spread over the sweep."
    for k in range(times):
        while ended(path) < (k + 1) * n // (times + 2):
            time.sleep(0.05)
        while not (busy := busy_in(path)):
            time.sleep(0.005)
        os.kill(busy[0][1], signal.SIGKILL)
        print(f"  killed the worker of {busy[0][0].name}", flush=True)


def busy_in(path):
    "Cells that are distilling, with their processes."
    found = [(p, attempts(p)) for p in folders(path) if (p / "run").exists()]
    return [(p, who[-1]["pid"]) for p, who in found if who and who[-1]["event"] == "began"]


def ray_command(*words):
    r = subprocess.run(["ray", *words], capture_output=True, text=True)
    return r.returncode == 0


def ray_up(tmp):
    "A head with two cores and two logical GPUs; fixed ports, for machines that are slow to start."
    ports = "dashboard-agent-grpc-port dashboard-agent-listen-port metrics-export-port".split()
    fixed = [f"--{name}={PORT + 1 + i}" for i, name in enumerate(ports)]
    words = f"--head --port {PORT} --num-cpus 2 --num-gpus 2 --include-dashboard=false".split()
    more = ["--disable-usage-stats", f"--temp-dir={tmp}", "--object-store-memory=100000000"]
    for _ in range(10):
        if ray_command("start", *words, *fixed, *more):
            return
        ray_command("stop", "--force")
    sys.exit("Ray does not start here")


def one(a, out):
    "The sweep itself, in this process."
    for record in sweep(recipes(a.n), out, a.engine, workers=2, gpus=a.gpus):
        if record.get("error"):
            print(record["job"], record["error"])


def child(a, out):
    words = [a.engine, str(a.folder), "--n", str(a.n), "--gpus", str(a.gpus), "--inner"]
    env = os.environ | ({"RAY_ADDRESS": f"127.0.0.1:{PORT}"} if a.engine == "ray" else {})
    return subprocess.Popen([sys.executable, __file__, *words], env=env)


def restarted(a, out, job):
    "Stop the head in the middle, start it anew, and give the same command again."
    while ended(out) < a.n // 2 and job.poll() is None:
        time.sleep(0.05)
    before = ended(out)
    ray_command("stop", "--force")
    print(f"  the head is stopped after {before} cells", flush=True)
    job.kill()
    job.wait()
    ray_up(a.folder / "ray-files")
    return child(a, out)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("engine")
    p.add_argument("folder", type=Path)
    p.add_argument("--n", type=int, default=40)
    p.add_argument("--like", type=Path)
    p.add_argument("--kill", type=int, default=0)
    p.add_argument("--restart", type=int, default=0)
    p.add_argument("--gpus", type=float, default=0)
    p.add_argument("--inner", action="store_true")
    a = p.parse_args()
    out = a.folder.absolute() / a.engine
    if a.inner or a.engine == "serial":
        start = time.perf_counter()
        one(a, out)
        if a.inner:
            return
    else:
        if a.engine == "ray":
            ray_up(a.folder.absolute() / "ray-files")
        start = time.perf_counter()
        threading.Thread(target=kill_workers, args=(out, a.n, a.kill), daemon=True).start()
        job = child(a, out)
        if a.restart:
            job = restarted(a, out, job)
        job.wait()
    report(a, out, time.perf_counter() - start)
    if a.engine == "ray":
        ray_command("stop", "--force")


def report(a, out, seconds):
    events = [[e["event"] for e in attempts(p)] for p in folders(out)]
    begun, done = sum(e.count("began") for e in events), [e.count("ended") for e in events]
    print(
        f"{a.engine}: {ended(out)} of {a.n} cells in {seconds:.0f} s, load {os.getloadavg()[0]:.0f}"
    )
    print(f"  begun {begun} times, ended {sum(done)} times, at most {max(done)} a cell")
    if a.like:
        name = "distilled.safetensors"
        pairs = zip(folders(a.like), folders(out), strict=True)
        other = sum((x / name).read_bytes() != (y / name).read_bytes() for x, y in pairs)
        print(f"  {other} of {a.n} sets differ from the serial ones")


if __name__ == "__main__":
    main()
