"""One command for every way to distil the digits, timed by stage.

    python tests/bench/bench_ways.py [--steps 120] [--nets 5] [--label loaded]

IADD, MTT, DM and DC on pixels, and DM through latents behind a prior trained on the spot. Printed
are seconds a stage, accuracy on the test split (mean ± std of `--nets` networks) and the digest of
the set: it is equal on every run on one machine. `--label` says how busy the machine was.
"""

import argparse
import json
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from ddnb.base.files import sha256
from ddnb.share import load

WAYS = {
    "IADD": "run digits",
    "MTT": "run digits --objective MTT --objective.steps 10 --objective.max_start 4",
    "DM": "run digits --objective DM",
    "DC": "run digits --objective DC",
    "DM, latents": "run digits --objective DM --syn latents",
}
STAGES = "prune", "record", "prior", "distil", "judge"
COMMAND = "from ddnb.cli import main; import sys; sys.exit(main(sys.argv[1:]))"


def timed(words, folder) -> tuple:
    "(seconds by stage, mean and std of the distilled set in %, digest) of one command."
    line = [sys.executable, "-c", COMMAND, *shlex.split(words), "--out", str(folder)]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = json.loads((folder / "results.json").read_text())
    own = found["results"][0]
    return found["seconds"], 100 * own["mean"], 100 * own["std"], sha256(load(folder).x)[:12]


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--steps", type=int, default=120)
    p.add_argument("--nets", type=int, default=5)
    p.add_argument("--label", default="not said")
    a = p.parse_args()
    shared = f" --steps {a.steps} --judge.nets {a.nets} --judge.baselines false --device cpu"
    print(f"{platform.machine()}, machine: {a.label}; {a.steps} steps, {a.nets} networks")
    print(f"| way | {' s | '.join(STAGES)} s | accuracy % | digest |")
    print("|---" * (len(STAGES) + 3) + "|")
    for name, words in WAYS.items():
        with tempfile.TemporaryDirectory() as d:
            seconds, mean, std, digest = timed(words + shared, Path(d) / "run")
        columns = [f"{seconds[k]:.1f}" if k in seconds else "-" for k in STAGES]
        print(f"| {name} | {' | '.join(columns)} | {mean:.1f} ± {std:.1f} | {digest} |", flush=True)


if __name__ == "__main__":
    main()
