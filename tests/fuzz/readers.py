"""Every reader with what it is fed: a strategy of cases, and what is done with a case.

A case may be taken or refused in a sentence; anything else is a defect.
"""

import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

import strategies as s
from ddnb.base.checkpoint import Checkpoint, Log
from ddnb.base.forms import read_json
from ddnb.base.rng import rng
from ddnb.data import Norm, load
from ddnb.data.pictures import open_picture, picture
from ddnb.judge import Results
from ddnb.judge.cell import cells, check_piece, record
from ddnb.prune import Kept, keep
from ddnb.latent import load_prior, random_prior
from ddnb.nets import net_for
from ddnb.recipe import Recipe, compare
from ddnb.recipe.commands import COMMANDS
from ddnb.recipe.options import parse, spelled
from ddnb.recipe.plan import jobs_of, read_sweep
from ddnb.recipe.saving import curve_in_words, trouble
from ddnb.recipe.sets import networks, set_at
from ddnb.recipe.sweeping import attempts
from ddnb.share import EXPORTS, Classifier, Distilled, card, load_classifier, read, save
from ddnb.share import save_classifier, to_markdown
from ddnb.share import load as load_set
from ddnb.trajectory import Experts, Window, read_buffers
from ddnb.trajectory.experts import piece

BOX = Path(tempfile.mkdtemp(prefix="fuzz"))
DIGITS = load("digits")


def _set():
    x, y = torch.randn(6, 3, 8, 8, generator=rng(0)), torch.arange(3).repeat_interleave(2)
    story = card(data=DIGITS, network={"name": "ConvNet"}, metrics=[{"mean": 0.5}], seed=0)
    return Distilled(x, y, ["cat", "dog", "eel"], Norm([0.4] * 3, [0.3] * 3), 0.1, story)


SET = _set()
GOOD = save(SET, BOX / "good")
FILE = GOOD / "distilled.safetensors"
EXPORTED = {name: write(SET, BOX / name) for name, write in EXPORTS.items()}
KEPT = keep(torch.rand(len(DIGITS.train), generator=rng(0)), DIGITS, 0.05)
KEPT.to_json(BOX / "kept.json")
KEPT.to_csv(BOX / "kept.csv")


def _piece():
    "A cell, and what a network of it may have left."
    cell = cells({"kept": DIGITS.keep(KEPT)}, DIGITS)[0]
    confusion = (torch.eye(10, dtype=torch.int64) * 3).tolist()
    sure = {"auroc": 0.9, "calibration": 0.1}
    left = {"key": cell.key, "seed": 0, "confusion": confusion, "loss": 0.1, "seconds": 1.0}
    return cell, left | sure | {"images": 60, "counts": [6] * 10}


CELL, PIECE = _piece()
RECORDS = [record(CELL, [PIECE, PIECE | {"seed": 1}])]
RUN = Path(__file__).parent.parent / "frozen" / "format1"


def _expert():
    "A file of three snapshots of five weights, and its card."
    told = {"recipe": {"per_epoch": 1, "dtype": "float32", "seed": 0}, "params": 5, "rows": 3}
    told |= {"first": 0, "last": 2, "spec": {"name": "ConvNet"}}
    return piece(0, torch.randn(3, 5, generator=rng(0)), told)


def _model():
    "A classifier's file."
    net = net_for(DIGITS, "ConvNet", width=4, depth=1)(rng(0))
    model = Classifier(net, DIGITS.classes, DIGITS.norm, {})
    return save_classifier(model, BOX / "model.safetensors")


EXPERT, MODEL = _expert(), _model()
PRIOR = random_prior("ldm", generator=rng(0), channels=1, size=8, classes=3, width=16)
PRIOR = PRIOR.save(BOX / "prior")
PRIOR_FILES = sorted(str(p.relative_to(PRIOR)) for p in PRIOR.rglob("*") if p.is_file())


def fresh(name):
    "A folder of this name with nothing in it."
    shutil.rmtree(BOX / name, ignore_errors=True)
    (BOX / name).mkdir()
    return BOX / name


def _as_bytes(v):
    "Bytes as they are, anything else as JSON."
    return v if isinstance(v, bytes) else json.dumps(v).encode()


def shown(d):
    "All that is done with a set that was read."
    to_markdown(d).encode()
    str(d.card.get("metrics"))
    networks(d, DIGITS)
    return d.display


# ---- what is done with a case


def read_folder(tree):
    return load(BOX / "tree", size=8, errors="skip")


def read_picture(raw):
    return picture(open_picture(io.BytesIO(raw), "a picture", 8), 8, 3)


def read_artifact(raw):
    folder = fresh("case")
    (folder / "distilled.safetensors").write_bytes(raw)
    return shown(load_set(folder))


def read_card(story):
    "A forged card with a valid checksum."
    from ddnb.base.files import load_tensors, save_tensors

    folder = fresh("case")
    save_tensors(folder / "distilled.safetensors", load_tensors(FILE)[0], story)
    return shown(load_set(folder))


def read_beside(story):
    "The readable card beside the tensors."
    shutil.copytree(GOOD, fresh("case") / "set")
    text = _as_bytes(story)
    (BOX / "case" / "set" / "card.json").write_bytes(text)
    return shown(set_at(BOX / "case" / "set"))


def read_note(case):
    form, note = case
    shutil.copytree(EXPORTED[form], fresh("case") / form)
    text = _as_bytes(note)
    (BOX / "case" / form / "ddnb.json").write_bytes(text)
    return shown(read(BOX / "case" / form))


def read_archive(raw):
    "A .pt file."
    file = fresh("case") / "images_best.pt"
    file.write_bytes(raw)
    shutil.copy(EXPORTED["mtt"] / "labels_best.pt", file.parent)
    return shown(read(file))


def read_saved(case):
    "Tensors of any kind in .pt files."
    folder = fresh("case")
    for name, v in zip(("images_best", "labels_best", "lr_best"), case):
        torch.save(v, folder / f"{name}.pt")
    return shown(read(folder))


def read_buffer(case):
    file = fresh("case") / "replay_buffer_0.pt"
    torch.save(case, file)
    return read_buffers(file)


def read_arrays(raw):
    file = fresh("case") / "set.npz"
    file.write_bytes(raw)
    return shown(read(file))


def read_parquet(raw):
    file = fresh("case") / "train.parquet"
    file.write_bytes(raw)
    return load(file, size=8, errors="skip")


def read_tensors(case):
    x, y = case
    try:
        return load((x, y))
    finally:
        Distilled(x, y, ["a", "b", "c"])


def read_log(lines):
    folder = fresh("case")
    raw = b"\n".join(_as_bytes(n) for n in lines)
    (folder / "records.jsonl").write_bytes(raw)
    history = Log(folder / "records.jsonl", "me", "mine").cut(6)
    return curve_in_words(history)


def read_piece(v):
    file = fresh("case") / "network-0.json"
    file.write_bytes(_as_bytes(v))
    found = check_piece(read_json(file), CELL, 0, file)
    return Results([record(CELL, [found, PIECE])]).to_markdown().encode()


def read_results(v):
    file = fresh("case") / "results.json"
    file.write_bytes(_as_bytes(v))
    found = Results.from_json(file)
    if len(found):
        found.to_markdown().encode(), found.to_latex().encode(), found._repr_html_().encode()


def read_done(v):
    "The results of a run folder."
    folder = fresh("case")
    shutil.copytree(GOOD, folder / "run")
    (folder / "run" / "results.json").write_bytes(_as_bytes(v))
    return trouble(folder / "run", "me")


def read_recipe(text):
    file = fresh("case") / "recipe.yaml"
    file.write_bytes(text if isinstance(text, bytes) else _yaml(text))
    Recipe.read(file).text().encode()


def _yaml(obj):
    import yaml

    try:
        return yaml.safe_dump(obj).encode("utf-8", "replace")
    except RecursionError:
        return b"["


def read_kept(case):
    suffix, raw = case
    file = fresh("case") / f"kept{suffix}"
    file.write_bytes(_as_bytes(raw))
    found = Kept.from_csv(file) if suffix == ".csv" else Kept.from_json(file)
    found._repr_html_().encode("utf-8", "replace")
    found.check(DIGITS)


def read_checkpoint(case):
    from ddnb.base.files import save_tensors

    folder = fresh("case")
    if isinstance(case, bytes):
        (folder / "checkpoint.safetensors").write_bytes(case)
    else:
        save_tensors(folder / "checkpoint.safetensors", {"/w": torch.ones(2)}, case)
    return Checkpoint(folder).read()


def read_sweep_file(text):
    file = fresh("case") / "sweep.yaml"
    file.write_bytes(text if isinstance(text, bytes) else _yaml(text))
    return jobs_of(read_sweep(file))


def read_compared(case):
    "A finished run's results and its notes on who worked there, compared with another run."
    told, lines = case
    fresh("case")
    for name in ("a", "b"):
        shutil.copytree(RUN, BOX / "case" / name)
    (BOX / "case" / "a" / "results.json").write_bytes(_as_bytes(told))
    (BOX / "case" / "a" / ".attempts.jsonl").write_bytes(b"\n".join(map(_as_bytes, lines)))
    attempts(BOX / "case" / "a")
    found = compare(BOX / "case", log=None)
    return found.to_text().encode(), found.to_csv().encode(), found._repr_html_().encode()


def read_experts(case):
    "Bytes of an expert's file, or a card beside tensors."
    from ddnb.base.files import save_tensors

    file = fresh("case") / "expert_0000.safetensors"
    if isinstance(case, bytes):
        file.write_bytes(case)
    else:
        save_tensors(file, EXPERT[0], case)
    found = Experts(file.parent)
    repr(found).encode(), found.fingerprint
    found.rows(0, [found.first, found.max_epoch])
    Window(expert_epochs=1).within(found.max_epoch)
    return found.verify()


def read_model(case):
    from ddnb.base.files import load_tensors, save_tensors

    file = fresh("case") / "model.safetensors"
    if isinstance(case, bytes):
        file.write_bytes(case)
    else:
        save_tensors(file, load_tensors(MODEL)[0], case)
    model = load_classifier(file)
    repr(model).encode()
    return model.probabilities(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


def read_prior(case):
    "A prior one of whose files is another."
    name, content = case
    shutil.copytree(PRIOR, fresh("case") / "prior")
    (BOX / "case" / "prior" / name).write_bytes(_as_bytes(content))
    return load_prior(BOX / "case" / "prior")


def read_line(words):
    "Understood, or refused; nothing is carried out."
    return parse(words)


# ---- what it is fed


def _parquet(columns, note):
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    try:
        table = pa.table(columns)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError, UnicodeEncodeError):
        table = pa.table({"label": [1]})
    text = json.dumps(note).encode()
    pq.write_table(table.replace_schema_metadata({"huggingface": text, "ddnb": text}), out)
    return out.getvalue()


@st.composite
def _tables(draw):
    n = draw(st.integers(1, 5))
    cells = [
        draw(
            st.sampled_from([{"bytes": s.picture(), "path": None}] * 3 + [None])
            | st.fixed_dictionaries({"bytes": st.none() | s.damaged_pictures, "path": s.words})
        )
        for _ in range(n)
    ]
    labels = draw(
        st.lists(st.integers(0, 2), min_size=n, max_size=n)
        | st.lists(st.none() | s.numbers, min_size=n, max_size=n)
        | st.lists(s.words, min_size=n, max_size=n)
    )
    names = draw(st.sampled_from([("image", "label")] * 4 + [("a", "b"), ("image", "image2")]))
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    note = draw(
        st.just({"info": {"features": features}}) | s.altered({"info": {"features": features}})
    )
    return _parquet(dict(zip(names, (cells, labels))), note)


def _npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _stored(raw):
    "The bytes of an archive's members mangled, its checksums put right."
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw[0])) as z, zipfile.ZipFile(out, "w") as new:
        for i, info in enumerate(z.infolist()):
            new.writestr(info.filename, raw[1] if i == raw[2] else z.read(info))
    return out.getvalue()


@st.composite
def _archives(draw, raw):
    "An archive with one of its members mangled."
    with zipfile.ZipFile(io.BytesIO(raw)) as z:
        i = draw(st.integers(0, len(z.infolist()) - 1))
        return _stored((raw, draw(s.mangled(z.read(z.infolist()[i]))), i))


GOOD_PT = (EXPORTED["mtt"] / "images_best.pt").read_bytes()
GOOD_NPZ = _npz(x=SET.display.numpy(), y=SET.y.numpy())
LINES = [{"run": "me", "recipe": "mine"}] + [
    {"step": i, "steps": 6, "loss": 1 / i, "alpha": 0.1} for i in range(1, 7)
]
DONE = {"run": "me", "files": {"results.md": "0"}, "results": RECORDS}
STATE = {"settings": {}, "step": 1, "backed_off": 0, "state": {"d": [["w", {"t": "/w"}]]}}
NOTES = {k: json.loads((p / "ddnb.json").read_text()) for k, p in EXPORTED.items()}
RECIPE = Recipe().plain()
OPTIONS = sorted({o for c in COMMANDS for o in spelled(c)})
PATHS = [str(GOOD), str(EXPORTED["imagefolder"]), "nowhere", str(BOX)]


def _with(path):
    "The bytes of a file mangled, as they are, or as text."
    return s.mangled(Path(path).read_bytes())


@st.composite
def _logs(draw):
    lines = draw(s.altered(LINES))
    lines = lines if isinstance(lines, list) else [lines]
    if draw(st.booleans()):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.binary(max_size=20)))
    return lines


@st.composite
def _trees(draw):
    fresh("tree")
    return str(draw(s.trees(str(BOX / "tree"))))


CARD = json.loads((GOOD / "card.json").read_text())


def _is_dict(v):
    return isinstance(v, dict)


def _is_list(v):
    return isinstance(v, list)


def _json_of(obj):
    "Plain data altered, or its text mangled."
    return s.altered(obj) | s.mangled(json.dumps(obj).encode())


def _note_of(form):
    return st.tuples(st.just(form), _json_of(NOTES[form]))


def _kept_in(suffix):
    file = BOX / f"kept{suffix}"
    as_plain = s.altered(json.loads(file.read_text())) if suffix == ".json" else st.nothing()
    return st.tuples(st.just(suffix), _with(file) | as_plain)


def _prior_file(name):
    "One file of a prior, altered where it is JSON."
    raw = (PRIOR / name).read_bytes()
    as_plain = s.altered(json.loads(raw)) if name.endswith(".json") else st.nothing()
    return st.tuples(st.just(name), as_plain | s.mangled(raw))


def _card_or_bytes(file):
    "A forged card with a valid checksum, or mangled bytes."
    from ddnb.base.files import read_card

    return s.altered(read_card(file)).filter(_is_dict) | _with(file)


def _expert_file():
    from ddnb.base.files import save_tensors

    return save_tensors(BOX / "expert_0000.safetensors", *EXPERT)


SWEEP = {"sweep": [{"seed": [0, 1], "ipc": [1, 10]}, {"objective": ["DM", "DC"]}], "steps": 3}
TOLD = json.loads((RUN / "results.json").read_text())
ATTEMPTS = [{"event": "began", "time": 1.0, "host": "a", "pid": 1}]
_lines = s.altered(ATTEMPTS) | st.lists(st.binary(max_size=20), max_size=2)
_images = st.sampled_from([torch.rand(30, 1, 4, 4), torch.zeros(30, 3, 4, 4, dtype=torch.uint8)])
_labels = st.sampled_from([torch.arange(30) % 3, torch.arange(30.0) % 2, torch.arange(30) % 3 * 9])
_snapshots = st.lists(s.tensors(), max_size=2)
_experts = st.lists(st.lists(_snapshots, max_size=2), max_size=2)
_saved = st.tuples(*[s.tensors() | st.lists(s.tensors(), max_size=3) | s.values] * 3)

READERS = {  # name -> (cases, what is done with one)
    "folders": (_trees(), read_folder),
    "pictures": (s.damaged_pictures, read_picture),
    "parquet": (_tables() | _tables().flatmap(s.mangled), read_parquet),
    "tensors": (st.tuples(s.tensors() | _images, s.tensors() | _labels), read_tensors),
    "pt": (s.mangled(GOOD_PT) | _archives(GOOD_PT), read_archive),
    "pt of anything": (_saved, read_saved),
    "buffers": (_experts, read_buffer),
    "npz": (s.mangled(GOOD_NPZ) | _archives(GOOD_NPZ), read_arrays),
    "sets": (_with(FILE), read_artifact),
    "cards": (s.altered(CARD).filter(_is_dict), read_card),
    "cards beside": (_json_of(CARD), read_beside),
    "notes": (st.sampled_from(sorted(NOTES)).flatmap(_note_of), read_note),
    "logs": (_logs(), read_log),
    "cells": (_json_of(PIECE), read_piece),
    "results": (_json_of({"results": RECORDS}), read_results),
    "run folders": (_json_of(DONE), read_done),
    "recipes": (s.altered(RECIPE) | s.mangled(_yaml(RECIPE)), read_recipe),
    "kept": (st.sampled_from([".json", ".csv"]).flatmap(_kept_in), read_kept),
    "checkpoints": (s.altered(STATE).filter(_is_dict), read_checkpoint),
    "sweep files": (s.altered(SWEEP) | s.mangled(_yaml(SWEEP)), read_sweep_file),
    "compared": (st.tuples(_json_of(TOLD), _lines.filter(_is_list)), read_compared),
    "experts": (_card_or_bytes(_expert_file()), read_experts),
    "models": (_card_or_bytes(MODEL), read_model),
    "priors": (st.sampled_from(PRIOR_FILES).flatmap(_prior_file), read_prior),
    "command lines": (s.command_lines(OPTIONS, list(COMMANDS), PATHS), read_line),
}
