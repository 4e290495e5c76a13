"What a budget buys, and the published presets."

import pytest
import torch
from latent_tools import prior

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.latent import SUBSETS, Prior, Published, tradeoff


def test_tradeoff_measures(digits):
    c = tradeoff(prior(dtype=torch.float32), n=4, steps=(1, 3), chunk=4)
    assert [(r["steps"], r["checkpoint"], r["passes"]) for r in c] == [
        (1, True, 3),
        (1, False, 2),
        (3, True, 9),
        (3, False, 6),
    ]
    assert (
        all(r["seconds"] > 0 and r["bytes"] > 0 for r in c) and c[3]["bytes"] > 1.5 * c[2]["bytes"]
    )
    assert (
        c.buys(1)[0]["optimisation_steps"] == int(60 / c[0]["seconds"])
        and c.buys(1, memory=0) == []
        and c._repr_markdown_().count("\n") == 5
    )


def test_presets_refuse_in_one_sentence(tmp_path):
    p = Published("imagewoof", 256, 10, "MTT")
    assert (
        (p.steps, p.lr, p.net["depth"]) == (20, 1000.0, 6)
        and "100 images" in p.cost()
        and "10000 steps" in p.cost()
    )
    with pytest.raises(DdnbError, match="model.ckpt is missing; download it from https"):
        p.prior(tmp_path)
    with pytest.raises(DdnbError, match="download ILSVRC2012"):
        p.folders(tmp_path)
    for i in range(1000):
        (tmp_path / "train" / f"n{i:08}").mkdir(parents=True)
    assert p.folders(tmp_path)[:2] == ["n00000193", "n00000182"]
    with pytest.raises(DdnbError, match="model.ckpt"):
        p.prior(tmp_path)


def test_a_preset_reads_its_ten_classes_from_imagenet(tmp_path):
    from PIL import Image

    p = Published("imagewoof", 128)
    for i in range(1000):
        for split in ("train", "val"):
            d = tmp_path / "imagenet" / split / f"n{i:08}"
            d.mkdir(parents=True)
            if i in p.class_ids:
                for k in range(3):
                    Image.new("RGB", (150, 140), (i % 256, 10 * p.class_ids.index(i), k)).save(
                        d / f"{k}.png"
                    )
    d = p.data(tmp_path / "imagenet", tmp_path / "woof")
    assert (d.num_classes, d.size, len(d.test)) == (10, 128, 30) and d.classes[0] == "0_n00000193"
    assert all(
        int(x[1, 0, 0]) == 10 * int(y) for x, y in zip(d.test.x, d.test.y)
    )  # label order, not sorted order
    syn = p.latents(
        prior("vq", channels=3, size=128, dtype=torch.float32), d, generator=rng(0), steps=1
    )
    assert (
        syn()[0].shape == (10, 3, 128, 128) and p.optimiser(syn).param_groups[0]["momentum"] == 0.5
    )


def test_the_paper_table_reaches_the_right_classes(digits):
    q = prior(dtype=torch.float32)
    big = Prior(
        q.autoencoder,
        q.denoiser,
        q.scheduler,
        torch.arange(1001.0)[:, None, None].expand(-1, 1, 16).clone(),
        torch.zeros(1, 16),
    )
    syn = Published("imagewoof").latents(big, digits, generator=rng(0), steps=1)
    assert syn.c[:, 0, 0].tolist() == SUBSETS["imagewoof"]


def test_subsets_are_ten_classes_each():
    assert len(SUBSETS) == 11 and all(
        len(set(v)) == 10 and 0 <= min(v) and max(v) < 1000 for v in SUBSETS.values()
    )
