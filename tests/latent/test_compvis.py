"The original checkpoint's layout, key by key, on a tiny file."

import sys
import types

import pytest
import torch

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.latent import Prior, Sampler, generate

YAML = """
model:
  params:
    linear_start: 0.0015
    linear_end: 0.0195
    timesteps: 1000
    image_size: 8
    unet_config:
      params:
        image_size: 8
        in_channels: 3
        out_channels: 3
        model_channels: 32
        attention_resolutions: [2]
        num_res_blocks: 1
        channel_mult: [1, 2]
        num_heads: 1
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: 16
    first_stage_config:
      params:
        embed_dim: 3
        n_embed: 32
        ddconfig:
          double_z: false
          z_channels: 3
          resolution: 32
          in_channels: 3
          out_ch: 3
          ch: 32
          ch_mult: [1, 1, 2]
          num_res_blocks: 1
          attn_resolutions: []
          dropout: 0.0
    cond_stage_config: {params: {n_classes: 11, embed_dim: 16, key: class_label}}
"""


def _layers():  # sizes of the tiny checkpoint, key by key as CompVis names them
    s = {}

    def lin(k, o, i, bias=True):
        s[k + ".weight"] = (o, i)
        s.update({k + ".bias": (o,)} if bias else {})

    def conv(k, o, i, n=3):
        s[k + ".weight"] = (o, i, n, n)
        s[k + ".bias"] = (o,)

    def norm(k, c):
        s[k + ".weight"] = (c,)
        s[k + ".bias"] = (c,)

    def res(k, i, o):
        norm(k + ".in_layers.0", i)
        conv(k + ".in_layers.2", o, i)
        lin(k + ".emb_layers.1", o, 128)
        norm(k + ".out_layers.0", o)
        conv(k + ".out_layers.3", o, o)
        if i != o:
            conv(k + ".skip_connection", o, i, 1)

    def attn(k, c, ctx=16):
        norm(k + ".norm", c)
        conv(k + ".proj_in", c, c, 1)
        conv(k + ".proj_out", c, c, 1)
        b = k + ".transformer_blocks.0"
        for n, d in (("attn1", c), ("attn2", ctx)):
            for q, i in (("to_q", c), ("to_k", d), ("to_v", d)):
                lin(f"{b}.{n}.{q}", c, i, bias=False)
            lin(f"{b}.{n}.to_out.0", c, c)
        lin(b + ".ff.net.0.proj", 8 * c, c)
        lin(b + ".ff.net.2", c, 4 * c)
        for i in (1, 2, 3):
            norm(f"{b}.norm{i}", c)

    u = "model.diffusion_model."
    lin(u + "time_embed.0", 128, 32)
    lin(u + "time_embed.2", 128, 128)
    conv(u + "input_blocks.0.0", 32, 3)
    res(u + "input_blocks.1.0", 32, 32)
    conv(u + "input_blocks.2.0.op", 32, 32)
    res(u + "input_blocks.3.0", 32, 64)
    attn(u + "input_blocks.3.1", 64)
    res(u + "middle_block.0", 64, 64)
    attn(u + "middle_block.1", 64)
    res(u + "middle_block.2", 64, 64)
    res(u + "output_blocks.0.0", 128, 64)
    attn(u + "output_blocks.0.1", 64)
    res(u + "output_blocks.1.0", 96, 64)
    attn(u + "output_blocks.1.1", 64)
    conv(u + "output_blocks.1.2.conv", 64, 64)
    res(u + "output_blocks.2.0", 96, 32)
    res(u + "output_blocks.3.0", 64, 32)
    norm(u + "out.0", 32)
    conv(u + "out.2", 3, 32)

    def rv(k, i, o):
        norm(k + ".norm1", i)
        conv(k + ".conv1", o, i)
        norm(k + ".norm2", o)
        conv(k + ".conv2", o, o)
        if i != o:
            conv(k + ".nin_shortcut", o, i, 1)

    def mid(k, c):
        rv(k + ".block_1", c, c)
        rv(k + ".block_2", c, c)
        norm(k + ".attn_1.norm", c)
        for n in ("q", "k", "v", "proj_out"):
            conv(f"{k}.attn_1.{n}", c, c, 1)

    f = "first_stage_model."
    conv(f + "encoder.conv_in", 32, 3)
    rv(f + "encoder.down.0.block.0", 32, 32)
    conv(f + "encoder.down.0.downsample.conv", 32, 32)
    rv(f + "encoder.down.1.block.0", 32, 32)
    conv(f + "encoder.down.1.downsample.conv", 32, 32)
    rv(f + "encoder.down.2.block.0", 32, 64)
    mid(f + "encoder.mid", 64)
    norm(f + "encoder.norm_out", 64)
    conv(f + "encoder.conv_out", 3, 64)
    conv(f + "decoder.conv_in", 64, 3)
    mid(f + "decoder.mid", 64)
    norm(f + "decoder.norm_out", 32)
    conv(f + "decoder.conv_out", 3, 32)
    for lvl, i, o in ((2, 64, 64), (1, 64, 32), (0, 32, 32)):
        rv(f"{f}decoder.up.{lvl}.block.0", i, o)
        rv(f"{f}decoder.up.{lvl}.block.1", o, o)
        if lvl:
            conv(f"{f}decoder.up.{lvl}.upsample.conv", o, o)
    conv(f + "quant_conv", 3, 3, 1)
    conv(f + "post_quant_conv", 3, 3, 1)
    s[f + "quantize.embedding.weight"] = (32, 3)
    s["cond_stage_model.embedding.weight"] = (11, 16)
    return s


@pytest.fixture(scope="module")
def compvis(tmp_path_factory):
    "A tiny checkpoint with the keys, and the pickled training leftovers, of the original."
    d, g = tmp_path_factory.mktemp("compvis"), rng(0)
    sd = {k: torch.randn(v, generator=g) * 0.1 for k, v in _layers().items()}
    names = [
        "pytorch_lightning",
        "pytorch_lightning.callbacks",
        "pytorch_lightning.callbacks.model_checkpoint",
    ]
    mods = [types.ModuleType(n) for n in names]
    cls = type("ModelCheckpoint", (), {"__module__": names[-1]})
    mods[-1].ModelCheckpoint = cls
    held = {n: sys.modules.get(n) for n in names}
    try:
        sys.modules.update(zip(names, mods))
        torch.save(
            {"state_dict": sd, "global_step": 7, "callbacks": {cls: {"best": 1.0}}},
            d / "model.ckpt",
        )
    finally:
        for n, m in held.items():
            sys.modules.pop(n) if m is None else sys.modules.__setitem__(n, m)
    (d / "cin256-v2.yaml").write_text(YAML)
    return d, sd


def test_compvis_checkpoint(compvis, tmp_path):
    d, sd = compvis
    p = Prior.from_compvis(d / "model.ckpt", d / "cin256-v2.yaml")
    assert (
        p.vq
        and p.factor == 4
        and p.scale == 1
        and torch.equal(p.table[:, 0], sd["cond_stage_model.embedding.weight"])
        and torch.equal(p.null[0], p.table[10, 0])
    )
    net, ae = (
        p.denoiser.state_dict(),
        p.autoencoder.state_dict(),
    )  # a key per rule of the renaming, by hand
    for k, o in (
        (
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
            "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        ),
        ("up_blocks.0.upsamplers.0.conv.bias", "output_blocks.1.2.conv.bias"),
        ("down_blocks.1.resnets.0.time_emb_proj.weight", "input_blocks.3.0.emb_layers.1.weight"),
    ):
        assert torch.equal(net[k], sd["model.diffusion_model." + o])
    for k, o in (
        ("decoder.up_blocks.0.resnets.0.conv1.weight", "decoder.up.2.block.0.conv1.weight"),
        ("encoder.mid_block.attentions.0.to_q.bias", "encoder.mid.attn_1.q.bias"),
        ("quantize.embedding.weight",) * 2,
    ):
        assert torch.equal(ae[k], sd["first_stage_model." + o])
    z = p.encode(torch.rand(2, 3, 32, 32, generator=rng(1)))
    c = p.embed(torch.tensor([1, 9])).requires_grad_()
    assert z.shape == (2, 3, 8, 8) and generate(
        Sampler(p, 2, guidance=3.0), z, c, torch.zeros_like(z)
    ).shape == (2, 3, 32, 32)
    q = Prior.load(p.save(tmp_path / "p"), offline=True)
    with torch.no_grad():
        assert torch.equal(
            *(generate(Sampler(o, 2, guidance=3.0), z, c, torch.zeros_like(z)) for o in (p, q))
        )


def test_compvis_errors(compvis, tmp_path):
    d, sd = compvis
    y = d / "cin256-v2.yaml"

    def bad(match, change=None, yaml=y, **extra):
        torch.save(
            {"state_dict": {k: v for k, v in sd.items() if k != change}, **extra},
            tmp_path / "m.ckpt",
        )
        with pytest.raises(DdnbError, match=match):
            Prior.from_compvis(tmp_path / "m.ckpt", yaml)

    bad(
        "lacks 1 weights of the denoiser, the first is conv_out.bias",
        "model.diffusion_model.out.2.bias",
    )
    bad(
        "lacks 1 weights of the autoencoder, the first is quantize",
        "first_stage_model.quantize.embedding.weight",
    )
    bad("class embeddings", "cond_stage_model.embedding.weight")
    wide = tmp_path / "w.yaml"
    wide.write_text(YAML.replace("model_channels: 32", "model_channels: 64"))
    bad("by the yaml", yaml=wide)
    other = tmp_path / "o.yaml"
    other.write_text("model: {params: {}}")
    bad("does not describe", yaml=other)
    bad("There is no file", yaml=tmp_path / "none.yaml")
    with pytest.raises(DdnbError, match="download model.ckpt"):
        Prior.from_compvis(tmp_path / "none.ckpt", y)
