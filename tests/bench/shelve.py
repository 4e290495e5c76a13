"""Puts a distilled set on the shelf of the package, with the least pixels that cost nothing.

    python tests/bench/shelve.py SET NAME --data digits [--cost FILE] [--protocol mtt] [--judges 5]

SET is a run folder of ddnb, or the `set` folder of a row of cifar10.py. The same judges (seeds,
data, protocol) look at the exact images, at images of half precision and at bytes. Bytes are taken
where their mean difference to exact images, paired over judges, is above minus one standard error;
else half precision, by the same rule. The card gets all three accuracies.
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

from ddnb.base.check import DdnbError
from ddnb.base.files import write_atomic
from ddnb.data import load as load_data
from ddnb.judge import evaluate
from ddnb.nets import build
from ddnb.share import load, save

LIMIT = 4_000_000  # bytes of all sets together


def judged(d, a) -> dict:  # pixels -> accuracies
    "What the same judges say of each form."
    forms = {"float32": d, "float16": replace(d, x=d.x.half()), "uint8": d.clipped()}
    forms["uint8"] = replace(forms["uint8"], y=d.y)
    data = load_data(a.data) if a.data in ("digits", "shapes") else load_data(a.data, valid=0.0)
    make = {d.card["network"]["name"]: lambda generator=None: build(d.card["network"], generator)}
    how = dict(seeds=a.judges, protocol=a.protocol, split="test")
    return {r["train"]: r for r in evaluate(forms, data, make, **how)}


def smallest(found) -> str:
    "The least pixels whose judges do not fall behind."
    for pixels in ("uint8", "float16"):
        pairs = zip(found[pixels]["accuracy"], found["float32"]["accuracy"])
        differences = [b - e for b, e in pairs]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        mean = statistics.fmean(differences)
        print(f"  {pixels} minus exact: {100 * mean:+.1f} ± {100 * error:.1f}")
        if mean >= -error:
            return pixels
    return "float32"


def metrics_of(found, pixels) -> list:
    "For the card: the kept form first."
    shown = ("net", "mean", "std", "n", "split", "protocol")
    order = [pixels, *[p for p in found if p != pixels]]
    return [{"train": f"pixels as {p}", **{k: found[p][k] for k in shown}} for p in order]


def cost_of(a) -> dict:
    "Seconds, from the results of a run or from a file; whoever made it says how quiet it was."
    file = Path(a.cost) if a.cost else Path(a.set) / "results.json"
    told = json.loads(file.read_text()) if file.exists() else {}
    kept = {k: told[k] for k in ("seconds", "cpu", "peak", "machine") if k in told}
    return kept | ({"note": a.note} if a.note else {})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("set")
    p.add_argument("name")
    p.add_argument("--data", required=True, help="the real images whose test split judges")
    p.add_argument("--cost", help="JSON with seconds, cpu, peak; default: the run's results.json")
    p.add_argument("--note", help="on the cost, e.g. that the machine was busy")
    p.add_argument("--protocol", default="plain")
    p.add_argument("--judges", type=int, default=5)
    p.add_argument("--to", default="ddnb/sets")
    a = p.parse_args()
    d = load(a.set)
    if d.norm is not None and d.norm.zca is not None:
        raise DdnbError("A whitened set brings its whitening, which is too large for the shelf.")
    found = judged(d, a)
    pixels = smallest(found)
    story = d.card | {"cost": cost_of(a), "metrics": metrics_of(found, pixels)}
    folder = save(replace(d, card=story), Path(a.set) / "shelved", True, pixels)
    file = Path(a.to) / f"{a.name}.safetensors"
    write_atomic(file, (folder / "distilled.safetensors").read_bytes())
    total = sum(f.stat().st_size for f in Path(a.to).glob("*.safetensors"))
    print(f"{file}: {file.stat().st_size:,} bytes as {pixels}; the shelf holds {total:,} bytes.")
    for m in story["metrics"]:
        print(f"  {m['train']}: {100 * m['mean']:.1f} ± {100 * m['std']:.1f} (n = {m['n']})")
    if total > LIMIT:
        raise DdnbError(f"The shelf holds more than {LIMIT:,} bytes: take a set away.")


if __name__ == "__main__":
    try:
        main()
    except DdnbError as e:
        sys.exit(str(e))
