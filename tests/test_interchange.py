"Other tools' files: what they read of ours, and what we read of theirs."

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
import yaml

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.data import Norm, load
from ddnb.judge.protocols import dc_bench, mtt, training
from ddnb.latent.published import Published
from ddnb.nets import Flat, net_for
from ddnb.nets.dsa import DSA
from ddnb.nets.fit import SCHEDULES
from ddnb.share import EXPORTS
from ddnb.share.artifact import Distilled
from ddnb.trajectory import read_buffers, record
from ddnb.trajectory.buffers import write_buffers

# ---- DD-Ranking 0.2.0: every key its constructors take from a Config by name

COMMON = """dataset real_data_path ipc model_name data_aug_func aug_params optimizer lr_scheduler
weight_decay momentum step_size num_eval im_size num_epochs use_zca save_path num_workers device
dist
random_data_format random_data_path custom_train_trans custom_val_trans""".split()
EVALUATORS = {
    "hard_label": "real_batch_size syn_batch_size use_torchvision eval_full_data",
    "soft_label": """soft_label_criterion soft_label_mode loss_fn_kwargs use_aug_for_hard
    real_batch_size syn_batch_size eval_full_data stu_use_torchvision tea_use_torchvision
    teacher_dir teacher_model_names""",
    "aug_robust": """label_type soft_label_mode soft_label_criterion loss_fn_kwargs batch_size
    stu_use_torchvision tea_use_torchvision teacher_dir teacher_model_names""",
    "general": """use_soft_label default_lr real_batch_size syn_batch_size stu_use_torchvision
    tea_use_torchvision teacher_dir teacher_model_names""",
}


def distilled(soft):
    x, y = torch.randn(20, 3, 32, 32, generator=rng(0)), torch.arange(20) // 2
    y = F.one_hot(y, 10).float() * 0.9 + 0.01 if soft else y
    norm = Norm([0.5] * 3, [0.25] * 3)
    names = [f"c{i}" for i in range(10)]
    return Distilled(x, y, names, norm, card={"data": {"name": "cifar10"}})


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", EVALUATORS)
def test_ddranking_finds_every_key(soft, name, tmp_path):
    folder = EXPORTS["ddranking"](distilled(soft), tmp_path / "out")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for key in [*COMMON, *EVALUATORS[name].split()]:
        assert key in config, key  # by plain indexing: custom_val_trans raises there otherwise
    assert config["custom_train_trans"] is None and config["random_data_format"] == "tensor"
    ranges = "scale rotate flip brightness saturation contrast crop cutout".split()
    assert all(isinstance(config["aug_params"][k], float) for k in ranges)
    assert (config["dataset"], config["ipc"], config["im_size"]) == ("CIFAR10", 2, [32, 32])
    said = (folder / "README.md").read_text()
    assert ("soft_labels=" in said) == soft and ("hard_labels=" in said) != soft
    labels = torch.load(folder / "labels.pt", weights_only=True)
    assert labels.is_floating_point() == soft


# ---- the rate of judges, epoch by epoch as MTT's loop has it


def reference(epochs, lr):
    "Rates of the E + 1 epochs: a tenth from the one after epoch E // 2 + 1 on."
    rates = []
    for epoch in range(epochs + 1):
        rates.append(lr)
        if epoch == epochs // 2 + 1:
            lr *= 0.1
    return rates


@pytest.mark.parametrize("epochs", [2, 3, 7, 10, 11, 300, 301, 1000, 1001])
@pytest.mark.parametrize("protocol", [mtt, dc_bench])
def test_the_rate_falls_when_it_does_in_the_reference(protocol, epochs):
    kw = training(protocol, "ConvNet", 10, epochs=epochs)
    f, n = SCHEDULES[kw["schedule"]], kw["epochs"]
    assert [kw["lr"] * f(e, n) for e in range(n)] == pytest.approx(reference(epochs, kw["lr"]))
    fall = next((e for e in range(n) if f(e, n) < 1), n)
    assert kw["restarts"] == (fall,) or fall == n


# ---- LD3M's MTT


def test_published_mtt_has_the_starts_and_the_rate_of_its_code():
    given = Published(objective="MTT").settings()
    assert given["max_start"] == 1  # the code draws below 2
    alpha, gradient = given["alpha"], 3.7  # of the loss by alpha
    theirs = alpha - 1e-6 * gradient
    ours = math.exp(math.log(alpha) - given["lr_alpha"] * gradient * alpha)
    assert ours - alpha == pytest.approx(theirs - alpha, rel=1e-3)


# ---- replay buffers


@pytest.fixture(scope="module")
def experts():
    data = load("digits")
    make = net_for(data, "MLP", width=8, depth=1)
    return data, make, record(data, make, n=3, epochs=2, progress=False)


def test_buffers_come_back(experts, tmp_path):
    data, make, e = experts
    folder = write_buffers(e, tmp_path / "digits" / "MLP", per_file=2)
    files = sorted(folder.iterdir())
    assert [f.name for f in files] == ["replay_buffer_0.pt", "replay_buffer_1.pt"]
    back = read_buffers(files, make, norm=data.norm)
    assert len(back) == 3 and back.max_epoch == e.max_epoch
    for i in range(3):
        assert torch.equal(back.rows(i, range(3)), e.rows(i, range(3)))
    with pytest.raises(DdnbError, match="not empty"):
        write_buffers(e, folder)


def test_buffers_load_as_the_reference_reads_them(experts, tmp_path):
    _, make, e = experts
    buffer = torch.load(write_buffers(e, tmp_path / "b") / "replay_buffer_0.pt", weights_only=True)
    flat = Flat(make(generator=rng(0)))
    start = torch.cat([p.data.reshape(-1) for p in buffer[1][1]], 0)
    assert torch.equal(start, e.rows(1, [1])[0])
    assert [tuple(p.shape) for p in buffer[0][0]] == [tuple(p.shape) for p in flat.net.parameters()]
    places = {p.untyped_storage().data_ptr() for snapshot in buffer[0] for p in snapshot}
    assert len(places) == sum(len(snapshot) for snapshot in buffer[0])


def test_buffers_refuse_what_is_no_number_and_say_what_they_lack(experts, tmp_path):
    _, make, e = experts
    folder = write_buffers(e, tmp_path / "b")
    with pytest.warns(UserWarning, match="do not say how the images .* were normalised"):
        read_buffers(folder / "replay_buffer_0.pt", make)
    buffer = torch.load(folder / "replay_buffer_0.pt", weights_only=True)
    buffer[2][1][0][0] = math.nan
    torch.save(buffer, folder / "bad.pt")
    with pytest.raises(DdnbError, match="snapshot 1 of an expert is NaN"):
        read_buffers(folder / "bad.pt", make)
    with pytest.raises(DdnbError, match="norm is"):
        read_buffers(folder / "replay_buffer_0.pt", make, norm="cifar10")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_buffers(folder / "replay_buffer_0.pt", make, norm=load("digits").norm)


def test_buffers_want_whole_epochs(tmp_path):
    data = load("digits")
    make = net_for(data, "MLP", width=8, depth=1)
    e = record(data, make, n=1, epochs=2, per_epoch=2, progress=False)
    with pytest.raises(DdnbError, match="per_epoch=1"):
        write_buffers(e, tmp_path / "b")


# ---- DSA


@pytest.mark.parametrize("height, equal", [(12, True), (8, False)])
def test_rotation_is_the_references_on_square_images_only(height, equal):
    x = torch.rand(3, 1, height, 12, generator=rng(0))
    draw = {"rotate": torch.tensor([[0.1], [0.9], [0.7]])}
    t = (draw["rotate"][:, 0] - 0.5) * 2 * math.radians(15)
    zero = torch.zeros(3)
    rows = torch.stack([t.cos(), -t.sin(), zero]), torch.stack([t.sin(), t.cos(), zero])
    grid = F.affine_grid(torch.stack(rows).permute(2, 0, 1), x.shape, align_corners=True)
    theirs = F.grid_sample(x, grid, align_corners=True)
    assert torch.allclose(DSA("rotate")(x, draw), theirs, atol=1e-4) == equal
