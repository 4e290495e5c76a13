"Pixels on screen are the images."

import io

import numpy as np
import torch
from PIL import Image

from ddnb import views as V

from .hands import (
    front,
)


def test_gallery_pixels_are_the_images(data):
    u = data.train.x[:20]
    v = V.DistilledGallery({"0": u}, data.train.y[:20])
    assert (v.pixels()[0][..., 0] == u[:, 0].numpy()).all()
    im = np.asarray(Image.open(io.BytesIO(v.pic.value)).convert("RGB"))
    assert im.shape == (2 * 9 - 1, 10 * 9 - 1, 3) and (im[:8, :8, 0] == u[0, 0].numpy()).all()
    assert v.pic.width == str(round((10 * 9 - 1) * 44 / 8)) and v.pic.layout.height.endswith("px")


def test_gallery_remembers_at_most_fifty(data):
    x = data.xy()[0][:10]
    v = V.DistilledGallery({t: x + t for t in range(70)}, norm=data.norm)
    for i in range(70):
        front(v.c_step, index=i)
    assert len(v.cache) == 50
    assert V.DistilledGallery({}).summary() == "no images yet"


def test_gallery_adds_while_a_run_goes_on_and_stays_where_the_reader_is(data):
    x = data.xy()[0][:10]
    v = V.DistilledGallery({0: x}, norm=data.norm)
    v.add(10, x)
    assert v.step == 10
    front(v.c_step, index=0)
    v.add(20, x)
    assert v.step == 0 and len(v.c_step.options) == 3
    x += 100  # the snapshot is a copy
    assert float((v.shots[20] - x).abs().min()) > 50


def test_gallery_takes_latent_trails_soft_labels_and_large_images():
    v = V.DistilledGallery(
        {0: torch.rand(4, 3, 16, 16)},
        torch.eye(2).repeat_interleave(2, 0),
        trail=torch.rand(5, 4, 3, 16, 16),
    )
    assert "soft labels" in v.summary() and v.along.value[:4] == b"\x89PNG"
    v = V.DistilledGallery(torch.rand(100, 3, 128, 128), torch.arange(10).repeat_interleave(10))
    assert v.pic.format == "jpeg" and v.pic.value[:2] == b"\xff\xd8"


def test_pages_are_forgotten_by_their_weight(monkeypatch):
    monkeypatch.setattr("ddnb.views.gallery._ROOM", 3 * 20 * 64 * 3)  # bytes of three pages
    v = V.DistilledGallery({t: torch.rand(20, 3, 8, 8) for t in range(9)})
    for i in range(9):
        v.c_step.index = i
    assert [step for step, *_ in v.cache] == [6, 7, 8]
