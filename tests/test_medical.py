"Scans: DICOM files, and pictures of more than eight bits."

import numpy as np
import pytest
import torch
from PIL import Image

from ddnb.base.check import DdnbError
from ddnb.data import SPLITS, load
from ddnb.data.dicom import dicom_picture, holds_dicom, patient_of

pytest.importorskip("pydicom")


def scan(file, values, patient="anna", photometric="MONOCHROME2", bits=16, **tags):
    "A DICOM file."
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.PatientID, ds.PhotometricInterpretation = patient, photometric
    ds.Rows, ds.Columns = values.shape[:2]
    ds.SamplesPerPixel, ds.PixelRepresentation = values.ndim == 3 and 3 or 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    if values.ndim == 3:
        ds.PlanarConfiguration = 0
    for name, v in tags.items():
        setattr(ds, name, v)
    ds.PixelData = np.ascontiguousarray(values, f"<u{bits // 8}").tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(file, enforce_file_format=True)


def tree(root, write, n=12):
    "A folder of two classes."
    for i in range(n):
        write(root / ("ill", "well")[i % 2] / f"{i:02}", i)
    return root


def bytes_of(data):
    "All images, by file name."
    return {
        p: x for s in SPLITS for p, x in zip(data.split(s).paths, data.split(s).x[:, 0].numpy())
    }


RAMP = np.arange(64).reshape(8, 8)


def test_a_scan_is_seen_through_its_own_window(tmp_path):
    tags = dict(WindowCenter=1040, WindowWidth=401, RescaleSlope=1, RescaleIntercept=-1024)
    tree(tmp_path, lambda f, i: scan(f.with_suffix(".dcm"), RAMP * 40 + i, **tags))
    got = bytes_of(load(tmp_path, valid=0))["ill/00.dcm"]
    low, high = 1040 - 0.5 - 200, 1040 - 0.5 + 200  # PS3.3 C.11.2.1.2.1
    want = ((RAMP * 40 - 1024 - low) / (high - low)).clip(0, 1) * 255
    assert np.array_equal(got, want.round().astype(np.uint8))
    forced = bytes_of(load(tmp_path, valid=0, window=(-1024, 1496)))["ill/00.dcm"]
    assert np.array_equal(forced, (RAMP * 40 / 2520 * 255).round().astype(np.uint8))


def test_white_may_be_black(tmp_path):
    def write(f, i):
        scan(f.with_suffix(".dcm"), RAMP * 4, photometric=f"MONOCHROME{1 + i % 2}", bits=8)

    tree(tmp_path, write)
    got = bytes_of(load(tmp_path, valid=0))
    assert np.array_equal(got["ill/00.dcm"], 255 - got["well/01.dcm"])
    assert np.array_equal(got["well/01.dcm"], RAMP * 4)


def test_colour_scans_stay_in_colour(tmp_path):
    rgb = np.stack([RAMP, RAMP * 2, RAMP * 3], -1)
    tree(tmp_path, lambda f, i: scan(f.with_suffix(".dcm"), rgb, photometric="RGB", bits=8))
    assert np.array_equal(load(tmp_path, valid=0).train.x[0].permute(1, 2, 0).numpy(), rgb)


def test_patients_stay_together(tmp_path):
    who = lambda i: f"p{i // 4}"
    tree(tmp_path, lambda f, i: scan(f.with_suffix(".dcm"), RAMP + i, who(i), bits=8), 40)
    d = load(tmp_path, groups="PatientID")
    of = {s: {patient_of(tmp_path / p) for p in d.split(s).paths} for s in SPLITS}
    assert sum(map(len, of.values())) == 10 and all(of.values())
    tree(tmp_path / "png", lambda f, i: _png(f, RAMP))
    with pytest.raises(DdnbError, match="names no patient"):
        load(tmp_path / "png", groups="PatientID")


def _png(file, values, dtype=np.uint16):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(dtype)).save(file.with_suffix(".png"))


def test_sixteen_bits_in_few_values_lose_nothing(tmp_path):
    tree(tmp_path, lambda f, i: _png(f, RAMP * 3 + i))  # values up to 201
    d = load(tmp_path, valid=0)
    assert np.array_equal(bytes_of(d)["well/05.png"], RAMP * 3 + 5)
    assert "no value is lost" in d.meta["window"] and "no value is lost" in repr(d)
    tree(tmp_path / "far", lambda f, i: _png(f, RAMP * 3 + 30_000 + i))
    got = load(tmp_path / "far", valid=0, window=(30_000, 30_255))
    assert np.array_equal(bytes_of(got)["well/05.png"], RAMP * 3 + 5)


def test_twelve_bits_fill_the_greys(tmp_path):
    tree(tmp_path, lambda f, i: _png(f, RAMP * 60 + i))
    d = load(tmp_path, valid=0)
    want = (((RAMP * 60 + 5) / 4095) * 255).round()
    assert np.array_equal(bytes_of(d)["well/05.png"], want)
    assert d.meta["window"] == "0 to 4095 on 256 greys, 16.1 values a grey"
    full = load(tmp_path, valid=0, window="full")
    assert full.train.x.min() == 0 and full.train.x.max() == 255
    assert (
        load(tmp_path, valid=0, window="percentile").train.x.float().std() > d.train.x.float().std()
    )


def test_full_sixteen_bits_are_as_before(tmp_path):
    tree(tmp_path, lambda f, i: _png(f, RAMP * 1040))
    got = bytes_of(load(tmp_path, valid=0))["ill/00.png"]
    assert np.array_equal(got, (RAMP * 1040 / 257).round())


def test_one_far_brighter_picture_is_refused_with_a_cure(tmp_path):
    tree(tmp_path, lambda f, i: _png(f, RAMP * (900 if i == 50 else 60)), 200)
    with pytest.raises(DdnbError, match=r"give window=\(0, 65535\)"):
        load(tmp_path, valid=0)
    assert load(tmp_path, valid=0, window=(0, 65535)).train.x.max() <= 255


def test_wrong_windows_are_sentences(tmp_path):
    tree(tmp_path, lambda f, i: _png(f, RAMP, np.uint8))
    with pytest.raises(DdnbError, match="these have eight"):
        load(tmp_path, valid=0, window="full")
    for bad in ((5, 2), "wide", 3, (1, 2, 3)):
        with pytest.raises(DdnbError, match="window is"):
            load(tmp_path, window=bad)


def test_dicom_without_a_suffix_is_named(tmp_path):
    tree(tmp_path, lambda f, i: scan(f, RAMP, bits=8))
    assert holds_dicom(tmp_path / "ill" / "00")
    with pytest.raises(DdnbError, match="DICOM files without the suffix"):
        load(tmp_path)


def test_without_pydicom_there_is_a_sentence(tmp_path, monkeypatch):
    import sys

    tree(tmp_path, lambda f, i: scan(f.with_suffix(".dcm"), RAMP, bits=8))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DdnbError, match=r"ddnb\[medical\]"):
        load(tmp_path)


def test_damaged_scans_are_skipped(tmp_path):
    tree(tmp_path, lambda f, i: scan(f.with_suffix(".dcm"), RAMP + i, bits=8))
    whole = (tmp_path / "ill" / "00.dcm").read_bytes()
    (tmp_path / "ill" / "00.dcm").write_bytes(whole[: len(whole) - 30])
    with pytest.raises(DdnbError, match="00.dcm cannot be read"):
        load(tmp_path, valid=0)
    with pytest.warns(UserWarning, match="skipped"):
        d = load(tmp_path, valid=0, errors="skip")
    assert sum(map(len, map(d.split, SPLITS))) == 11


def test_the_first_of_many_frames(tmp_path):
    frames = np.concatenate([RAMP, RAMP * 2])
    file = tmp_path / "a.dcm"
    scan(file, frames, bits=8, NumberOfFrames=2, Rows=8)
    assert np.array_equal(np.asarray(dicom_picture(file)), RAMP)
    assert torch.as_tensor(np.asarray(dicom_picture(file))).dtype == torch.float32
