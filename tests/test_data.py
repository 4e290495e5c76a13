"Loading: round trips, splits, streaming, and a corpus of bad input, each with its sentence."

import json
import os
import socket
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import ddnb.data as D
import ddnb.data.loading as loading
from ddnb.base.check import DdnbError
from ddnb.data import (
    Norm,
    fork,
    load,
    picture,
    rng,
    shapes,
    stats,
    stratify,
    stratify_groups,
    whiten,
)
from ddnb.data.figures import _paint, _scene
from ddnb.data.folders import folder

CIFAR = Path(__file__).parents[2] / "shared" / "data" / "cifar10"


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, a=None, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(8, 8, 3, seed=zlib.crc32(path.name.encode())) if a is None else a).save(
        path, **kw
    )
    return path


@pytest.fixture
def tree(tmp_path):
    "Two classes of six 8x8 colour pictures."
    for c in ("ant", "bee"):
        for i in range(6):
            save(tmp_path / "set" / c / f"{i}.png", noise(8, 8, 3, seed=i + 10 * (c == "bee")))
    return tmp_path / "set"


def snapshot(root):
    return {
        str(p): (p.stat().st_size, p.stat().st_mtime_ns)
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


# ---------------------------------------------------------------- randomness, statistics


def test_generators():
    g = rng(3)
    a, b = fork(g), fork(g)
    assert a.initial_seed() != b.initial_seed() and a.initial_seed() == fork(rng(3)).initial_seed()
    for bad in (-1, 1.5, True, "0", None):
        with pytest.raises(DdnbError, match="whole number"):
            rng(bad)


def test_one_rule_for_generators_seeds_and_data(tmp_path, monkeypatch):
    g = rng(5)
    assert D.as_rng(g) is g and all(
        torch.equal(D.as_rng(s).get_state(), rng(s or 0).get_state())
        for s in (None, 0, 5, np.int64(5))
    )
    for bad in ("0", 1.5, True, -1, [0]):
        with pytest.raises(DdnbError, match="generator is"):
            D.as_rng(bad)
    assert D.as_seeds(3) == D.as_seeds(np.int64(3)) == D.as_seeds(range(3)) == D.as_seeds(
        torch.arange(3)
    ) == [0, 1, 2] and D.as_seeds([7, 7]) == [7, 7]
    for bad in (0, -1, True, 2.5, "3", None, [], ["0"], [1.5], [True]):
        with pytest.raises(DdnbError):
            D.as_seeds(bad)
    d = load("digits")
    assert (
        torch.equal(d.batch(3, 4, 9), d.batch(3, 4, rng(9)))
        and len(d) == len(d.train)
        and D.as_data(d) is d
    )
    for bad in ("digits", None, 3, torch.zeros(3)):
        with pytest.raises(DdnbError, match=r"give ddnb.data.load\("):
            D.as_data(bad)
    for bad in (0.5, 5, None, "easy", [[1], [2, 3]], ["a"]):
        with pytest.raises(DdnbError, match="ep"):
            d.keep(bad)
    for c, n in ((10, 1), ("3", 1), (3, 0), (3, 2.5)):
        with pytest.raises(DdnbError):
            d.batch(c, n, 0)


def test_a_folder_named_like_a_known_set_is_announced(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").rename(tmp_path / "digits")
    with pytest.warns(
        UserWarning,
        match=r"known data set of that name, not as the folder digits.*'./digits' means the latter",
    ):
        assert len(load("digits").classes) == 10
    assert load("./digits", valid=0, test=0).classes == ["ant", "bee"]


def test_loading_does_not_touch_the_global_generators():
    t, n = torch.get_rng_state(), np.random.get_state()[1].copy()
    load("digits")
    load("shapes", counts=(20, 10, 10))
    assert torch.equal(t, torch.get_rng_state()) and (n == np.random.get_state()[1]).all()


def test_statistics_are_those_of_the_train_split():
    d = load("shapes", counts=(50, 20, 20))
    x = d.train.x.double() / 255
    assert torch.allclose(d.norm.mean.double(), x.mean((0, 2, 3)), atol=1e-6) and torch.allclose(
        d.norm.std.double(), x.std((0, 2, 3), correction=0), atol=1e-6
    )
    z, y = d.xy()
    assert (
        z.dtype == torch.float32
        and y.dtype == torch.int64
        and torch.allclose(d.norm.decode(z) * 255, d.train.x.float(), atol=1e-3)
    )
    assert torch.equal(d.norm.encode(d.train.x), d.norm.encode(d.train.x.float() / 255))
    assert (
        stats(torch.zeros(4, 1, 3, 3, dtype=torch.uint8)).std > 0
    ).all()  # a black channel does not divide by zero


def test_whitening_matches_the_textbook_and_has_an_inverse():
    x = torch.from_numpy(noise(300, 1, 4, 4))
    z = whiten(x)
    f = x.flatten(1).double() / 255
    u, s, _ = torch.linalg.svd(f.T.cov())
    assert torch.allclose(
        z["W"].double(), u @ torch.diag((s + 0.1).rsqrt()) @ u.T, atol=1e-5
    )  # kornia's formula
    d = load("digits", zca=True)
    n = Norm.from_state(d.norm.state())
    e = d.norm.encode(d.test.x)
    assert torch.equal(n.encode(d.test.x), e) and torch.allclose(
        n.decode(e, clamp=False), d.test.x / 255, atol=1e-4
    )
    with pytest.raises(DdnbError, match="smaller size"):
        load("shapes", size=128, counts=(10, 0, 0), zca=True)


# ---------------------------------------------------------------- splits


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(3, 40), min_size=2, max_size=6),
    st.floats(0.01, 0.45),
    st.floats(0.01, 0.45),
    st.integers(0, 10),
)
def test_stratified_cut(counts, valid, test, seed):
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    parts = stratify(y, (valid, test), rng(seed))
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(y)))
    for c, n in enumerate(counts):
        k = [int((y[p] == c).sum()) for p in parts]
        assert (
            min(k) >= 1 and abs(k[1] - valid * n) <= 1 and (abs(k[2] - test * n) <= 1 or k[0] == 1)
        )
    assert all(
        torch.equal(a, b) for a, b in zip(parts, stratify(y, (valid, test), rng(seed)), strict=True)
    )


def test_digits():
    a, b = load("digits"), load("digits", seed=1)
    assert [len(a.split(s)) for s in D.SPLITS] == [1259, 179, 359] and a.fingerprint == load(
        "digits"
    ).fingerprint != b.fingerprint
    assert (
        a.train.x.max() == 255
        and a.train.x.dtype == torch.uint8
        and a.train.x.shape[1:] == (1, 8, 8)
    )
    seen = torch.cat([s.x for s in (a.train, a.valid, a.test)]).flatten(1)
    from sklearn.datasets import load_digits

    whole = torch.from_numpy((load_digits().data * 255 / 16).round().astype(np.uint8))
    assert torch.equal(seen.unique(dim=0), whole.unique(dim=0))
    assert load("digits", size=16, channels=3).train.x.shape[1:] == (3, 16, 16)
    assert len(load("digits", valid=0, test=0).train) == 1797


def test_shapes_are_the_same_bytes_and_the_same_scenes_at_any_size():
    a, b = shapes(32, counts=(20, 10, 10)), shapes(32, counts=(20, 10, 10))
    assert all(torch.equal(a[s][0], b[s][0]) for s in D.SPLITS)
    big = shapes(128, counts=(20, 10, 10))["train"][0].float()
    assert (torch.nn.functional.avg_pool2d(big, 4) - a["train"][0].float()).abs().mean() < 8
    assert not torch.equal(a["train"][0][:10], a["test"][0])
    d = load("shapes", size=24, counts=(30, 0, 10))
    assert (
        d.counts == {"train": [3] * 10, "valid": [0] * 10, "test": [1] * 10}
        and d.classes == D.FIGURES
    )


def test_shapes_in_chunks_equal_shapes_at_once(monkeypatch):
    "Painting in pieces changes nothing."
    whole = shapes(64, counts=(300, 0, 0))["train"][0]  # two chunks of at most 256
    scene, y = _scene(300, rng(0)), torch.arange(300) % 10
    assert (_paint(scene, y, 64, 1.0, 12.0, 0.4).int() - whole.int()).abs().max() <= 1


# ---------------------------------------------------------------- Data


def test_batch_and_keep():
    d = load("digits")
    x = d.batch(3, 20, rng(0))
    own = d.norm.encode(d.train.x[d.train.y == 3])
    assert (
        all((own == i).flatten(1).all(1).any() for i in x) and len(x.flatten(1).unique(dim=0)) == 20
    )
    assert torch.equal(x, d.batch(3, 20, rng(0))) and d.batch(3, 500, rng(0)).shape[0] == 500
    k = d.keep(torch.arange(0, len(d.train), 2))
    assert (
        torch.equal(k.train.x, d.train.x[::2])
        and k.norm is d.norm
        and k.test is d.test
        and k.kept is not None
    )
    assert (
        k.fingerprint != d.fingerprint
        and d.keep(list(range(len(d.train)))).fingerprint == d.fingerprint
    )
    assert len(k.batch(0, 3, rng(0))) == 3  # not the rows of the unpruned set
    for bad in (
        [],
        [0, 0],
        [-1],
        [10**6],
        [0.5],
        [[1]],
        torch.ones(len(d.train), dtype=torch.bool),
    ):
        with pytest.raises(DdnbError):
            d.keep(bad)


def test_shows_itself():
    d = load("digits")
    assert (
        "fingerprint" in repr(d)
        and "122 to 128 a class" in repr(d)
        and "<table>" in d._repr_html_()
    )
    assert (
        "&lt;b&gt;"
        in load((noise(20, 6, 6), np.arange(20) % 2), classes=["<b>", "c"])._repr_html_()
    )


# ---------------------------------------------------------------- every source gives the same set


def test_all_doors_lead_to_the_same_set(tree, tmp_path):
    a = load(tree)
    assert (
        a.train.x.shape[1:] == (3, 8, 8)
        and a.classes == ["ant", "bee"]
        and a.train.paths[0].startswith("ant")
    )
    files = sorted(tree.rglob("*.png"))
    x = np.stack([np.asarray(Image.open(f)) for f in files])
    y = np.array([0] * 6 + [1] * 6)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    table(tmp_path / "p.parquet", [f.read_bytes() for f in files], y, ["ant", "bee"])
    names = {"classes": a.classes}
    doors = [
        load((x, y), **names),
        load((torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(y)), **names),
        load((x / 255, y), **names),
        load(tmp_path / "a.npz", **names),
        load(str(tmp_path / "p.parquet")),
        load([(Image.open(f), int(c)) for f, c in zip(files, y, strict=True)], **names),
        load(
            [
                (torch.from_numpy(i).permute(2, 0, 1) / 255, int(c))
                for i, c in zip(x, y, strict=True)
            ],
            **names,
        ),
        load(tree, cache=tmp_path / "c"),
        load(tree, cache=tmp_path / "c"),
    ]
    from torchvision.datasets import ImageFolder

    doors.append(load(ImageFolder(tree)))
    for k, d in enumerate(doors):
        assert (
            d.fingerprint == a.fingerprint
            and torch.equal(d.test.x, a.test.x)
            and torch.equal(d.valid.y, a.valid.y)
        ), k


def table(path, images, labels, names=None, columns=("image", "label"), struct=True):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = (
        [b if isinstance(b, dict) else {"bytes": b, "path": None} for b in images]
        if struct
        else images
    )
    t = pa.table({columns[0]: cells, columns[1]: labels})
    if names:
        t = t.replace_schema_metadata(
            {
                "huggingface": json.dumps(
                    {
                        "info": {
                            "features": {
                                columns[0]: {"_type": "Image"},
                                columns[1]: {"_type": "ClassLabel", "names": names},
                            }
                        }
                    }
                )
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(t, path, row_group_size=5)
    return path


def test_parquet_folder_with_official_splits(tmp_path):
    png = [save(tmp_path / "i.png", noise(6, 6, seed=i)).read_bytes() for i in range(20)]
    for s, r in (
        ("train-00000-of-00002", slice(0, 8)),
        ("train-00001-of-00002", slice(8, 14)),
        ("test-00000-of-00001", slice(14, 20)),
    ):
        table(
            tmp_path / "hf" / "data" / f"{s}.parquet",
            png[r],
            [i % 2 for i in range(20)][r],
            ["no", "yes"],
        )
    d = load(tmp_path / "hf")
    assert (
        [len(d.split(s)) for s in D.SPLITS] == [12, 2, 6]
        and d.channels == 1
        and d.classes == ["no", "yes"]
    )
    assert torch.equal(d.test.x[0, 0], torch.from_numpy(noise(6, 6, seed=14)))
    plain = table(
        tmp_path / "s.parquet",
        png,
        ["cat" if i % 2 else "dog" for i in range(20)],
        columns=("img", "kind"),
        struct=False,
    )
    assert load(plain).classes == ["cat", "dog"]


def test_parquet_may_name_files_beside_it_but_none_elsewhere(tmp_path):
    for i in range(8):
        save(tmp_path / "pq" / "i" / f"{i}.png", noise(6, 6, seed=i))
    p = table(
        tmp_path / "pq" / "a.parquet",
        [{"bytes": None, "path": f"i/{i}.png"} for i in range(8)],
        [i % 2 for i in range(8)],
    )
    assert len(load(p).train) == 6 - 2
    save(tmp_path / "secret.png", noise(6, 6))
    p = table(
        tmp_path / "pq" / "b.parquet",
        [{"bytes": None, "path": "../secret.png"}] * 8,
        [i % 2 for i in range(8)],
    )
    with pytest.raises(DdnbError, match="outside its own folder"):
        load(p, size=6, channels=1)


@pytest.mark.parametrize(
    "names", [("train", "test"), ("train", "val", "test"), ("Training", "validation", "Testing")]
)
def test_folder_with_its_own_splits(tmp_path, names):
    for s in names:
        for c in "ab":
            for i in range(4):
                save(tmp_path / s / c / f"{i}.png", noise(6, 6, seed=i))
    d = load(tmp_path)
    assert (
        len(d.test) == 8
        and len(d.valid) == (8 if len(names) == 3 else 2)
        and len(d.train) == (8 if len(names) == 3 else 6)
    )


def test_medmnist_file_and_three_pairs(tmp_path):
    x, y = noise(12, 7, 7), np.arange(12)[:, None] % 3
    np.savez(
        tmp_path / "m.npz",
        train_images=x,
        train_labels=y,
        val_images=x[:3],
        val_labels=y[:3],
        test_images=x[3:9],
        test_labels=y[3:9],
    )
    d, t = load(tmp_path / "m.npz"), load(((x, y), (x[:3], y[:3]), (x[3:9], y[3:9])))
    assert [len(d.split(s)) for s in D.SPLITS] == [12, 3, 6] and d.fingerprint == t.fingerprint


@pytest.mark.skipif(not CIFAR.exists(), reason="the CIFAR-10 Parquet files are not here")
def test_cifar10_from_parquet(tmp_path):
    d = load(CIFAR / "test-00000-of-00001.parquet", cache=tmp_path)
    assert (
        len(d.train) == 7000
        and d.classes[0] == "airplane"
        and d.counts["test"] == [200] * 10
        and 0.4 < d.norm.mean.mean() < 0.55
    )


# ---------------------------------------------------------------- torchvision, offline


def fake_mnist(root):
    "Files as torchvision keeps them, of a few images."
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for s, n in (("train", 30), ("t10k", 10)):
        (raw / f"{s}-images-idx3-ubyte").write_bytes(
            (0x803).to_bytes(4, "big")
            + n.to_bytes(4, "big")
            + (28).to_bytes(4, "big") * 2
            + noise(n, 28, 28).tobytes()
        )
        (raw / f"{s}-labels-idx1-ubyte").write_bytes(
            (0x801).to_bytes(4, "big")
            + n.to_bytes(4, "big")
            + (np.arange(n) % 10).astype(np.uint8).tobytes()
        )
    return root


def test_torchvision_set_from_its_folder(tmp_path):
    d = load("MNIST", root=fake_mnist(tmp_path), download=False, size=14)
    assert (
        len(d.test) == 10
        and len(d.train) == 20
        and d.train.x.shape[1:] == (1, 14, 14)
        and d.classes[0].startswith("0")
    )


@pytest.mark.parametrize("name", ["cifar10", "CIFAR-100", "fashion_mnist", "svhn", "mnist"])
def test_offline_is_one_sentence(tmp_path, monkeypatch, name, capsys):
    def refuse(*a, **k):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(DdnbError, match="download=True.*--download.*or put"):
        load(name, root=tmp_path)
    with pytest.raises(DdnbError, match="connect to the network"):
        load(name, root=tmp_path, download=True)


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_nothing_is_fetched_unless_it_was_asked_for(tmp_path, monkeypatch, name):
    def reached(*a, **k):
        pytest.fail("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", reached)
    monkeypatch.setattr(socket.socket, "connect", reached)
    with pytest.raises(DdnbError, match="download=True"):
        load(name, root=tmp_path)


def test_pickles_of_torchvision_are_named_and_never_read(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DdnbError, match="cifar-10-batches-py is there.*never read"):
        load("cifar10", root=tmp_path)
    (tmp_path / "MNIST" / "processed").mkdir(parents=True)
    (tmp_path / "MNIST" / "processed" / "training.pt").write_bytes(b"")
    with pytest.raises(DdnbError, match="pickle"):
        load("mnist", root=tmp_path)


@pytest.mark.skipif(not CIFAR.exists(), reason="the CIFAR-10 Parquet files are not here")
def test_cifar_in_its_binary_form_gives_the_very_images(tmp_path):
    "The test images of the Parquet form, written as the binary version has them, read alike."
    import hashlib

    from ddnb.data.cifar import Layout, binary_set
    from ddnb.data.tables import parquet

    part = parquet(CIFAR / "test-00000-of-00001.parquet").parts["train"]
    y, n = part.y[:200].numpy().astype(np.uint8), 200
    x = np.stack([np.asarray(f()) for f, _ in zip(part.items(), range(n))])
    rows = np.concatenate([y[:, None], np.moveaxis(x, -1, 1).reshape(n, -1)], 1)
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "all.bin").write_bytes(rows.tobytes())
    (tmp_path / "few" / "names.txt").write_text("\n".join(map(str, range(10))))
    digest = {"all.bin": hashlib.sha256(rows.tobytes()).hexdigest()}
    layout = Layout("few.tar.gz", "", "", "few", digest, digest, "names.txt", 1, "few-py")
    found = binary_set(layout, "few", tmp_path).parts["test"]
    assert found.y.tolist() == y.tolist()
    assert all((np.moveaxis(found.get(i, None), 0, -1) == x[i]).all() for i in range(n))


# ---------------------------------------------------------------- one form for every picture


def test_resize_and_crop_are_torchvisions():
    from torchvision import transforms as T

    for w, h, s in ((70, 45, 24), (31, 64, 16), (9, 9, 20), (100, 33, 33)):
        im = Image.fromarray(noise(h, w, 3))
        ref = np.moveaxis(np.asarray(T.Compose([T.Resize(s), T.CenterCrop(s)])(im)), -1, 0)
        out = picture(im, s, 3)
        assert out.shape == (3, s, s) and np.abs(out.astype(int) - ref).max() <= (
            1 if max(w, h) < 3 * s else 12
        ), (w, h, s)


def modes():
    rgb = Image.new("RGB", (6, 6), (200, 40, 90))
    clear = Image.new("RGBA", (6, 6), (200, 40, 90, 0))
    return {
        "RGB": (rgb, (200, 40, 90)),
        "L": (Image.new("L", (6, 6), 77), (77,) * 3),
        "1": (Image.new("1", (6, 6), 1), (255,) * 3),
        "P": (rgb.quantize(4), (200, 40, 90)),
        "CMYK": (rgb.convert("CMYK"), (200, 40, 90)),
        "YCbCr": (rgb.convert("YCbCr"), (200, 40, 90)),
        "HSV": (rgb.convert("HSV"), (200, 40, 90)),
        "RGBA": (clear, (255,) * 3),
        "LA": (Image.new("LA", (6, 6), (10, 0)), (255,) * 3),
        "16 bit": (Image.fromarray(np.full((6, 6), 257 * 100, np.uint16)), (100,) * 3),
        "32 bit": (Image.fromarray(np.full((6, 6), 257 * 100, np.int32)), (100,) * 3),
        "float": (Image.fromarray(np.full((6, 6), 0.4, np.float32)), (102,) * 3),
    }


@pytest.mark.parametrize("mode", modes())
@pytest.mark.parametrize("channels", [1, 3])
def test_modes(mode, channels):
    im, want = modes()[mode]
    for size in (6, 4):
        out = picture(im, size, channels)
        assert out.shape == (channels, size, size) and out.dtype == np.uint8
        want_ = (
            want if channels == 3 else (round(0.299 * want[0] + 0.587 * want[1] + 0.114 * want[2]),)
        )
        assert np.abs(out[:, 2, 2].astype(int) - want_).max() <= 3


def test_transparent_palette_goes_over_white():
    im = Image.new("P", (6, 6), 0)
    im.putpalette([250, 0, 0] * 256)
    im.info["transparency"] = 0
    assert (picture(im, 6, 3) == 255).all()


def test_only_some_classes_of_a_folder_count_in_their_order(tmp_path):
    for split in ("train", "val"):
        for k, name in enumerate("abcd"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("L", (8, 8), 60 * k + i).save(tmp_path / split / name / f"{i}.png")
    by_place = D.load(tmp_path, only=[3, 1], valid=0, test=0)
    assert by_place.classes == ["d", "b"] and len(by_place.valid) == 6
    assert by_place.train.x[by_place.train.y == 0].min() >= 180
    assert D.load(tmp_path, only=["d", "b"], valid=0, test=0).fingerprint == by_place.fingerprint
    for only, names in ([0, 4], "no class 4"), (["a", "bb"], "'b'"), ([True, 1], "no class True"):
        with pytest.raises(DdnbError, match=names):
            D.load(tmp_path, only=only)


def test_odd_files_of_a_folder(tree):
    "The first frame of an animation, exif turns; other files are counted, odd names are fine."
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tree / "ant" / "z.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x112] = 6  # turn by 90 degrees
    a = np.zeros((8, 8, 3), np.uint8)
    a[:4] = 255
    Image.fromarray(a).save(tree / "bee" / "turned.png", exif=exif)
    save(tree / "bee" / "ä b'c.png")
    (tree / "ant" / "notes.txt").write_text("x")
    (tree / "ant" / ".hidden.png").write_bytes(b"x")
    (tree / "readme.md").write_text("x")
    d = load(tree, valid=0, test=0)
    assert d.meta["ignored"] == 2 and d.meta["animated"] == 1 and "ignored" in repr(d)
    x = dict(zip(d.train.paths, d.train.x, strict=True))
    assert (
        x[os.path.join("ant", "z.gif")][0].min() > 200
        and x[os.path.join("ant", "z.gif")][2].max() < 60
    )
    assert (
        x[os.path.join("bee", "turned.png")][0, :, 4:].min() == 255
        and x[os.path.join("bee", "turned.png")][0, :, :4].max() == 0
    )


def test_grey_stays_grey_and_sizes_are_mixed(tmp_path):
    for c in "ab":
        for i in range(5):
            save(tmp_path / c / f"{i}.png", noise(9 + i, 12 + 2 * i, seed=i))
    d = load(tmp_path, size=10)
    assert d.train.x.shape[1:] == (1, 10, 10) and load(tmp_path, size=10, channels=3).channels == 3


def test_skipping_damaged_files(tree, tmp_path):
    (tree / "ant" / "0.png").write_bytes(b"not a picture")
    (tree / "bee" / "3.png").write_bytes((tree / "bee" / "3.png").read_bytes()[:60])
    before = snapshot(tree)
    with pytest.warns(UserWarning, match="2 images of set were skipped"):
        d = load(tree, errors="skip")
    with pytest.warns(UserWarning):
        m = load(tree, errors="skip", cache=tmp_path / "c")
    assert (
        sum(len(d.split(s)) for s in D.SPLITS) == 10
        and len(d.meta["skipped"]) == 2
        and d.fingerprint == m.fingerprint
    )
    for s in D.SPLITS:
        for p, x in zip(d.split(s).paths, d.split(s).x, strict=True):
            assert (np.moveaxis(np.asarray(Image.open(tree / p)), -1, 0) == x.numpy()).all()
    assert snapshot(tree) == before


class Flaky:
    "A dataset whose first item cannot be read."

    targets = [0, 1] * 6

    def __len__(self):
        return 12

    def __getitem__(self, i):
        if i == 0:
            raise OSError("disk")
        return {"image": Image.fromarray(noise(6, 6, seed=i)), "label": i % 2}


def test_dataset_with_dict_items_and_one_that_fails():
    with pytest.raises(DdnbError, match="item 0 of Flaky cannot be read .disk."):
        load(Flaky())
    with pytest.warns(
        UserWarning,
        match=r"^1 image of Flaky was skipped, because item 0 of Flaky cannot be read .disk.\.$",
    ):
        d = load(Flaky(), errors="skip")
    assert d.channels == 1 and sum(len(d.split(s)) for s in D.SPLITS) == 11


def test_large_photographs_are_decoded_smaller_without_harm(tmp_path):
    y, x = np.mgrid[:480, :640] / 100
    a = np.stack(
        [np.sin(x * 3) * 127 + 128, np.cos(y * 2) * 127 + 128, np.sin(x + y) * 127 + 128], -1
    ).astype(np.uint8)
    for c in "ab":
        for i in range(3):
            save(tmp_path / c / f"{i}.jpg", a, quality=95)
    whole = picture(Image.fromarray(a), 32, 3)
    assert np.abs(load(tmp_path, size=32).train.x[0].numpy().astype(int) - whole).mean() < 2


def test_cache_is_reused_rebuilt_and_mapped(tree, tmp_path, monkeypatch):
    a = load(tree, cache=tmp_path / "c", valid=0)
    monkeypatch.setattr(loading, "decode", lambda *a: pytest.fail("decoded again"))
    assert load(tree, cache=tmp_path / "c", valid=0).fingerprint == a.fingerprint
    monkeypatch.undo()
    assert len(a.valid) == 0 and torch.equal(a.train.x, load(tree, valid=0).train.x)
    save(tree / "ant" / "new.png")
    assert (
        sum(len(load(tree, cache=tmp_path / "c", valid=0).split(s)) for s in D.SPLITS) == 13
    )  # the source changed
    a.train.x[:] = 0  # copy on write: the file stays
    b = load(tree, cache=tmp_path / "c", valid=0, seed=1)
    assert (
        b.train.x.float().mean() > 50
        and len(list((tmp_path / "c").glob("*.u8"))) == 3
        and not list((tmp_path / "c").glob(".*tmp"))
    )
    for f in (tmp_path / "c").glob("*.u8"):
        f.write_bytes(b"")
    with pytest.raises(DdnbError, match="another length"):
        load(tree, cache=tmp_path / "c", valid=0)


# ---------------------------------------------------------------- bad input: folders


def edit(tree, what):
    what(tree)
    return tree


def emptied(t):
    [f.unlink() for f in (t / "bee").iterdir()]


def alone(t):
    [f.unlink() for f in sorted((t / "bee").iterdir())[1:]]


def loop(t):
    (t / "bee" / "again").symlink_to(t / "bee")


def flat(t):
    [f.rename(t / f"{f.parent.name}{f.name}") for f in list(t.rglob("*.png"))]
    [p.rmdir() for p in list(t.iterdir()) if p.is_dir()]


def bomb(t):
    import struct

    chunk = lambda k, b: struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b))
    (t / "ant" / "0.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
        + chunk(b"IEND", b"")
    )


def deep(t):
    "Folders in folders in folders."
    here = os.getcwd()
    os.chdir(t / "ant")
    for _ in range(40):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)


def others(t):
    [f.rename(f.with_suffix(".txt")) for f in list((t / "bee").iterdir())]


def splits(t, *names):
    (t / "train").mkdir()
    [(t / c).rename(t / "train" / c) for c in ("ant", "bee")]
    for n in names:
        save(t / "test" / n / "0.png") if n else (t / "test").mkdir()


FOLDERS = {
    "empty class": (emptied, {}, "class 'bee' has no image: .*bee holds 0 files"),
    "one image in a class": (alone, {}, "class 'bee' has 1 image, but 3 are needed"),
    "truncated": (
        lambda t: (t / "ant" / "2.png").write_bytes((t / "ant" / "2.png").read_bytes()[:70]),
        {},
        r"ant.2.png cannot be read as an image",
    ),
    "zero bytes": (
        lambda t: (t / "ant" / "2.png").write_bytes(b""),
        {},
        r"ant.2.png cannot be read as an image \(not an image\)",
    ),
    "text named png": (
        lambda t: (t / "ant" / "2.png").write_text("hello"),
        {},
        r"2.png cannot be read as an image \(not an image\): replace or remove it",
    ),
    "first image damaged": (
        lambda t: (t / "ant" / "0.png").write_text("x"),
        {},
        r"0.png cannot be read",
    ),
    "every image damaged": (
        lambda t: [f.write_text("x") for f in t.rglob("*.png")],
        {},
        "cannot be read as an image",
    ),
    "every image damaged, skipped": (
        lambda t: [f.write_text("x") for f in t.rglob("*.png")],
        {"errors": "skip", "size": 8, "channels": 3},
        "class 'ant' has no readable image left",
    ),
    "one pixel": (
        lambda t: save(t / "ant" / "2.png", noise(1, 1, 3)),
        {"size": 8},
        "2.png is 1x1 pixels, expected at least 2x2",
    ),
    "one row": (
        lambda t: save(t / "ant" / "2.png", noise(1, 900, 3)),
        {"size": 8},
        "2.png is 900x1 pixels",
    ),
    "huge": (bomb, {"size": 8}, "0.png (is|holds).*million"),
    "mixed sizes": (
        lambda t: save(t / "bee" / "5.png", noise(9, 11, 3)),
        {},
        "is 8x8 pixels and .*5.png is 11x9: give one size",
    ),
    "not square": (
        lambda t: [save(f, noise(8, 9, 3)) for f in list(t.rglob("*.png"))],
        {},
        "is 9x8 pixels, expected square images: give size=, e.g. size=8",
    ),
    "link loop": (loop, {}, "again leads back to a folder that contains it: remove the link"),
    "link to itself": (
        lambda t: (t / "ant" / "me.png").symlink_to(t / "ant" / "me.png"),
        {},
        "me.png cannot be read",
    ),
    "broken link": (
        lambda t: (t / "ant" / "gone.png").symlink_to(t / "nowhere.png"),
        {},
        "gone.png cannot be read as an image .*No such file",
    ),
    "no pictures in a class": (
        others,
        {},
        "class 'bee' has no image: .*holds 6 files, expected pictures",
    ),
    "no class folders": (
        flat,
        {},
        "has images but no class folders, expected one folder per class",
    ),
    "empty folder": (
        lambda t: [p.unlink() for p in t.rglob("*.png")] + [p.rmdir() for p in list(t.iterdir())],
        {},
        "is empty, expected one folder of images per class",
    ),
    "one class": (
        lambda t: [p.unlink() for p in (t / "bee").iterdir()] + [(t / "bee").rmdir()],
        {},
        r"has one class folder only \(ant\)",
    ),
    "unknown class in test": (
        lambda t: splits(t, "ant", "been"),
        {},
        "been is a class that train does not have, expected ant, bee.*Did you mean 'bee'",
    ),
    "test without images": (
        lambda t: splits(t, ""),
        {},
        "has no images in class folders: put them there, or remove the folder",
    ),
    "colour among grey": (
        lambda t: [Image.open(f).convert("L").save(f) for f in list(t.rglob("*.png"))[:-1]],
        {"size": 8, "channels": 2},
        "channels is 2, expected 1",
    ),
    "option of another source": (
        lambda t: None,
        {"counts": (1, 1, 1)},
        "folder has no option 'counts'",
    ),
    "misspelt option": (lambda t: None, {"siz": 8}, "has no option 'siz'.*Did you mean 'size'"),
    "size of zero": (lambda t: None, {"size": 0}, "size is 0, expected a whole number"),
    "size as text": (lambda t: None, {"size": "32"}, "size is '32', expected"),
    "shares too large": (
        lambda t: None,
        {"valid": 0.5, "test": 0.5},
        "leave something for training",
    ),
    "share in percent": (lambda t: None, {"test": 20}, "numbers from 0 to below 1"),
    "negative share": (lambda t: None, {"valid": -0.1}, "numbers from 0 to below 1"),
    "errors misspelt": (lambda t: None, {"errors": "skipp"}, "Did you mean 'skip'"),
    "no such device": (lambda t: None, {"device": "cuda:77"}, "use device='cpu'"),
    "seed": (lambda t: None, {"seed": -3}, "whole number of 0 or more"),
    "a pipe among the pictures": (
        lambda t: os.mkfifo(t / "ant" / "p.png"),
        {"size": 8},
        "p.png is a pipe, a device or a folder",
    ),
    "a device among the pictures": (
        lambda t: (t / "ant" / "zero.png").symlink_to("/dev/zero"),
        {"size": 8},
        "zero.png is a pipe, a device",
    ),
    "a class that is not UTF-8": (
        lambda t: os.rename(t / "ant", os.fsencode(t) + b"/caf\xe9"),
        {},
        r"class folder is named 'caf.udce9', which is not UTF-8",
    ),
    "a picture that is not UTF-8": (
        lambda t: os.rename(t / "ant" / "0.png", os.fsencode(t) + b"/ant/caf\xe9.png"),
        {},
        "picture is named .*not UTF-8",
    ),
    "folders without end": (deep, {}, "lies more than 32 folders deep"),
    "float picture out of range": (
        lambda t: Image.fromarray(np.full((8, 8), 1e6, np.float32)).save(t / "ant" / "f.tiff"),
        {"size": 8},
        "f.tiff has values from .*expected 0 to 65535",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_bad_folder(tree, case):
    spoil, options, says = FOLDERS[case]
    spoil(tree)
    before = snapshot(tree)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DdnbError, match=says) as e:
            load(tree, **options)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400 and snapshot(tree) == before


def test_a_late_colour_picture_and_a_late_other_size(tmp_path):
    "Pictures that the first look did not reach."
    for c in "ab":
        for i in range(100):
            save(tmp_path / c / f"{i:03}.png", noise(4, 4, seed=i))
    looked = {n for n, _ in folder(tmp_path).parts["train"].peek()}
    late = next(
        p for p in sorted(tmp_path.rglob("*.png")) if os.path.relpath(p, tmp_path) not in looked
    )
    save(late, noise(4, 4, 3))
    with pytest.raises(DdnbError, match="is in colour and the images looked at first are grey"):
        load(tmp_path)
    save(late, noise(5, 4))
    with pytest.raises(DdnbError, match="4x5 pixels and the first image 4x4"):
        load(tmp_path)


def test_permissions(tree, monkeypatch):
    def no(*a, **k):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as m:
        m.setattr(os, "scandir", no)
        with pytest.raises(DdnbError, match="may not be read: give yourself permission"):
            load(tree)
    with monkeypatch.context() as m:
        m.setattr(Image, "open", no)
        with pytest.raises(
            DdnbError, match=r"may not be read: give yourself permission \(chmod u\+r\)"
        ):
            load(tree, size=8, channels=3)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_real_permissions(tree):
    (tree / "ant").chmod(0)
    try:
        with pytest.raises(DdnbError, match="may not be read"):
            load(tree)
    finally:
        (tree / "ant").chmod(0o755)


# ---------------------------------------------------------------- bad input: names, arrays, files

X, Y = noise(12, 6, 6, 3), np.arange(12) % 2
F32 = (X / 255).astype(np.float32)


def holed(a):
    a = a.copy()
    a[4, 2, 2] = np.nan
    return a


ARRAYS = {
    "unknown name": (lambda p: "digts", "unknown data set 'digts'.*Did you mean 'digits'"),
    "unknown name, far": (lambda p: "zebrafish", "expected digits, shapes, cifar10"),
    "missing folder": (
        lambda p: str(p / "nowhere"),
        "there is no file or folder .*nowhere: check the path",
    ),
    "missing path object": (lambda p: Path("nowhere"), "there is no file or folder"),
    "empty name": (lambda p: "", "the name of the data set is empty"),
    "a zip": (
        lambda p: (p / "a.zip").write_bytes(b"x") and p / "a.zip",
        "is a .zip file, expected a folder of images",
    ),
    "no labels": (lambda p: X, r"images but no labels: give \(x, y\)"),
    "none": (lambda p: None, "a NoneType is no data set"),
    "number": (lambda p: 5, "a int is no data set"),
    "empty list": (lambda p: [], "the data set is empty"),
    "wrong rank": (lambda p: (X[0, 0], Y), "expected .N,C,H,W."),
    "a name too long": (lambda p: "x" * 5000, "cannot be looked up"),
    "sparse": (lambda p: (torch.eye(6).expand(12, 6, 6).to_sparse(), Y), "sparse_coo tensor"),
    "quantised": (
        lambda p: (torch.quantize_per_tensor(torch.zeros(12, 6, 6), 0.1, 0, torch.quint8), Y),
        "quint8",
    ),
    "without content": (lambda p: (torch.zeros(12, 6, 6, device="meta"), Y), "meta tensor"),
    "complex tensor": (lambda p: (torch.zeros(12, 6, 6, dtype=torch.cfloat), Y), "complex64"),
    "sparse labels": (lambda p: (X, torch.tensor(Y).to_sparse()), "labels y are a sparse_coo"),
    "labels of two lengths": (lambda p: (X, [[0], [0, 1]] * 6), "labels y are no array"),
    "classes that are not UTF-8": (lambda p: (X, Y), "not UTF-8", {"classes": ["a", "caf\udce9"]}),
    "parquet with a name that no file has": (
        lambda p: table(p / "a.parquet", [{"bytes": None, "path": "a\0b"}] * 8, [0, 1] * 4),
        "points to .*outside its own folder",
        {"size": 6, "channels": 1},
    ),
    "five channels": (lambda p: (noise(12, 5, 6, 6), Y), "expected 1 channel .grey. or 3"),
    "no images": (lambda p: (X[:0], Y[:0]), "at least one image"),
    "NaN": (lambda p: (holed(F32), Y), "image 4 of x holds NaN"),
    "infinity": (lambda p: (np.where(F32 > 0.99, np.inf, F32), Y), "NaN or infinity"),
    "bytes in floats": (lambda p: (X.astype(np.float32), Y), "divide by 255"),
    "normalised": (lambda p: (F32 * 4 - 2, Y), "look normalised.*undo the normalisation"),
    "floats cast to bytes": (
        lambda p: (F32.astype(np.uint8) | 1, Y),
        "no value above 1.*multiply by 255",
    ),
    "int out of range": (
        lambda p: (X.astype(np.int64) * 3, Y),
        "int64 from 0 to .*expected 0 to 255",
    ),
    "complex": (lambda p: (F32.astype(np.complex64), Y), "complex64, expected uint8 or float"),
    "text pixels": (lambda p: (np.full((12, 6, 6), "a"), Y), "expected uint8 or float: convert"),
    "float labels": (lambda p: (X, Y * 1.0), "float64, expected whole numbers"),
    "missing labels": (lambda p: (X, np.where(Y, np.nan, 0.0)), "label 1 of y is missing"),
    "negative labels": (lambda p: (X, Y - 1), "label -1 at position 0 of y is negative"),
    "gapped labels": (lambda p: (X, Y * 2), r"class '1' \(label 1\) has no image: renumber"),
    "huge label": (lambda p: (X, np.where(Y, 10**12, 0)), "label 1000000000000 of y is beyond"),
    "one-hot labels": (lambda p: (X, np.eye(2)[Y].astype(int)), "for one-hot labels give"),
    "too few labels": (lambda p: (X, Y[:5]), "12 images but 5 labels"),
    "text labels": (lambda p: (X, Y.astype(str)), "expected whole numbers"),
    "one class": (lambda p: (X, Y * 0), "one class only"),
    "four pairs": (lambda p: ((X, Y),) * 4, "arrays are expected as"),
    "items without labels": (lambda p: [Image.new("L", (6, 6))] * 4, "is not a pair"),
    "items with text labels": (
        lambda p: [(Image.new("L", (6, 6)), "cat")] * 4,
        "has the label 'cat'",
    ),
    "items with float labels": (lambda p: [(Image.new("L", (6, 6)), 0.5)] * 4, "has the label 0.5"),
    "items of another kind": (
        lambda p: [("cat.png", i % 2) for i in range(8)],
        "is a str, expected a PIL image",
    ),
    "items normalised": (
        lambda p: [(torch.randn(3, 6, 6, generator=rng(0)), i % 2) for i in range(8)],
        "look normalised",
    ),
    "an iterable": (lambda p: iter([(X[0], 0)]), "is not a dataset with a length"),
    "missing npz": (lambda p: p / "no.npz", "there is no file or folder"),
    "npz without x": (
        lambda p: np.savez(p / "a.npz", pictures=X, y=Y) or p / "a.npz",
        "holds pictures, y, expected arrays named x and y",
    ),
    "npz with pickles": (
        lambda p: np.savez(p / "a.npz", x=np.array([{}], dtype=object), y=Y) or p / "a.npz",
        "cannot be read as plain arrays",
    ),
    "npz cut short": (
        lambda p: (
            np.savez(p / "a.npz", x=X, y=Y)
            or (p / "a.npz").write_bytes((p / "a.npz").read_bytes()[:90])
            and p / "a.npz"
        ),
        "cannot be read as plain arrays",
    ),
    "parquet cut short": (
        lambda p: (p / "a.parquet").write_bytes(b"PAR1xx") and p / "a.parquet",
        "cannot be read as Parquet",
    ),
    "parquet without images": (
        lambda p: table(p / "a.parquet", list(range(8)), [0, 1] * 4, struct=False),
        "has no image column, its columns are image, label",
    ),
    "parquet with empty cells": (
        lambda p: table(
            p / "a.parquet",
            [{"bytes": b"x", "path": None}] + [{"bytes": None, "path": None}] * 7,
            [0, 1] * 4,
        ),
        "row 0 of a.parquet cannot be read",
    ),
    "parquet without labels": (
        lambda p: table(p / "a.parquet", [b"x"] * 8, [0, None] * 4),
        "4 rows of a.parquet have no label",
    ),
    "parquet with gaps": (
        lambda p: table(p / "a.parquet", [b"x"] * 8, [0, 2] * 4),
        "has no image: renumber",
    ),
    "parquet label beyond its names": (
        lambda p: table(p / "a.parquet", [b"x"] * 8, [0, 2] * 4, ["a", "b"]),
        "labels go up to 2 but there are 2 class names",
    ),
    "parquet test only": (
        lambda p: table(p / "f" / "test-0.parquet", [b"x"] * 8, [0, 1] * 4).parent,
        "for test only: a file named train",
    ),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_bad_arrays_and_files(tmp_path, case):
    make, says, *options = ARRAYS[case]
    with pytest.raises(DdnbError, match=says) as e:
        load(make(tmp_path), **dict(*options))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"counts": (5, 5, 5)}, "counts is"),
        ({"counts": 7}, "counts is"),
        ({"size": 4}, "8 to 256 pixels"),
        ({"size": 512}, "8 to 256"),
        ({"clutter": -1}, "clutter"),
        ({"place": 2}, "place"),
        ({"turns": 3}, "shapes has no option 'turns'.*Did you mean 'turn'"),
        ({"zca": True, "size": 80, "counts": (10, 0, 0)}, "use zca=False or a smaller size"),
    ],
)
def test_bad_shapes(options, says):
    with pytest.raises(DdnbError, match=says):
        load("shapes", **options)


def test_class_names():
    with pytest.raises(DdnbError, match="1 class names: give 2 names"):
        load((X, Y), classes=["a"])
    with pytest.raises(DdnbError, match="'a' occurs twice"):
        load((X, Y), classes=["a", "a"])
    with pytest.raises(DdnbError, match="class 'c' .label 2. has no image"):
        load((X, Y), classes=["a", "b", "c"])
    assert load((X, Y), classes=["a/b", "ü"]).classes == ["a/b", "ü"]


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(6, 20),
    s=st.integers(2, 9),
    c=st.sampled_from([1, 3]),
    last=st.booleans(),
    kind=st.sampled_from(["uint8", "float32", "float64", "int64"]),
    size=st.sampled_from([None, 2, 7]),
)
def test_arrays_of_any_form(n, s, c, last, kind, size):
    x = noise(n, c, s, s)
    x[0, 0, 0, 0] = 255
    a = np.moveaxis(x, 1, -1) if last and s not in (1, 3) else x
    d = load((a / 255 if kind.startswith("f") else a.astype(kind), np.arange(n) % 2), size=size)
    assert (
        d.train.x.shape[1:] == (c, size or s, size or s)
        and sum(len(d.split(k)) for k in D.SPLITS) == n
    )
    if size in (None, s):
        assert {tuple(i.flatten().tolist()) for i in d.train.x} <= {
            tuple(i.flatten().tolist()) for i in torch.from_numpy(x)
        }


def test_bfloat16_and_truth_values_are_read():
    x = torch.from_numpy(X).permute(0, 3, 1, 2)
    for a in ((x / 255).bfloat16(), (x / 255).half(), x > 127):
        assert load((a, Y)).train.x.float().sub(load((x, Y)).train.x).abs().max() <= 128


def test_a_pipe_can_be_skipped(tree):
    os.mkfifo(tree / "ant" / "p.png")
    with pytest.warns(UserWarning, match="1 image of set was skipped, because .*p.png is a pipe"):
        assert len(load(tree, errors="skip", valid=0, test=0).train) == 12


def test_a_tuple_of_items_is_a_dataset():
    items = tuple((Image.fromarray(a), int(b)) for a, b in zip(X, Y, strict=True))
    assert load(items).fingerprint == load(list(items)).fingerprint


def test_importing_stays_light():
    import subprocess

    heavy = "sklearn torchvision pyarrow PIL matplotlib ipywidgets IPython diffusers".split()
    code = f"""
import sys
import ddnb.data
import ddnb.augment
print([m for m in {heavy} if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# ------------------------------------------------------------ groups: whole patients in one split


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.integers(2, 4),
    st.sampled_from([(0.1, 0.2), (0.2, 0.3), (0, 0.3), (0.25, 0)]),
    st.integers(0, 5),
)
def test_groups_stay_together(data, classes, fractions, seed):
    people = data.draw(
        st.lists(
            st.tuples(st.integers(0, classes - 1), st.integers(1, 6), st.integers(0, 2)),
            min_size=5,
            max_size=40,
        )
    )  # main class, images, images of the next class
    rows = [
        (p, (c + k) % classes)
        for p, (c, n, m) in enumerate(people)
        for k, r in enumerate((n, m))
        for _ in range(r)
    ]
    group, y = torch.tensor(rows).T
    y = torch.unique(y, return_inverse=True)[1]
    shares = np.array([1 - sum(fractions), *fractions])
    try:
        parts = stratify_groups(y, group, fractions, rng(seed))
    except DdnbError as e:
        assert "cannot be dealt" in str(e)
        return
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(y)))
    who = [set(group[i].tolist()) for i in parts]
    assert sum(map(len, who)) == len(people) and [bool(w) for w in who] == [s > 0 for s in shares]
    assert set(y[parts[0]].tolist()) == set(y.tolist())
    assert all(
        torch.equal(a, b)
        for a, b in zip(parts, stratify_groups(y, group, fractions, rng(seed)), strict=True)
    )


@pytest.mark.parametrize("seed", range(4))
def test_groups_keep_the_shares_and_the_balance(seed):
    g = np.random.default_rng(seed)
    ill, n = g.random(90) < 0.3, g.integers(1, 12, 90)
    group, y = (
        torch.from_numpy(np.repeat(np.arange(90), n)),
        torch.from_numpy(np.repeat(ill, n)).long(),
    )
    parts = stratify_groups(y, group, (0.1, 0.2), rng(seed))
    for i, f in zip(parts, (0.7, 0.1, 0.2), strict=True):
        for c in (0, 1):
            assert abs(int((y[i] == c).sum()) / int((y == c).sum()) - f) < 0.04
    sizes = [np.mean([n[k] for k in set(group[i].tolist())]) for i in parts]
    assert max(sizes) < 2 * min(sizes)  # no split gets the small groups only


def test_groups_lend_a_class_to_every_split_that_lacks_it():
    y, group = (
        torch.tensor([0] * 30 + [1] * 6),
        torch.tensor([*range(10)] * 3 + [10, 10, 11, 11, 12, 12]),
    )
    for seed in range(5):
        assert all((y[i] == 1).sum() == 2 for i in stratify_groups(y, group, (0.1, 0.2), rng(seed)))
    both, alone = torch.tensor([0, 0, 1, 0, 1]), torch.tensor([0, 1, 2, 3, 3])
    assert {
        len(set(alone[i].tolist())) for i in stratify_groups(both, alone, (0.1, 0.2), rng(0))
    } <= {
        1,
        2,
    }  # every split got a group
    hard = stratify_groups(
        torch.tensor([0, 0, 1, 1, 0, 0, 0, 1, 1, 1]),
        torch.tensor([0] * 4 + [1] * 3 + [2] * 3),
        (0.1, 0.2),
        rng(0),
    )
    assert [len(i) for i in hard] == [4, 3, 3]  # only the largest can stay
    with pytest.raises(DdnbError, match="so that train has every class"):
        stratify_groups(torch.tensor([0, 1, 2]), torch.arange(3), (0.1, 0.2), rng(0))


@pytest.fixture
def patients(tmp_path):
    "Twelve patients of three pictures, half of them ill."
    for p in range(12):
        for i in range(3):
            save(
                tmp_path / "scans" / ("well", "ill")[p % 2] / f"patient{p}_{i}.png",
                noise(8, 8, 3, seed=9 * p + i),
            )
    return tmp_path / "scans"


def test_groups_by_pattern_function_and_list_agree(patients, tmp_path):
    d = load(patients, groups=r"patient(\d+)")
    of = lambda p: Path(p).name.split("_")[0]
    who = [{of(p) for p in d.split(s).paths} for s in D.SPLITS]
    assert sum(map(len, who)) == len(set.union(*who)) == 12 and all(
        min(c) for c in d.counts.values()
    )
    plain = load(patients)
    files = sorted(str(p.relative_to(patients)) for p in patients.rglob("*.png"))
    for same in (
        of,
        r"patient\d+",
        r"(?:ill|well)/(\w+)_",
        [of(f) for f in files],
        np.array([of(f) for f in files]),
    ):
        assert load(patients, groups=same).fingerprint == d.fingerprint
    assert (
        load(patients, groups=of, seed=1).fingerprint
        != d.fingerprint
        != plain.fingerprint
        == load(patients, groups=None).fingerprint
    )
    cached = [
        load(patients, cache=tmp_path / "cache", groups=g).fingerprint for g in (None, of, None, of)
    ]
    assert cached == [plain.fingerprint, d.fingerprint] * 2
    x, y = torch.from_numpy(noise(40, 3, 8, 8)), torch.arange(40) % 2
    t = load((x, y), groups=torch.arange(40) // 4)
    where = {x[i].numpy().tobytes(): i // 4 for i in range(40)}
    who = [{where[a.numpy().tobytes()] for a in t.split(s).x} for s in D.SPLITS]
    assert sum(map(len, who)) == 10 and all(who)


def test_a_class_that_too_few_groups_have_is_announced(patients):
    for p in list((patients / "ill").iterdir()):
        if p.name.split("_")[0] not in ("patient1", "patient3"):
            p.unlink()
    with pytest.warns(
        UserWarning,
        match="the valid split has no image of class 'ill', because groups stay together",
    ):
        d = load(patients, groups=r"patient(\d+)")
    assert d.counts["train"][0] and d.counts["test"][0]


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (r"person(\d+)", r"finds a group in 0 of 36 paths, not in ill/patient11_0.png"),
        (r"well/patient(\d+)", "in 18 of 36 paths, not in ill/patient11_0.png"),
        (r"(\d*)", "in 0 of 36"),
        ("(", "no regular expression"),
        (r"ill|well", "there are 2 groups, but 3 are needed"),
        ("patient", "there is 1 group,"),
        (lambda p: None, "the group of ill/patient11_0.png is None"),
        (lambda p: p.nothing, "groups gives no group for ill/patient11_0.png"),
        (lambda p: [p], "expected a name or a number"),
        ([1, 2], "there are 36 images but 2 groups"),
        ({"a": 1}, "groups is a dict"),
        (3, "groups is a int"),
        ([float("nan")] * 36, "is nan, expected"),
    ],
)
def test_bad_groups(patients, groups, says):
    with pytest.raises(DdnbError, match=says) as e:
        load(patients, groups=groups)
    assert str(e.value).endswith(".") and "\n" not in str(e.value)


def test_groups_need_paths_and_a_set_that_is_not_split_yet(tree):
    x, y = noise(12, 3, 8, 8), np.arange(12) % 2
    with pytest.raises(DdnbError, match="these images have no paths: give a list"):
        load((x, y), groups="a")
    with pytest.raises(DdnbError, match="arrays has its own test split, so groups cannot"):
        load(((x, y), (x, y)), groups=list(range(12)))
    with pytest.raises(DdnbError, match="shapes has its own valid and test split"):
        load("shapes", counts=(20, 10, 10), groups=[0] * 20)
    with pytest.raises(DdnbError, match="set is split already"):
        load(load(tree), groups="a")


def test_without_groups_the_cut_is_what_it_was():
    assert load("digits").fingerprint.startswith("52688ba67f88d03d") and load(
        "digits", seed=3, valid=0.2
    ).fingerprint.startswith("6d448b2e0b1181c3")
