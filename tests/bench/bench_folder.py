"""A folder of many pictures, made on the spot: it loads, is scored, distilled; the peak memory.

    python tests/bench/bench_folder.py                   100,000 pictures of 128x128: 0.5 GB of disk
    python tests/bench/bench_folder.py --images 2000     does it run?

Each line says the most memory that the process has held so far, and the bytes of all pixels beside
it. Networks are thin: what is measured is memory, and where seconds go, on a machine as it is.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ddnb.base.measure import duration, human, resident
from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.distil import DM, Distilling, Pixels, init
from ddnb.judge import baselines
from ddnb.nets import net_for
from ddnb.nets.augment import DSA
from ddnb.prune import keep, scores
from ddnb.trajectory import record


def draw(folder, n, size, classes):
    "Smooth random pictures, in a folder for each class; each of them stands there many times."
    for c in range(classes):
        place = folder / f"class_{c:03d}"
        place.mkdir(parents=True)
        some = [picture(np.random.default_rng([c, k]), c, size) for k in range(10)]
        for k in range(n // classes):
            (place / f"{k}.jpg").write_bytes(some[k % len(some)])


def picture(generator, c, size):
    "The bytes of a file."
    few, held = generator.integers(256, size=(6, 6, 3), dtype=np.uint8), io.BytesIO()
    few[..., c % 3] |= 128  # something to learn
    Image.fromarray(few).resize((size, size)).save(held, "JPEG", quality=60)
    return held.getvalue()


class Lines:
    "A line of the table when a stage is over."

    def __init__(self):
        self.start = time.perf_counter()

    def __call__(self, stage, what=""):
        now = time.perf_counter()
        cells = stage, duration(now - self.start), human(resident()), what
        print(f"| {' | '.join(cells)} |", flush=True)
        self.start = now


def stages(folder, a):
    "What a user would do with such a folder."
    done = Lines()
    data = load(str(folder), size=a.size)
    pixels = sum(data.split(s).x.nbytes for s in ("train", "valid", "test"))
    done("load", f"{human(pixels)} of pixels, {human(4 * pixels)} as float32")
    make = net_for(data, "ConvNet", width=a.width, depth=3)
    found = scores(data, make, nets=1, epochs=1, progress=False, log=None, compiled=False)
    small = data.keep(keep(found, data, 0.5))
    done("score and keep half", f"{len(found):,} images")
    x, y = init(small, 1)
    done("init", f"{len(y)} images")
    rivals = baselines(small, 1)
    done("baselines", ", ".join(rivals))
    experts = record(small, make, n=1, epochs=1, batch=64, progress=False, log=None)
    done("an expert, one epoch", repr(experts)[:40])
    o = DM(small, make, batch=8, aug=DSA(), generator=rng(0))
    syn = Pixels(x, y)
    adam = torch.optim.Adam(syn.parameters(), lr=0.1)
    last = list(Distilling(syn, o, adam, a.steps))[-1]
    done(f"{a.steps} steps of DM", f"loss {last['loss']:.3g}")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--images", type=int, default=100_000)
    p.add_argument("--size", type=int, default=128)
    p.add_argument("--classes", type=int, default=100)
    p.add_argument("--width", type=int, default=4)
    p.add_argument("--steps", type=int, default=3)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = Lines()
        print("| stage | seconds | peak memory | |\n|---|---:|---:|---|")
        draw(Path(folder) / "pictures", a.images, a.size, a.classes)
        done("draw", f"{a.images:,} pictures of {a.size}x{a.size}")
        stages(Path(folder) / "pictures", a)


if __name__ == "__main__":
    main()
