"Sets that come with the package: small, whole, and found wherever a path is expected."

import json
import re

import pytest
import torch

from ddnb.base.check import DdnbError
from ddnb.data import load as load_data
from ddnb.distil import init
from ddnb.share import Distilled, card, load, on_shelf, read, save, shelf

from recipe.command_line import run

D = load_data("digits")


def a_set():
    x, y = init(D, 2)
    return Distilled(x * 1.5, y, D.classes, D.norm, card=card(data=D, seed=4))


def test_the_shelf_is_small_and_every_set_on_it_is_whole():
    assert sum(f.stat().st_size for f in on_shelf().values()) < 4_000_000
    for name in on_shelf():
        d = shelf(name)
        assert d.card["cost"]["seconds"] and d.card["recipe"]
        kept, *others = d.card["metrics"]
        assert {"uint8", "float16"} & {*kept["train"].split()} and len(others) == 2
        assert all(m["n"] >= 5 for m in d.card["metrics"])
        assert torch.equal(read(f"shelf:{name}").x, d.x)


@pytest.mark.parametrize("name", ["digits-2", "../sets/digits-1", ""])
def test_other_names_are_one_sentence(name):
    for ask in (shelf, lambda name: read(f"shelf:{name}")):
        with pytest.raises(DdnbError, match="digits-1"):
            ask(name)
    code, _, err = run("show", f"shelf:{name or 'no'}")
    assert code == 1 and "on the shelf" in err


@pytest.mark.parametrize("pixels", ["float16", "uint8"])
def test_rounded_pixels_travel(tmp_path, pixels):
    d = a_set()
    small = load(save(d, tmp_path / pixels, pixels=pixels))
    want = d.clipped().x if pixels == "uint8" else d.x.half().float()
    assert torch.equal(small.x, want) and small.card["pixels"] == pixels and small.card["seed"] == 4
    exact, rounded = (tmp_path / n / "distilled.safetensors" for n in ("exact", pixels))
    again = load(save(small, tmp_path / "exact"))
    assert "pixels" not in again.card and torch.equal(again.x, small.x)
    assert rounded.stat().st_size < exact.stat().st_size
    told = json.loads((tmp_path / pixels / "card.json").read_text())
    told["content"] = "0" * 64
    (tmp_path / pixels / "card.json").write_text(json.dumps(told))
    with pytest.raises(DdnbError, match="other images"):
        load(tmp_path / pixels)


def test_bytes_need_statistics(tmp_path):
    d = a_set()
    with pytest.raises(DdnbError, match="float16"):
        save(Distilled(d.x, d.y, d.classes), tmp_path / "n", pixels="uint8")
    with pytest.raises(DdnbError, match="pixels is 'int8'"):
        save(d, tmp_path / "n", pixels="int8")
    assert not (tmp_path / "n").exists()


def test_commands_take_a_set_from_the_shelf(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("show", "shelf:digits-1")
    assert code == 0 and "Classes in label order" in out
    assert run("export", "shelf:digits-1", "--to", "mtt")[0] == 0
    assert len(read(tmp_path / "digits-1-mtt", norm=D.norm)) == 10
    args = "evaluate", "shelf:digits-1", "--data", "digits", "--seeds", "1", "--device", "cpu"
    code, out, _ = run(*args)
    assert code == 0 and re.search(r"this set +10 +\d\d\.\d", out)
