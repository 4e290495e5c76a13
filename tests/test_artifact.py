"""Distilled sets: round trips through every format, and a corpus of damaged, foreign and
hostile files.
"""

import json, os, pickle, shutil, struct, subprocess, sys, zipfile, zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from safetensors.torch import save_file

from ddnb import artifact
from ddnb.artifact import (
    Distilled,
    folder_names,
    from_imagefolder,
    from_npz,
    load,
    read,
    save,
    to_imagefolder,
    to_mtt,
    to_parquet,
)
from ddnb.data import Norm, rng
from ddnb.store import DdnbError, load_tensors, save_tensors

FILE, NAMES = "distilled.safetensors", ["cat", "dog", "tree"]


def make(c=3, size=8, soft=False, alpha=0.1, names=NAMES, zca=None, ipc=2):
    "A small set whose pixels leave the displayable range."
    n, g = ipc * len(names), rng(0)
    y = (
        torch.randn(n, len(names), generator=g).softmax(1)
        if soft
        else torch.arange(len(names)).repeat_interleave(ipc)
    )
    return Distilled(
        2 * torch.randn(n, c, size, size, generator=g),
        y,
        names,
        Norm([0.4] * c, [0.3] * c, zca),
        alpha,
        artifact.card(seed=3),
    )


def whitening(c=3, size=8):
    p = c * size * size
    w = torch.randn(p, p, generator=rng(1)) / p + torch.eye(p)
    return dict(mean=torch.rand(p, generator=rng(2)), W=w, inv=torch.linalg.inv(w))


@pytest.mark.parametrize(
    "kw",
    [
        {},
        dict(c=1),
        dict(soft=True),
        dict(alpha=None),
        dict(zca=whitening()),
        dict(names=["../..", "a/b", "犬", "A", "a"]),
    ],
    ids=str,
)
def test_save_and_load_are_exact(tmp_path, kw):
    d = make(**kw)
    e = load(save(d, tmp_path / "set"))
    assert (
        torch.equal(d.x, e.x)
        and torch.equal(d.y, e.y)
        and (d.classes, d.alpha) == (e.classes, e.alpha)
    )
    assert all(torch.equal(v, e.norm.state()[k]) for k, v in d.norm.state().items())
    assert torch.equal(e.display, d.display) and e.card["seed"] == 3
    assert torch.equal(load_tensors(tmp_path / "set" / FILE)[0]["display"], d.display)


def test_a_fresh_process_reads_the_same_numbers(tmp_path):
    d = make(soft=True)
    save(d, tmp_path / "set")
    code = (
        "from ddnb.artifact import load; from ddnb.store import sha256; "
        f"d = load({str(tmp_path / 'set')!r}); "
        "print(sha256(d.x, d.y, d.classes, d.norm.mean), d.alpha)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    from ddnb.store import sha256

    assert out == [sha256(d.x, d.y, d.classes, d.norm.mean), str(d.alpha)]


def test_equal_sets_give_equal_bytes_and_nothing_is_overwritten(tmp_path):
    for f in "ab":
        save(make(), tmp_path / f)
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()
    before = (tmp_path / "a" / FILE).read_bytes()
    with pytest.raises(DdnbError, match="already holds"):
        save(make(alpha=0.2), tmp_path / "a")
    assert (tmp_path / "a" / FILE).read_bytes() == before
    save(make(alpha=0.2), tmp_path / "a", overwrite=True)
    assert load(tmp_path / "a").alpha == 0.2


def test_what_a_killed_writer_left_goes_with_the_next_save(tmp_path):
    (tmp_path / "a").mkdir()
    for name in (FILE, "card.json"):
        (tmp_path / "a" / f".{name}.17-00ff.tmp").write_bytes(b"half")
    save(make(), tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["card.json", FILE]


@pytest.mark.parametrize("kw", [{}, dict(c=1), dict(soft=True)], ids=str)
@pytest.mark.parametrize("form", list(artifact.EXPORTS))
def test_every_export_is_read_back(tmp_path, form, kw):
    d = make(**kw)
    e = read(artifact.EXPORTS[form](d, tmp_path / form))
    want = d if form in ("mtt", "ddranking", "npz") else d.clipped()
    order = (
        torch.cat([(d.hard == c).nonzero()[:, 0] for c in range(len(NAMES))])
        if form == "imagefolder"
        else torch.arange(len(d))
    )
    torch.testing.assert_close(e.x, want.x[order], atol=1e-5, rtol=0)
    assert torch.equal(e.hard, d.hard[order]) and (e.classes, e.alpha) == (
        d.classes,
        pytest.approx(d.alpha),
    )
    if form != "imagefolder":
        torch.testing.assert_close(e.y, d.y, atol=1e-6, rtol=0)


def test_other_tools_can_read_the_exports(tmp_path):
    from torchvision.datasets import ImageFolder

    d = make()
    to_imagefolder(d, tmp_path / "png")
    to_mtt(d, tmp_path / "mtt")
    to_parquet(d, tmp_path / "hf")
    f = ImageFolder(tmp_path / "png")
    assert (
        f.classes == NAMES
        and f.targets == d.y.tolist()
        and np.array_equal(np.array(f[0][0]), d.display[0].permute(1, 2, 0).numpy())
    )
    assert torch.equal(torch.load(tmp_path / "mtt" / "images_best.pt", weights_only=True), d.x)
    assert torch.load(tmp_path / "mtt" / "lr_best.pt", weights_only=True) == 0.1
    import pyarrow.parquet as pq

    t = pq.read_table(tmp_path / "hf" / "data")
    info = json.loads(t.schema.metadata[b"huggingface"])["info"]["features"]
    assert (
        info["label"] == {"names": NAMES, "_type": "ClassLabel"}
        and info["image"] == {"_type": "Image"}
        and t["label"].to_pylist() == d.y.tolist()
    )


def test_clipping_is_judged_when_asked(tmp_path):
    d, seen = make(), []
    to_imagefolder(
        d,
        tmp_path / "png",
        score=lambda s: seen.append(s.x) or dict(mean=0.5, std=0.1, n=len(seen), split="valid"),
    )
    note = json.loads((tmp_path / "png" / "ddnb.json").read_text())
    assert (
        torch.equal(seen[0], d.x)
        and torch.equal(seen[1], d.clipped().x)
        and not torch.equal(seen[0], seen[1])
    )
    assert [(m["set"], m["n"]) for m in note["metrics"]] == [("exact", 1), ("as exported", 2)]
    assert "| as exported | 50.0 |" in (tmp_path / "png" / "README.md").read_text()


def test_an_export_is_whole_or_absent(tmp_path):
    def fails(s):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        to_imagefolder(make(), tmp_path / "a", score=fails)
    with pytest.raises(DdnbError, match="1 to 4 channels"):
        to_imagefolder(make(c=5), tmp_path / "a")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.txt").write_text("keep")
    with pytest.raises(DdnbError, match="not empty"):
        to_mtt(make(), tmp_path / "mine")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["mine", "x.txt"]


def test_foreign_files_without_a_card(tmp_path):
    d = make(soft=True)
    for k, v in dict(images_300=d.x, images_best=d.x + 1, labels_300=d.y.log()).items():
        torch.save(v, tmp_path / f"{k}.pt")
    torch.save(d.x[:3], tmp_path / "images_9.pt")
    e = artifact.from_mtt(tmp_path / "images_300.pt")  # a file names its siblings
    assert torch.equal(e.x, d.x) and e.classes == ["0", "1", "2"]
    torch.testing.assert_close(e.y, d.y)
    assert torch.equal(
        artifact.from_mtt(tmp_path, classes=NAMES).x, d.x + 1
    )  # a folder gives the best; no labels there: class after class
    np.savez(
        tmp_path / "u.npz",
        images=d.display.permute(0, 2, 3, 1).numpy(),
        labels=d.hard.numpy(),
        classes=np.array(NAMES),
    )
    e = from_npz(tmp_path / "u.npz", norm=d.norm)
    torch.testing.assert_close(e.x, d.clipped().x)
    assert e.classes == NAMES


NASTY = [
    "../../etc/passwd",
    "/abs",
    "..",
    ".",
    "a/b",
    "a\\b",
    "C:\\x",
    "con",
    "NUL",
    "Straße",
    "STRASSE",
    "strasse",
    "犬",
    "e\u0301",
    "é",
    "x" * 400,
    "犬" * 100,
    "\x00",
    "\n",
    "a b",
    " a",
    "-rf",
    "~",
    "$HOME",
    "🙂",
    "a.",
    "a",
]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.one_of(st.text(min_size=1, max_size=30), st.sampled_from(NASTY)).filter(str.strip),
        min_size=1,
        max_size=25,
        unique=True,
    )
)
def test_folder_names_are_harmless_distinct_and_in_order(names):
    out = folder_names(names)
    assert out == sorted(out) and len({o.lower() for o in out}) == len(names)
    assert all(
        o == Path(o).name
        and o not in (".", "..")
        and not o.startswith((".", "-", "~"))
        and len(o.encode()) < 200
        and not set(o) & set('/\\:*?"<>|\0\n')
        for o in out
    )


def test_hostile_class_names_stay_inside_and_come_back(tmp_path):
    names = [n for n in NASTY if n.strip()]
    d = make(c=1, size=4, names=names, ipc=1)
    (tmp_path / "box").mkdir()
    to_imagefolder(d, tmp_path / "box" / "png")
    assert [p.name for p in tmp_path.iterdir()] == ["box"] and [
        p.name for p in (tmp_path / "box").iterdir()
    ] == ["png"]
    assert from_imagefolder(tmp_path / "box" / "png").classes == names
    assert load(save(d, tmp_path / "set")).classes == names
    assert "\n" not in artifact.to_markdown(d).split("Classes in label order")[1].split("- **")[
        0
    ].strip("\n")


# ---- the corpus: name, what is done to a good set (or instead of one), what the reader must say


class Boom:
    def __reduce__(self):
        return (os._exit, (13,))


def png_claiming(w, h):
    chunk = lambda k, b: struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 5000))
        + chunk(b"IEND", b"")
    )


def edit(name, **kw):
    def f(p):
        c = json.loads((p / name).read_text())
        c.update(kw)
        (p / name).write_text(json.dumps(c))

    return f


def repack(change):
    "Rewrite the tensor file with a valid checksum, as an attacker or a buggy tool would."

    def f(p):
        t, c = load_tensors(p / FILE)
        (p / "card.json").unlink()
        t, c = change(dict(t), dict(c)) or (t, c)
        save_tensors(p / FILE, t, c)

    return f


def drop(k):
    return repack(lambda t, c: (t.pop(k), (t, c))[1])


def put(**kw):
    return repack(lambda t, c: (t | kw, c))


def say(**kw):
    return repack(lambda t, c: (t, c | kw))


def flip(i):
    def f(p):
        b = bytearray((p / FILE).read_bytes())
        b[i] ^= 1
        (p / FILE).write_bytes(bytes(b))

    return f


def cut(n):
    return lambda p: (p / FILE).write_bytes((p / FILE).read_bytes()[:n])


def raw(b):
    return lambda p: (p / FILE).write_bytes(b)


def header(js):
    return raw(struct.pack("<Q", len(js)) + js)


SETS = {
    "altered byte at the end": (flip(-3), "checksum"),
    "altered byte in the middle": (flip(4000), "checksum"),
    "cut in the data": (cut(4000), "cut short"),
    "cut in the header": (cut(100), "cut short"),
    "cut to nothing": (cut(0), "cut short"),
    "wrong class list": (edit("card.json", classes=["dog", "cat", "tree"]), "other classes"),
    "card of another set": (edit("card.json", content="0" * 64), "other images"),
    "future card": (edit("card.json", format=99), "format version 99"),
    "card is not JSON": (lambda p: (p / "card.json").write_text('{"a":'), "not readable JSON"),
    "card is a list": (lambda p: (p / "card.json").write_text("[]"), "not readable JSON"),
    "card nested too deep": (
        lambda p: (p / "card.json").write_text("[" * 100000),
        "not readable JSON",
    ),
    "card is binary": (
        lambda p: (p / "card.json").write_bytes(b"\xff\xfe\x00"),
        "not readable JSON",
    ),
    "huge card": (lambda p: (p / "card.json").write_bytes(b" " * (2**24 + 1)), "was not read"),
    "pickle in disguise": (raw(pickle.dumps(Boom())), "not a file that ddnb wrote"),
    "torch.save in disguise": (
        lambda p: torch.save(Boom(), p / FILE),
        "not a file that ddnb wrote",
    ),
    "oversized header": (raw(struct.pack("<Q", 2**62) + b"{}"), "not a file that ddnb wrote"),
    "header longer than the file": (
        raw(struct.pack("<Q", 5000) + b"{}"),
        "not a file that ddnb wrote",
    ),
    "header is not JSON": (header(b"\x80\x04}"), "not a file that ddnb wrote"),
    "foreign safetensors": (
        lambda p: save_file({"x": torch.ones(2)}, p / FILE),
        "not a file that ddnb wrote",
    ),
    "future format": (
        header(
            json.dumps({"__metadata__": {"ddnb": json.dumps({"format": 99, "card": {}})}}).encode()
        ),
        "format version 99",
    ),
    "no images": (drop("x"), "not a complete distilled set"),
    "no labels": (drop("y"), "not a complete distilled set"),
    "no deviation": (drop("norm.std"), "not a complete distilled set"),
    "labels too short": (put(y=torch.tensor([0, 1])), "6 images but 2 labels"),
    "labels out of range": (put(y=torch.full((6,), 7)), "labels run from 7 to 7"),
    "images without channels": (put(x=torch.zeros(6, 8, 8)), "expected \\[n, channels"),
    "images are NaN": (put(x=torch.full((6, 3, 8, 8), float("nan"))), "NaN"),
    "shape unlike the card": (put(x=torch.zeros(6, 3, 4, 4)), "its card says shape"),
    "classes fewer than labels": (say(classes=["cat", "dog"]), "labels run from 0 to 2"),
    "classes not a list": (say(classes="cat"), "list of non-empty strings"),
    "class twice": (say(classes=["cat", "cat", "dog"]), "occurs twice"),
    "class empty": (say(classes=["", "cat", "dog"]), "non-empty"),
    "alpha negative": (say(alpha=-1.0), "positive"),
    "alpha a word": (say(alpha="fast"), "not a complete distilled set"),
    "no classes": (
        repack(lambda t, c: (c.pop("classes"), (t, c))[1]),
        "not a complete distilled set",
    ),
    "nothing in the folder": (lambda p: [f.unlink() for f in p.iterdir()], "holds no"),
    "not there": (shutil.rmtree, "no artifact at"),
}


@pytest.mark.parametrize("name", SETS)
def test_bad_artifacts_get_one_sentence(tmp_path, name):
    harm, says = SETS[name]
    p = save(make(), tmp_path / "set")
    harm(p)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    with pytest.raises(DdnbError, match=says) as e:
        load(p)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400 + len(str(tmp_path))
    assert before == {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}


def folder(p, **files):
    for k, v in files.items():
        f = p / k.replace("__", "/")
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_bytes(v) if isinstance(v, bytes) else v(f)
    return p


def picture(w=8, h=8, mode="L"):
    return lambda f: Image.new(mode, (w, h)).save(f, "PNG")


def note(**kw):
    return json.dumps(
        {"format": 1, "classes": ["a"], "folders": ["a"], "norm": None, **kw}
    ).encode()


def bomb_zip(f):
    "An archive of two members that claim four gigabytes each."
    with zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x.npy", b"0" * 9999)
        z.writestr("y.npy", b"0" * 9999)
    b = bytearray(f.read_bytes())
    at = -1
    while (at := b.find(b"PK\x01\x02", at + 1)) >= 0:
        b[at + 24 : at + 28] = struct.pack("<I", 2**32 - 16)
    f.write_bytes(bytes(b))


OTHERS = {
    "nowhere": (lambda p: p / "no", "nothing at"),
    "empty folder": (lambda p: p, "no folders with pictures"),
    "class folder without pictures": (lambda p: folder(p, a__x=b"text"), "holds no picture"),
    "a text called png": (
        lambda p: folder(p, **{"a__1.png": b"hello"}),
        "cannot be read as an image",
    ),
    "a cut png": (
        lambda p: folder(p, **{"a__1.png": png_claiming(9, 9)[:52]}),
        "cannot be read as an image",
    ),
    "zip-bomb png": (
        lambda p: folder(p, **{"a__1.png": png_claiming(65500, 65500)}),
        "million",
    ),
    "large png": (
        lambda p: folder(p, **{"a__1.png": png_claiming(5000, 5000)}),
        "million",
    ),
    "two sizes": (
        lambda p: folder(p, **{"a__1.png": picture(), "a__2.png": picture(9, 9)}),
        "different sizes",
    ),
    "note of the future": (
        lambda p: folder(p, **{"a__1.png": picture(), "ddnb.json": note(format=9)}),
        "format version 9",
    ),
    "note with other folders": (
        lambda p: folder(p, **{"a__1.png": picture(), "ddnb.json": note(folders=["../x"])}),
        "not those its ddnb.json lists",
    ),
    "note with broken statistics": (
        lambda p: folder(
            p, **{"a__1.png": picture(), "ddnb.json": note(norm={"mean": "x", "std": 1})}
        ),
        "statistics",
    ),
    "note is a list": (
        lambda p: folder(p, **{"a__1.png": picture(), "ddnb.json": b"[1]"}),
        "ddnb.json",
    ),
    "note with too few classes": (
        lambda p: folder(
            p,
            **{"a__1.png": picture(), "b__1.png": picture(), "ddnb.json": note(folders=["a", "b"])},
        ),
        "but there are 1 classes",
    ),
    "pickle in .pt": (
        lambda p: folder(p, **{"images_best.pt": lambda f: torch.save(Boom(), f)}),
        "could run code",
    ),
    "bare pickle in .pt": (
        lambda p: folder(p, **{"images_best.pt": pickle.dumps(Boom())}),
        "could run code",
    ),
    "words in .pt": (
        lambda p: folder(p, **{"images_best.pt": lambda f: torch.save(["a"], f)}),
        "holds no tensor",
    ),
    "no labels, no classes": (
        lambda p: folder(p, **{"images_best.pt": lambda f: torch.save(torch.ones(2, 1, 4, 4), f)}),
        "no labels",
    ),
    "lr is a vector": (
        lambda p: folder(
            p,
            **{
                "images_best.pt": lambda f: torch.save(torch.ones(2, 1, 4, 4), f),
                "labels_best.pt": lambda f: torch.save(torch.tensor([0, 1]), f),
                "lr_best.pt": lambda f: torch.save(torch.ones(3), f),
            },
        ),
        "single number",
    ),
    "fractional labels": (
        lambda p: folder(
            p,
            **{
                "images_best.pt": lambda f: torch.save(torch.ones(2, 1, 4, 4), f),
                "labels_best.pt": lambda f: torch.save(torch.tensor([0, 0.5]), f),
            },
        ),
        "labels are",
    ),
    "objects in npz": (
        lambda p: (
            folder(p, **{"a.npz": lambda f: np.savez(f, x=np.array([Boom()], dtype=object))})
            / "a.npz"
        ),
        "pickle",
    ),
    "npz without images": (
        lambda p: folder(p, **{"a.npz": lambda f: np.savez(f, z=np.ones(3))}) / "a.npz",
        "no array named x",
    ),
    "npz is text": (lambda p: folder(p, **{"a.npz": b"hello"}) / "a.npz", "a.npz"),
    "npz bomb": (lambda p: folder(p, **{"a.npz": bomb_zip}) / "a.npz", "unpacks to"),
    "parquet is text": (
        lambda p: folder(p, **{"a.parquet": b"hello"}) / "a.parquet",
        "a.parquet cannot be read",
    ),
    "some other file": (
        lambda p: folder(p, **{"a.txt": b"hello"}) / "a.txt",
        "not a file that ddnb wrote",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_bad_foreign_sets_get_one_sentence(tmp_path, name):
    prepare, says = OTHERS[name]
    with pytest.raises(DdnbError, match=says) as e:
        read(prepare(tmp_path))
    assert "\n" not in str(e.value)


def test_save_and_exports_where_one_may_not_write(tmp_path):
    (tmp_path / "file").write_text("mine")
    for f in (save, to_mtt, to_imagefolder, to_parquet):
        with pytest.raises(DdnbError, match="[Cc]annot write|already"):
            f(make(), tmp_path / "file" / "set")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_a_person_hands_over_by_mistake_is_named(tmp_path):
    d = make()
    n = Norm([0.4] * 3, [0.3] * 3)
    a = Distilled(
        d.x.numpy(), d.y.tolist(), NAMES, n, torch.tensor(0.25), extra={"W": np.ones(3), "k": 2}
    )
    assert (
        torch.equal(a.x, d.x)
        and a.alpha == 0.25
        and torch.equal(
            load(save(a, tmp_path / "a")).extra["W"], torch.ones(3, dtype=torch.float64)
        )
    )
    for kw, says in (
        (dict(extra={"note": "words"}), r"extra\['note'\] is a str"),
        (dict(extra=[d.x]), "extra is list"),
        (dict(card="x"), "card is 'x'"),
        (dict(x="cat"), "x is a str"),
        (dict(y=list("abcdef")), "y is a list"),
        (dict(norm=(0.4, 0.3)), "give data.norm"),
        (dict(alpha="1"), "step size"),
        (dict(classes=None), "class names"),
    ):
        with pytest.raises(DdnbError, match=says):
            Distilled(**{**dict(x=d.x, y=d.y, classes=NAMES, norm=n), **kw})
    for f in (
        save,
        to_imagefolder,
        to_mtt,
        to_parquet,
        artifact.to_ddranking,
        lambda d, p: artifact.contact_sheet(d),
        lambda d, p: artifact.to_markdown(d),
    ):
        with pytest.raises(DdnbError, match="a Distilled "):
            f((d.x, d.y), tmp_path / "b")
    with pytest.raises(DdnbError, match="a file or folder was expected"):
        save(d, None)
    for f in (load, read):
        with pytest.raises(DdnbError, match="a file or folder was expected"):
            f(d)
    with pytest.raises(DdnbError, match="score is"):
        to_mtt(d, tmp_path / "c", score=True)
    assert not (tmp_path / "b").exists() and not (tmp_path / "c").exists()


@pytest.mark.parametrize("form", ["save", *artifact.EXPORTS])
def test_what_was_kept_is_said_in_every_format(tmp_path, form):
    "What a set was made from belongs to it: in the note for programs, and the card for people."
    from ddnb.data import load as data_of
    from ddnb.prune import keep

    data = data_of("digits")
    kept = keep(torch.rand(len(data.train), generator=rng(0)), data, 0.6)
    d = make()
    d.card = artifact.card(data=data, kept=kept, seed=3)
    out = (
        artifact.save(d, tmp_path / form)
        if form == "save"
        else artifact.EXPORTS[form](d, tmp_path / form)
    )
    note = json.loads(
        (tmp_path / form / ("card.json" if form == "save" else "ddnb.json")).read_text()
    )
    want = d.card["pruning"]
    text = f"KEPT {len(kept.indices)} of {len(data.train)}"
    assert (
        want["text"].startswith(text)
        and want["kept"] == len(kept.indices)
        and want["recipe"]["fraction"] == 0.6
    )
    assert (note.get("card") or note)["pruning"] == json.loads(json.dumps(want)), note.keys()
    back = read(tmp_path / form)
    assert back.card["pruning"] == json.loads(json.dumps(want)) and text in artifact.to_markdown(
        back
    )
    if form != "save":
        assert f"**Pruning**: {text}" in (tmp_path / form / "README.md").read_text()
    assert out
