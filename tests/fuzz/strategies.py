"""What a stranger may hand over: plain data, bytes, pictures, folders, tables, tensors, command
lines.
"""

import io
import json
import os
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

NASTY = [
    "",
    " ",
    "..",
    "../../etc/passwd",
    "/abs",
    "a/b",
    "con",
    "x" * 300,
    "犬",
    "e\u0301",
    "\u202etxt.exe",
    "\ud800",
    "caf\udce9",
    "\x00",
    "a\nb",
    "-rf",
    "<img src=x onerror=alert(1)>",
    "|a|b|",
    "\\input{x}",
    "*a_b*",
    "$HOME",
    "{why}",
    "%s",
]
words = st.sampled_from(NASTY) | st.text(max_size=12)
numbers = (
    st.integers(-3, 12)
    | st.sampled_from([2**31, 2**63, -(2**70), 10**400, 387_420_489])
    | st.floats()
)
atoms = st.none() | st.booleans() | numbers | words
values = st.recursive(
    atoms,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=3),
    max_leaves=8,
)


def _deep(n, kind):
    v = 1
    for _ in range(n):
        v = [v] if kind == "list" else {"a": v}
    return v


deep = st.builds(_deep, st.sampled_from([50, 200, 700]), st.sampled_from(["list", "dict"]))


def _places(obj, at=()):
    "The paths to every value inside plain data."
    if not isinstance(obj, (dict, list)):
        return
    for k, v in obj.items() if isinstance(obj, dict) else enumerate(obj):
        yield (*at, k)
        yield from _places(v, (*at, k))


@st.composite
def altered(draw, obj):
    "Plain data with one to three values replaced, removed or added."
    obj = json.loads(json.dumps(obj))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(obj))
        if not places:
            return draw(values)
        *way, last = draw(st.sampled_from(places))
        inside = obj
        for k in way:
            inside = inside[k]
        act = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if act == "remove":
            del inside[last]
        elif act == "add" and isinstance(inside, dict):
            inside[draw(words)] = draw(values)
        else:
            inside[last] = draw(values | deep)
    return obj


@st.composite
def mangled(draw, raw):
    "Bytes with a few of them flipped, cut, repeated, zeroed, or followed by others."
    raw = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        if not raw:
            return b""
        at = draw(st.integers(0, len(raw) - 1))
        n = draw(st.integers(1, 64))
        act = draw(st.sampled_from(["flip", "flip", "set", "cut", "zero", "repeat", "insert"]))
        if act == "flip":
            raw[at] ^= 1 << draw(st.integers(0, 7))
        elif act == "set":
            raw[at] = draw(st.sampled_from([0, 1, 127, 128, 255]))
        elif act == "cut":
            del raw[at : at + (n if draw(st.booleans()) else len(raw))]
        elif act == "zero":
            raw[at : at + n] = bytes(len(raw[at : at + n]))
        elif act == "repeat":
            raw[at:at] = raw[at : at + n]
        else:
            raw[at:at] = draw(st.binary(max_size=32))
    return bytes(raw)


FORMATS = ["png", "jpeg", "bmp", "gif", "webp", "tiff", "ppm"]


def picture(form="png", side=8, mode="RGB"):
    "A small picture as bytes."
    out = io.BytesIO()
    a = np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8)
    im = Image.fromarray(a).convert(mode)
    im.save(out, form)
    return out.getvalue()


pictures = st.builds(
    picture,
    st.sampled_from(FORMATS),
    st.sampled_from([1, 2, 8, 17]),
    st.sampled_from(["RGB", "L", "1"]),
)
damaged_pictures = pictures.flatmap(mangled) | pictures | st.binary(max_size=40)

_KINDS = ["picture", "picture", "picture", "damaged", "text", "pipe", "link", "loop", "folder"]


@st.composite
def trees(draw, root):
    "A folder of class folders, made on the disk; returns its path."
    made = 0
    for c in ("cat", "dog") if draw(st.booleans()) else ():
        for i in range(5):
            made += _put(Path(root), c, f"good{i}.png", "picture", draw)
    for c in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(["cat", "dog", "eel", "train", "test", ".h"]) | words)
        for i in range(draw(st.integers(0, 4))):
            kind = draw(st.sampled_from(_KINDS))
            suffix = draw(st.sampled_from([".png", ".jpg", ".txt", ".parquet", ""]))
            try:
                made += _put(Path(root), name, f"{i}{suffix}", kind, draw)
            except (OSError, ValueError):
                continue  # a name that no file can have
    return root


def _put(root, name, file, kind, draw):
    folder = root / name.replace("/", "_").lstrip(".")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    if kind == "picture":
        path.write_bytes(draw(pictures))
    elif kind == "damaged":
        path.write_bytes(draw(damaged_pictures))
    elif kind == "text":
        path.write_text(draw(st.text(max_size=9)), errors="replace")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(draw(st.sampled_from(["/dev/zero", "/dev/null", "nowhere", "0.png"])))
    elif kind == "loop":
        (folder / "again").symlink_to(root if draw(st.booleans()) else folder)
    else:
        (folder / "/".join("d" * draw(st.sampled_from([1, 5, 40])))).mkdir(parents=True)
    return 1


DTYPES = [
    torch.uint8,
    torch.int8,
    torch.int64,
    torch.bool,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
]


@st.composite
def tensors(draw):
    "Any small tensor, some of them sparse, without content, or views of one number."
    shape = draw(st.lists(st.integers(0, 6), max_size=5))
    kind = draw(st.sampled_from(["plain"] * 6 + ["sparse", "meta", "wide", "nan", "quantised"]))
    dtype = draw(st.sampled_from(DTYPES))
    if kind == "meta":
        return torch.zeros(shape, dtype=dtype, device="meta")
    if kind == "wide":
        return torch.zeros(1, dtype=dtype).expand(*[draw(st.sampled_from([1, 4, 40_000]))] * 4)
    x = (torch.rand(shape) * draw(st.sampled_from([0, 1, 1.5, 9, 255, 1e9, -1]))).to(dtype)
    if kind == "sparse" and x.ndim:
        return x.to_sparse()
    if kind == "nan" and x.is_floating_point():
        return x * float("nan")
    if kind == "quantised" and x.is_floating_point() and dtype == torch.float32:
        return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
    return x


TEXTS = (
    st.sampled_from(
        "0 1 -1 1e9 1e-3 nan inf true null auto easy DM IADD digits cpu cuda:9 [1,2] {a:1} *x &x "
        "2024-13-45 0x10 1_000 !!python/object:os.system".split()
    )
    | words
)


@st.composite
def command_lines(draw, options, commands, paths):
    "Words after `ddnb`: known and unknown commands, options and values in any order."
    line = [draw(st.sampled_from(commands) | words)]
    for _ in range(draw(st.integers(0, 5))):
        option = draw(st.sampled_from(options) | words)
        value = draw(TEXTS | st.sampled_from(paths) | deep.map(json.dumps))
        joined = draw(st.sampled_from(["=", " ", "alone", "value"]))
        line += {
            "=": [f"{option}={value}"],
            " ": [option, value],
            "alone": [option],
            "value": [value],
        }[joined]
    return [word.replace("\0", "") for word in line]
