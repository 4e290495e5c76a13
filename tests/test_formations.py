"Tiles and pictures: the same stored pixels for a set, its file, its exports and its judges."

import json

import pytest
import torch
import torch.nn.functional as F

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.distil import DM, Formations, Pixels, best_crops, distill, init, pictures, tiled
from ddnb.distil.crops import random_crops
from ddnb.distil.formations import cut, tile
from ddnb.judge import evaluate
from ddnb.nets import net_for
from ddnb.share import EXPORTS, Distilled, card, read, save, to_markdown

D = load("digits")
MAKE = net_for(D, width=4, depth=2)


def stored(ipc=2, factor=2):
    x, y = init(D, ipc, tiled(factor), generator=rng(0))
    return Distilled(x, y, D.classes, D.norm, card=card(data=D), factor=factor)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_cutting_undoes_tiling(factor):
    x = torch.randn(3 * factor**2, 2, 8, 8, generator=rng(0))
    assert torch.equal(cut(tile(x, factor), factor), F.avg_pool2d(x, factor))


def test_a_picture_is_its_tile_enlarged_bilinearly():
    x = torch.randn(2, 1, 4, 4, generator=rng(0))
    seen, y = pictures(x, torch.tensor([3, 5]), 2)
    assert y.tolist() == [3] * 4 + [5] * 4 and seen.shape == (8, 1, 4, 4)
    t = x[1, 0, :2, 2:]  # the upper right tile of the second image
    a, b = 0.75, 0.25
    corner = a * a * t[0, 0] + a * b * (t[0, 1] + t[1, 0]) + b * b * t[1, 1]
    assert seen[5, 0, 1, 1].item() == pytest.approx(corner.item(), rel=1e-5)
    assert seen[5, 0, 0, 0] == t[0, 0]


def run(syn, steps=3):
    adam = torch.optim.Adam(syn.parameters(), lr=0.5)
    for _ in distill(syn, DM(D, MAKE, batch=8, generator=rng(1)), adam, steps):
        pass
    return syn.x.detach()


def test_one_tile_is_pixels_to_the_byte():
    start = init(D, 1, generator=rng(0))
    assert torch.equal(run(Formations(*start, 1)), run(Pixels(*start)))


def test_stored_pixels_stay_between_black_and_white():
    start = init(D, 1, tiled(2), generator=rng(0))
    free, held = run(Formations(*start, 2)), run(Formations(*start, 2, D.norm))
    low, high = (D.norm.encode(torch.full((1, 1, 1, 1), v))[0, 0, 0, 0] for v in (0.0, 1.0))
    assert free.min() < low and free.max() > high
    assert held.min() >= low and held.max() <= high


def test_whitened_images_have_no_black_and_white():
    white = load("digits", zca=True)
    start = init(white, 1, tiled(2), generator=rng(0))
    assert torch.equal(run(Formations(*start, 2, white.norm)), run(Formations(*start, 2)))


def test_what_does_not_fit_is_one_sentence():
    x, y = init(D, 1)
    for factor, words in ((3, "choose a factor of 2, 4"), (0, "factor is 0")):
        with pytest.raises(DdnbError, match=words):
            Formations(x, y, factor)
    with pytest.raises(DdnbError, match="begin from 400"):
        init(D, 100, tiled(2))
    with pytest.raises(DdnbError, match="3x3 tiles"):
        Distilled(x, y, D.classes, D.norm, factor=3)


def test_a_file_keeps_the_stored_pixels_and_says_so(tmp_path):
    d = stored()
    save(d, tmp_path / "d")
    again = read(tmp_path / "d")
    assert again.factor == 2 and torch.equal(again.x, d.x) and len(again.seen) == 80
    told = json.loads((tmp_path / "d" / "card.json").read_text())["formation"]
    assert told == {"factor": 2, "stored": 20, "pictures": 80}
    assert "80 pictures" in to_markdown(again) and len(again.dataset()) == 80


def test_a_plain_file_is_what_it_was(tmp_path):
    x, y = init(D, 1)
    plain = Distilled(x, y, D.classes, D.norm, card=card(data=D))
    save(plain, tmp_path / "p")
    assert "formation" not in json.loads((tmp_path / "p" / "card.json").read_text())
    assert plain.seen is plain


@pytest.mark.parametrize("form", EXPORTS)
def test_other_tools_get_the_pictures(tmp_path, form):
    EXPORTS[form](stored(), tmp_path / form)
    got = read(tmp_path / form, norm=D.norm)
    assert len(got) == 80 and got.factor == 1
    assert "cut from 20 stored images" in (tmp_path / form / "README.md").read_text()
    save(got.seen, tmp_path / "again")
    assert len(read(tmp_path / "again")) == 80


def test_judges_learn_from_pictures_and_the_table_says_so():
    d = stored()
    syn = Formations(d.x, d.y, 2, D.norm)
    how = dict(nets=MAKE, seeds=1, steps=3, split="valid")
    tables = [evaluate({"tiles": s, "plain": d.seen.tensors()}, D, **how) for s in (d, syn)]
    for table in tables:
        tiles, plain = table.records
        assert tiles["images"] == 80 and tiles["factor"] == 2 and "factor" not in plain
        assert tiles["accuracy"] == plain["accuracy"]
        assert "tiles stores 20 images, each cut into 4" in table.caption


# ---- crops


def test_crops_are_parts_of_the_image():
    x = torch.arange(64.0).view(1, 1, 8, 8)
    seen = random_crops(x, 50, rng(0), least=0.25)
    assert seen.shape == (50, 1, 8, 8) and seen.min() >= 0 and seen.max() <= 63
    across = (seen[:, 0, 0, -1] - seen[:, 0, 0, 0]) / 7  # pixels of the image for one of the crop
    assert across.min() > 0.45 and across.max() < 1.001


def test_the_easiest_crops_are_chosen_one_of_each_image():
    calls = []

    class Bright(torch.nn.Module):
        "Sure of class 0 where an image is bright."

        def forward(self, x):
            calls.append(x)
            return torch.stack([x.mean((1, 2, 3)), *[torch.zeros(len(x))] * 9], 1)

    x, y = best_crops(D, Bright(), 1, pool=20, crops=3, generator=rng(0))
    means = calls[0].mean((1, 2, 3)).view(20, 3).max(1).values
    want = means.sort(descending=True).values[:4]
    assert torch.allclose(cut(x[:1], 2).mean((1, 2, 3)), want, atol=1e-4)
    assert y.tolist() == list(range(10))
    with pytest.raises(DdnbError, match="pool"):
        best_crops(D, Bright(), 10, pool=20)
