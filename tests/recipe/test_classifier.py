"A classifier as a file: what the judge's network says, to the bit, and nothing that can run."

import csv
import io

import pytest
import torch
from PIL import Image

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.data import load
from ddnb.distil import init
from ddnb.judge import evaluate
from ddnb.nets import net_for
from ddnb.share import Distilled, card, load_classifier, predict, save, save_classifier
from ddnb.share.classifier import agreement, as_csv, to_onnx, to_torch, train_classifier

from .command_line import run

torch.set_num_threads(1)
STEPS = dict(steps=30)


@pytest.fixture(scope="module")
def data():
    return load("digits")


@pytest.fixture(scope="module")
def means(data):
    return init(data, 1, "mean", generator=rng(0))


def net_of(data):
    return net_for(data, "ConvNet", width=4, depth=2)


def test_its_accuracy_is_the_judges(data, means):
    for seed in (0, 3):
        model = train_classifier(means, data, net_of(data), seed=seed, **STEPS)
        judged = evaluate(means, data, net_of(data), seeds=[seed], **STEPS)
        (found,) = model.card["metrics"]
        assert found["mean"] == judged.mean and found["per_class"] == judged.per_class
        right = model.probabilities(data.test.x).argmax(1) == data.test.y
        assert right.float().mean() == pytest.approx(judged.mean)


@pytest.mark.parametrize("name", ["MLP", "ConvNet", "ResNet18"])
def test_the_file_gives_the_same_answers_to_the_bit(data, means, name, tmp_path):
    model = train_classifier(means, data, name, steps=2)
    save_classifier(model, tmp_path / "m.safetensors")
    again = load_classifier(tmp_path / "m.safetensors")
    x = data.test.x[:50]
    assert torch.equal(again.probabilities(x), model.probabilities(x))
    assert again.classes == data.classes and again.card["data"]["name"] == "digits"
    with pytest.raises(DdnbError, match="exists"):
        save_classifier(model, tmp_path / "m.safetensors")


def test_whitened_images_are_whitened_by_the_program_too(means, tmp_path):
    white = load("digits", zca=True)
    model = train_classifier(white, white, "MLP", steps=5)
    program = torch.export.load(to_torch(model, tmp_path / "m.pt2")).module()
    x = white.test.x[:7]
    assert torch.allclose(program(x / 255), model.probabilities(x), atol=1e-6)
    assert program(x[:1] / 255).shape == (1, 10), "any number of images"


def test_onnx_gives_the_same_classes_or_says_what_it_needs(data, means, tmp_path):
    model = train_classifier(means, data, net_of(data), **STEPS)
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        with pytest.raises(DdnbError, match=r"ddnb\[onnx\]"):
            to_onnx(model, tmp_path / "m.onnx")
        return
    session = onnxruntime.InferenceSession(str(to_onnx(model, tmp_path / "m.onnx")))
    x = data.test.x
    (said,) = session.run(None, {"images": (x / 255).numpy()})
    assert torch.equal(torch.from_numpy(said).argmax(1), model.probabilities(x).argmax(1))


def test_a_foreign_or_damaged_file_is_named(data, means, tmp_path):
    save(Distilled(*means, data.classes, data.norm), tmp_path / "set")
    with pytest.raises(DdnbError, match="no classifier"):
        load_classifier(tmp_path / "set" / "distilled.safetensors")
    model = train_classifier(means, data, "MLP", steps=1)
    file = save_classifier(model, tmp_path / "m.safetensors")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DdnbError, match="damaged|altered|cut"):
        load_classifier(file)
    with pytest.raises(DdnbError, match="sees"):
        model.probabilities(torch.zeros(1, 3, 8, 8))


def test_pictures_of_any_size_get_an_answer(data, means, tmp_path):
    model = train_classifier(means, data, "MLP")
    for c in (0, 1):
        (tmp_path / "in" / str(c)).mkdir(parents=True)
        u = data.test.x[data.test.y == c][0, 0].numpy()
        Image.fromarray(u).resize((40, 40)).convert("RGB").save(tmp_path / "in" / f"{c}" / "a.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"nothing")
    with pytest.raises(DdnbError, match="--skip"):
        list(predict(model, tmp_path / "in"))
    answers = list(predict(model, tmp_path / "in", skip=True))
    assert agreement(answers, model.classes) == (2, 2)
    rows = list(csv.DictReader(io.StringIO(as_csv(answers, ['<"a,b">', *model.classes[1:]]))))
    assert sum(float(rows[0][k]) for k in [*rows[0]][3:]) == pytest.approx(1, abs=1e-4)
    with pytest.raises(DdnbError, match="no picture"):
        list(predict(model, [tmp_path / "in"][:0]))


def test_from_the_command(data, means, tmp_path):
    save(Distilled(*means, data.classes, data.norm, card=card(data=data)), tmp_path / "set")
    file = tmp_path / "m.safetensors"
    code, out, err = run("train", tmp_path / "set", "--out", file, "--device", "cpu")
    assert code == 0 and "lowest recall" in out, err
    assert run("train", tmp_path / "set", "--out", file)[0] == 1
    (tmp_path / "in" / "3").mkdir(parents=True)
    u = data.test.x[data.test.y == 3][0, 0].numpy()
    Image.fromarray(u).save(tmp_path / "in" / "3" / "a.png")
    code, out, err = run("predict", file, tmp_path / "in", "--device", "cpu")
    assert code == 0 and out.startswith("file,answer,confidence,0,1") and "1 of the 1" in err
    code, out, err = run("predict", file, tmp_path / "in", "--out", tmp_path / "a.csv")
    assert code == 0 and out == "" and (tmp_path / "a.csv").read_text().count("\n") == 2
    code, out, err = run("export", file, "--to", "torch")
    assert code == 0 and (tmp_path / "m.pt2").exists(), err
    code, _, err = run("export", file, "--to", "mtt")
    assert code == 1 and "torch" in err
    code, _, err = run("predict", tmp_path / "nothing", tmp_path / "in")
    assert code == 1 and err.count("\n") == 1
