"""Much at once: time and memory where there are many Studios, runs, results, images or files.

    python tests/bench/load.py FOLDER [--only studios sweep again compare gallery files]

Each row is measured in a process of its own and kept in FOLDER/load.json: the same command goes on
where it was stopped; runs of the sweep and files of the large folder that are there are not made
again. --again NAME ... measures rows anew. Printed are seconds, resident MiB at the start, at the
most, and after everything was closed, and what was counted.

What the rows are: 20 Studios are opened, carried out to the comparison of fresh networks, and
closed, one after the other, in one process; 20 runs (DM, one step, one network of one epoch) of a
sweep are carried out in one process, and 980 more lie beside them (copies of the first under their
own seeds, since what is asked is what many folders cost); that sweep once more, when nothing is
left to do; `ddnb compare` over 500 of them; a gallery of 5,000 images of 32 x 32 pixels over three
steps, each shown in each class and in each way, then closed; and a folder with 200,000 pictures of
8 x 8 pixels in 100 classes.
"""

import argparse
import gc
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

SETTINGS = {
    "network": {"width": 4},
    "prune": {"keep": 1},
    "judge": {"nets": 1, "epochs": 1, "baselines": False},
    "objective": {"name": "DM", "batch": 4},
    "steps": 1,
    "repeats": 1,
}


def resident():
    "MiB that this process has now."
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def most():
    "MiB that this process had at the most."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def living():
    "Widgets that ipywidgets knows in this process."
    import ipywidgets

    return len(ipywidgets.widgets.widget._instances)


def tidy():
    "Give back what can be given back."
    gc.collect()
    gc.collect()


# ---- rows: each takes the folder, yields notes, and returns what was counted


def studios(folder, n=20):
    "Studios opened, carried out and closed."
    from ddnb.data import load
    from ddnb.recipe import Recipe
    from ddnb.studio import Studio
    from ddnb.studio.pages import PAGES

    data = load("digits", size=8, valid=0.1)
    seen, before, carried = [], living(), 0
    for k in range(n):
        shutil.rmtree(folder / f"studio-{k}", ignore_errors=True)
        studio = Studio(data, folder / f"studio-{k}", recipe=Recipe.of(SETTINGS))
        for page in list(PAGES)[1:]:
            studio.act(page)
            studio.wait()
        opened, carried = living(), carried + ("Save" in studio.ran)
        studio.close()
        del studio
        tidy()
        seen.append(resident())
        print(f"  {k + 1} of {n}: {seen[-1]:.0f} MiB, widgets {opened} -> {living()}", flush=True)
    growth = (seen[-1] - seen[n // 4]) / (n - 1 - n // 4)
    left = living() - before
    counted = {"carried to the end": carried, "widgets left": left}
    return counted | {"MiB more for each": round(growth, 2)}


def recipes(n=1000):
    from ddnb.recipe import Recipe
    from ddnb.recipe.plan import recipes_of

    return recipes_of(Recipe.of(SETTINGS), {"seed": list(range(n))})


def sweep(folder, made=20):
    "Runs of a sweep carried out in one process."
    from ddnb.recipe.plan import jobs_of
    from ddnb.recipe.sweeping import carry_out

    jobs, seen = jobs_of(recipes()), []
    for job in jobs[:made]:
        carry_out({"recipe": job.recipe.plain(), "folder": str(folder / "sweep" / job.name)})
        tidy()
        seen.append(resident())
        print(f"  {len(seen)} of {made}: {seen[-1]:.0f} MiB", flush=True)
    for job in jobs[made:]:
        copy(folder / "sweep" / jobs[0].name, folder / "sweep" / job.name, job)
    half = made // 2
    return {"MiB more for each": round((seen[-1] - seen[half]) / (made - 1 - half), 2)}


def copy(first, folder, job):
    "A finished run under another seed."
    if (folder / "results.json").exists():
        return
    shutil.copytree(first, folder, dirs_exist_ok=True)
    seed = job.recipe.flat()["seed"]
    for name in ("recipe.json", "results.json"):
        told = json.loads((folder / name).read_text())
        (told["recipe"] if "recipe" in told else told)["seed"] = seed
        (folder / name).write_text(json.dumps(told))


def again(folder):
    "The same sweep with nothing left to do."
    from ddnb.recipe.sweeping import Sweep

    kept = [r["status"] for r in Sweep(recipes(), folder / "sweep", "serial")].count("kept")
    return {"runs kept": kept}


def compare(folder):
    "Results compared."
    from ddnb.recipe.command import main

    found = sorted(p for p in (folder / "sweep").iterdir() if p.is_dir())[:500]
    with redirect_stdout(io.StringIO()) as out:
        code = main(["compare", *map(str, found)])
    return {"results": len(found), "exit status": code, "lines": out.getvalue().count("\n")}


def gallery(folder, n=5000):
    "A gallery of many images."
    import torch

    from ddnb.views import DistilledGallery

    shots = {t: torch.rand(n, 3, 32, 32) for t in range(3)}
    view = DistilledGallery(shots, torch.arange(100).repeat_interleave(n // 100))
    pages = 0
    for how in [value for _, value in view.c_how.options]:
        view.c_how.value = how
        for c in [value for _, value in view.c_class.options]:
            view.c_class.value = c
            for t in range(3):
                view.c_step.index = t
                pages += 1
    full = resident()
    view.close()
    del view
    tidy()
    return {"pages": pages, "MiB when all was seen": round(full), "widgets left": living()}


def files(folder, n=200_000, classes=100):
    "A folder with many pictures."
    import numpy as np
    from PIL import Image

    from ddnb.data import load

    root = folder / "files"
    draw = np.random.default_rng(0)
    for c in range(classes):
        (root / f"c{c:03}").mkdir(parents=True, exist_ok=True)
        for i in range(n // classes):
            path = root / f"c{c:03}" / f"{i}.png"
            if not path.exists():
                Image.fromarray(draw.integers(0, 255, (8, 8), dtype=np.uint8)).save(path)
    print("  the folder is there", flush=True)
    begun, start = resident(), time.perf_counter()
    data = load(root, size=8)
    counted = {"load s": round(time.perf_counter() - start, 1), "images": len(data.train)}
    counted["MiB of load"] = round(resident() - begun)
    del data
    tidy()
    return counted


ROWS = {f.__name__: f for f in (studios, sweep, again, compare, gallery, files)}


def measure(name, folder):
    "A row in this process."
    import ddnb.recipe.performing
    import ddnb.views  # noqa: F401  what is loaded once is no growth

    begun, start = resident(), time.perf_counter()
    counted = ROWS[name](folder)
    seconds = time.perf_counter() - start
    tidy()
    sizes = {"start": begun, "most": most(), "end": resident()}
    row = {"what": ROWS[name].__doc__, "seconds": round(seconds, 1)}
    return row | {k: round(v) for k, v in sizes.items()} | {"counted": counted}


def show(rows):
    "The table."
    head = "what", "seconds", "MiB at start", "at most", "at the end", "counted"
    print("|", " | ".join(head), "|\n" + "|---" * len(head) + "|")
    for r in rows.values():
        counted = ", ".join(f"{k} {v:,}" for k, v in r["counted"].items())
        sizes = f"{r['start']:,} | {r['most']:,} | {r['end']:,}"
        print(f"| {r['what']} | {r['seconds']:,} | {sizes} | {counted} |")


def main():
    a = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    a.add_argument("folder", type=Path)
    a.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    a.add_argument("--again", nargs="+", choices=ROWS, default=[])
    a.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    a = a.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("DDNB_CACHE", str(a.folder / "cache"))
    if a.row:
        print(json.dumps(measure(a.row, a.folder)))
        return
    there = a.folder / "load.json"
    rows = json.loads(there.read_text()) if there.exists() else {}
    for name in a.only:
        if name in rows and name not in a.again:
            continue
        print(f"{name} ...", flush=True)
        call = [sys.executable, __file__, str(a.folder), "--row", name]
        with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as p:
            for line in p.stdout:
                if line.startswith("{"):
                    rows[name] = json.loads(line)
                else:
                    print(line, end="", flush=True)
        there.write_text(json.dumps(rows, indent=1))
    show({name: rows[name] for name in ROWS if name in rows})


if __name__ == "__main__":
    main()
