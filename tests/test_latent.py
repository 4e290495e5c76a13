"""The latent room against independent implementations: diffusers' own loop, a naive sampler, finite differences, files made by others' layouts."""

import json
import math
import sys
import types

import pytest
import torch

from ddnb import latent as L
from ddnb.data import load, rng
from ddnb.distill import Run, distill
from ddnb.latent import (
    KINDS,
    Latents,
    LiveBytes,
    Prior,
    Published,
    Sampler,
    generate,
    tiny_prior,
    tradeoff,
    train_prior,
)
from ddnb.match import DM
from ddnb.nets import net_for
from ddnb.store import DdnbError

SMALL = [k for k in KINDS if k != "cin256"]


def prior(kind="ldm", channels=1, size=8, dtype=torch.float64, pred=None, **cfg):
    p = Prior.random(kind, channels=channels, size=size, width=16, generator=rng(0)).to(dtype)
    if pred or cfg:
        p.scheduler = type(p.scheduler).from_config(
            p.scheduler.config, **({"prediction_type": pred} if pred else {}), **cfg
        )
    return p


def draw(p, n=3, size=4, seed=1):
    g = rng(seed)
    dt = next(p.denoiser.parameters()).dtype
    z, noise = (
        torch.randn(n, p.depth, size, size, generator=g, dtype=torch.float64).to(dt)
        for _ in range(2)
    )
    return z, p.embed(torch.arange(n)), noise


def denoise(p, z, t, c):
    "The denoiser called the way diffusers' pipelines call it."
    if p.how is None:
        return p.denoiser(z, t).sample
    if p.how == "cross":
        return p.denoiser(z, t, encoder_hidden_states=c).sample
    return p.denoiser(z, timestep=t.expand(len(z)), class_labels=c).sample[:, : p.depth]


@pytest.fixture(scope="module")
def digits():
    return load("digits")


# ---- the sampler


@pytest.mark.parametrize("T", [1, 3, 10])
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("skip", [None, "code", "paper"])
def test_skip_weight_zero_is_the_ddim_of_diffusers(kind, T, skip):
    p = prior(kind)
    z, c, noise = draw(p)
    s = Sampler(p, T, skip, strength=0.0)
    p.scheduler.set_timesteps(T)
    with torch.no_grad():
        zt = p.scheduler.add_noise(z, noise, p.scheduler.timesteps[:1])
        for t in p.scheduler.timesteps:
            zt = p.scheduler.step(
                denoise(p, zt, t, torch.arange(3) if p.how == "label" else c), t, zt
            ).prev_sample
        mine = s.chain(z, c, noise)[-1]
    assert (mine - zt).abs().max() < 2e-6 * zt.abs().max()  # diffusers keeps its alphas in float32


@pytest.mark.parametrize(
    "pred,clip",
    [("epsilon", True), ("sample", False), ("v_prediction", False), ("v_prediction", True)],
)
def test_prediction_types_and_clipping_agree_with_diffusers(pred, clip):
    p = prior(pred=pred, clip_sample=clip)
    z, c, noise = draw(p)
    s = Sampler(p, 4, None)
    p.scheduler.set_timesteps(4)
    with torch.no_grad():
        zt = s.start(z, noise)
        for t in p.scheduler.timesteps:
            zt = p.scheduler.step(denoise(p, zt, t, c), t, zt).prev_sample
        assert torch.allclose(s.chain(z, c, noise)[-1], zt, rtol=1e-5, atol=1e-6 * zt.abs().max())


def test_guidance_is_two_evaluations_combined():
    p = prior()
    z, c, _ = draw(p)
    s = Sampler(p, 2, guidance=3.0)
    with torch.no_grad():
        t = torch.tensor(500)
        u, o = denoise(p, z, t, p.null.expand_as(c)), denoise(p, z, t, c)
        assert torch.allclose(s.predict(z, 500, c), u + 3 * (o - u), atol=1e-12)
        assert torch.equal(Sampler(p, 2, guidance=1.0).predict(z, 500, c), o)


def naive(p, z, c, noise, T, skip):
    "Both published forms, written from the formulas with an explicit loop over t = T..1."
    p.scheduler.set_timesteps(T)
    ab = p.scheduler.alphas_cumprod.double()
    ts = p.scheduler.timesteps.tolist()
    prev = ts[1:] + [None]
    zT = ab[ts[0]].sqrt() * z + (1 - ab[ts[0]]).sqrt() * noise
    zt = zT
    q = p.autoencoder.quantize(z)[0] if p.vq else z
    for t, (a, b) in zip(range(T, 0, -1), zip(ts, prev)):
        e = denoise(p, zt, torch.tensor(a), c)
        g, h = ab[a], ab[b] if b is not None else torch.tensor(1.0).double()
        x0 = (zt - (1 - g).sqrt() * e) / g.sqrt()
        index = t - 1
        if skip == "code" and T > 1:
            x0 = (1 - index / (T - 1)) * x0 + index / (T - 1) * q
        zt = h.sqrt() * x0 + (1 - h).sqrt() * e
        if skip == "paper":
            zt = (1 - t / T) * zt + t / T * zT
    return zt


@pytest.mark.parametrize("kind", ["ldm", "vq"])
@pytest.mark.parametrize("skip", ["code", "paper"])
@pytest.mark.parametrize("T", [1, 2, 5])
def test_both_published_skips_equal_a_naive_loop(kind, skip, T):
    p = prior(kind)
    z, c, noise = draw(p)
    with torch.no_grad():
        a, b = Sampler(p, T, skip).chain(z, c, noise)[-1], naive(p, z, c, noise, T, skip)
    assert (a - b).abs().max() < 1e-6 * b.abs().max()


def test_skip_weights_are_the_published_ones():
    p = prior()
    assert [round(Sampler(p, 10, "code").weight(i), 3) for i in (0, 1, 8, 9)] == [
        1,
        0.889,
        0.111,
        0,
    ]
    assert [Sampler(p, 10, "paper").weight(i) for i in (0, 9)] == [1, 0.1]
    assert Sampler(p, 1, "code").weight(0) == 0


def test_cin256_steps_are_those_of_the_reference():
    p = prior()
    p.scheduler = L._ddim(
        beta_start=0.0015,
        beta_end=0.0195,
        timestep_spacing="leading",
        steps_offset=1,
        set_alpha_to_one=False,
    )
    s = Sampler(p, 10)
    assert s.ts == list(range(901, 0, -100))
    assert math.isclose(s.alphas[0][0] ** 0.5, 0.029, abs_tol=5e-4) and math.isclose(
        s.alphas[-1][1], float(p.scheduler.alphas_cumprod[0])
    )


# ---- gradients and memory


def grads(p, chunk, checkpoint, skip, guidance, T=3, n=5):
    g = rng(2)
    z, c, noise = draw(p, n)
    z.requires_grad_()
    leaves = [z]
    if c is not None:
        c.requires_grad_()
        leaves.append(c)
    x = generate(
        Sampler(p, T, skip, guidance=guidance), z, c, noise, chunk=chunk, checkpoint=checkpoint
    )
    return [
        x.detach(),
        *torch.autograd.grad(
            (x * torch.randn(x.shape, generator=g, dtype=torch.float64)).sum(), leaves
        ),
    ]


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("skip,guidance", [(None, 1.0), ("code", 3.0), ("paper", 1.0)])
def test_checkpointed_and_chunked_equal_plain(kind, skip, guidance):
    p = prior(kind)
    ref = grads(p, 16, False, skip, guidance)
    for chunk, ck in ((16, True), (2, True), (2, False)):
        for a, b in zip(grads(p, chunk, ck, skip, guidance), ref):
            assert (a - b).abs().max() <= 1e-9 * b.abs().max().clamp_min(1e-12)


def test_gradient_against_finite_differences():
    p = prior()
    z, c, noise = draw(p, 2)
    s = Sampler(p, 3, "code")
    f = lambda z, c: generate(s, z, c, noise).square().sum()
    zz, cc = z.clone().requires_grad_(), c.clone().requires_grad_()
    gz, gc = torch.autograd.grad(f(zz, cc), (zz, cc))
    dz, dc = (
        torch.randn(z.shape, generator=rng(3)).double(),
        torch.randn(c.shape, generator=rng(4)).double(),
    )
    h = 1e-5
    with torch.no_grad():
        num = (f(z + h * dz, c + h * dc) - f(z - h * dz, c - h * dc)) / (2 * h)
    assert math.isclose(num.item(), ((gz * dz).sum() + (gc * dc).sum()).item(), rel_tol=1e-5)


@pytest.mark.parametrize("checkpoint,forwards", [(True, 2), (False, 1)])
def test_denoiser_passes(checkpoint, forwards):
    "Forward calls per sampling step; the backward is one more pass: 3 with flat memory, 2 without."
    p = prior()
    z, c, noise = draw(p, 6)
    z.requires_grad_()
    n = []
    h = p.denoiser.register_forward_hook(lambda *a: n.append(1))
    generate(Sampler(p, 4), z, c, noise, chunk=3, checkpoint=checkpoint).sum().backward()
    h.remove()
    assert len(n) == forwards * 4 * 2  # steps x chunks


def peak(p, T, n, checkpoint=True):
    z, c, noise = draw(p, n)
    z.requires_grad_()
    with LiveBytes() as m:
        generate(
            Sampler(p, T), z, c.requires_grad_(), noise, chunk=10, checkpoint=checkpoint
        ).square().mean().backward()
    return m.peak


def test_memory_is_flat_in_steps_and_images():
    p = Prior.random("ldm", channels=1, size=8, width=16, generator=rng(0))
    p = Prior(
        p.autoencoder, p.denoiser, p.scheduler, torch.randn(64, 1, 16, generator=rng(0)), p.null
    )
    base = peak(p, 5, 10)
    assert peak(p, 20, 10) <= 1.2 * base and peak(p, 5, 50) <= 1.2 * base
    assert peak(p, 10, 10, False) > 2 * base  # the meter sees what is kept


def test_live_bytes_counts_what_is_alive():
    with LiveBytes() as m:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b * 2
        v = c[:10]
    assert m.peak == 8000 and v.numel() == 10


def test_prior_is_frozen(digits):
    p = prior(dtype=torch.float32)
    before = [w.clone() for m in (p.autoencoder, p.denoiser) for w in m.state_dict().values()]
    syn = Latents.of(p, digits, 1, generator=rng(0), steps=2)
    opt = torch.optim.Adam(syn.groups())
    for _ in range(2):
        opt.zero_grad()
        syn()[0].square().mean().backward()
        opt.step()
    after = [w for m in (p.autoencoder, p.denoiser) for w in m.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert all(
        w.grad is None and not w.requires_grad
        for m in (p.autoencoder, p.denoiser)
        for w in m.parameters()
    )
    assert not p.table.requires_grad and {n for n, _ in syn.named_parameters()} == {"z", "c"}


def test_autocast_compile_and_untrained(digits):
    p = prior(dtype=torch.float32)
    z, c, noise = draw(p)
    ref = generate(Sampler(p, 2), z, c, noise)
    z.requires_grad_()
    x = generate(Sampler(p, 2, autocast=torch.bfloat16), z, c, noise)
    x.sum().backward()
    assert (
        x.dtype == z.grad.dtype == torch.float32
        and 0 < (x - ref).abs().max() < 0.1 * ref.abs().max()
        and z.grad.isfinite().all()
    )
    assert torch.allclose(
        generate(Sampler(p.to(memory_format=torch.channels_last), 2), z, c, noise),
        ref,
        atol=1e-4 * ref.abs().max(),
    )
    q = p.untrained(rng(9))
    assert q.autoencoder is p.autoencoder and not torch.allclose(
        generate(Sampler(q, 2), z, c, noise), ref, atol=1e-3
    )
    assert torch.allclose(
        generate(Sampler(p.compile(backend="eager"), 2), z, c, noise),
        ref,
        atol=1e-4 * ref.abs().max(),
    )


# ---- the parameterisation


def test_latents_keep_the_contract(digits):
    p = prior(dtype=torch.float32)
    syn = Latents.of(p, digits, 2, generator=rng(0), steps=3)
    x, y = syn()
    assert (
        x.shape == (20, 1, 8, 8)
        and x.dtype == torch.float32
        and y.tolist() == [c for c in range(10) for _ in range(2)]
    )
    with torch.no_grad():
        raw = generate(syn.sampler, syn.z, syn.c, syn.noise)
    assert torch.allclose(
        x, (raw - digits.norm.mean[:, None, None]) / digits.norm.std[:, None, None], atol=1e-5
    )  # the norm of real images, no other
    assert torch.equal(syn.pixels()()[0], syn()[0])


@pytest.mark.parametrize("learn", [("z",), ("c",), ("z", "c")])
def test_learnables_can_be_switched(digits, learn):
    syn = Latents.of(prior(dtype=torch.float32), digits, 1, generator=rng(0), steps=1, learn=learn)
    assert tuple(n for n, _ in syn.named_parameters()) == learn
    assert [(g["name"], g["lr"]) for g in syn.groups(0.2, 0.3)] == [
        (n, {"z": 0.2, "c": 0.3}[n]) for n in learn
    ]


def test_noise_is_drawn_once_a_step_and_fixed_for_judging(digits):
    syn = Latents.of(prior(dtype=torch.float32), digits, 1, generator=rng(0), steps=2, fresh=True)
    a, b = syn()[0], syn()[0]
    assert not torch.equal(a, b)
    with torch.no_grad():
        assert torch.equal(syn()[0], syn()[0])
    assert torch.equal(syn.eval()()[0], syn()[0])
    fixed = Latents.of(prior(dtype=torch.float32), digits, 1, generator=rng(0), steps=2)
    assert torch.equal(fixed()[0], fixed()[0])


def steps(syn, opt, obj, n):
    return [r["loss"] for r in distill(syn, obj, opt, n)]


def test_resume_is_bit_identical(digits):
    p, make = prior(dtype=torch.float32), net_for(digits, "ConvNet", width=8, depth=2)

    def new():
        syn = Latents.of(p, digits, 1, generator=rng(0), steps=2, fresh=True)
        return syn, torch.optim.Adam(syn.groups()), DM(digits, make, generator=rng(1), batch=5)

    a = new()
    whole = steps(*a, 4)
    b = new()
    first = steps(*b, 2)
    saved = [o.state_dict() for o in b]
    c = new()
    for o, s in zip(c, saved):
        o.load_state_dict(s)
    assert (
        first + steps(*c, 2) == whole
        and torch.equal(a[0]()[0].detach(), a[0]()[0].detach()) is False
    )


def test_colour_prior_serves_grey_data_of_another_size(digits):
    syn = Latents.of(
        prior("vq", channels=3, size=16, dtype=torch.float32),
        digits,
        1,
        "gaussian",
        generator=rng(0),
        steps=1,
        size=16,
    )
    x, _ = syn()
    x.sum().backward()
    assert x.shape == (10, 1, 8, 8) and syn.z.shape == (10, 3, 8, 8) and syn.z.grad.isfinite().all()


def test_global_random_state_is_untouched(digits):
    before = torch.get_rng_state()
    train_prior(digits, generator=rng(0), steps=(1, 1), progress=False)
    for k in SMALL:
        Latents.of(
            Prior.random(k, channels=1, size=8, width=16, generator=rng(0)),
            digits,
            1,
            generator=rng(0),
            steps=1,
        )()
    assert torch.equal(torch.get_rng_state(), before)


# ---- files


@pytest.mark.parametrize("kind", SMALL)
def test_families_come_back_from_disk(tmp_path, kind):
    p = prior(kind, dtype=torch.float32)
    p.save(tmp_path / "p")
    q = Prior.load(tmp_path / "p", offline=True)
    z, c, noise = draw(p)
    with torch.no_grad():
        a, b = (generate(Sampler(o, 2, guidance=2.0), z, c, noise) for o in (p, q))
    assert torch.equal(a, b) and (p.table is None or torch.equal(p.table, q.table))
    with pytest.raises(DdnbError, match="exists already"):
        p.save(tmp_path / "p")
    assert [f.name for f in tmp_path.iterdir()] == ["p"]


def test_dit_blocks_may_disagree():
    "Blocks with label tables of their own give a table [classes, blocks, D]; vectors and numbers mean the same."
    p = prior("dit")
    net = p.denoiser
    net.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight.data += 1
    q = Prior(p.autoencoder, net, p.scheduler)
    z, _, _ = draw(p)
    y = torch.arange(3)
    with torch.no_grad():
        assert q.table.shape[1] == 2 and torch.equal(
            denoise(q, z, torch.tensor(7), y), denoise(q, z, torch.tensor(7), q.embed(y))
        )


def test_diffusers_opens_what_we_save(tmp_path, digits):
    pytest.importorskip("transformers", reason="StableDiffusionPipeline needs transformers")
    from diffusers import StableDiffusionPipeline

    p = train_prior(digits, generator=rng(0), steps=(2, 2), path=tmp_path / "p", progress=False)
    pipe = StableDiffusionPipeline.from_pretrained(
        tmp_path / "p", text_encoder=None, tokenizer=None
    )
    pipe.set_progress_bar_config(disable=True)
    z, c, _ = draw(p)
    p.scheduler.set_timesteps(4)
    theirs = pipe(
        prompt_embeds=c,
        negative_prompt_embeds=p.null.expand_as(c),
        latents=z,
        num_inference_steps=4,
        guidance_scale=2.0,
        output_type="pt",
        height=8,
        width=8,
    ).images
    with torch.no_grad():
        mine = generate(Sampler(p, 4, None, guidance=2.0), z, c).clamp(0, 1)
    assert torch.allclose(mine, theirs.float(), atol=1e-5)


def test_text_prior(tmp_path):
    tr = pytest.importorskip(
        "transformers", reason="text-conditioned priors need transformers (extra: text)"
    )
    p = prior(channels=3, dtype=torch.float32)
    p.save(tmp_path / "p")
    (tmp_path / "p" / L.TABLE).unlink()
    with pytest.raises(DdnbError, match="neither a text encoder nor"):
        Prior.load(tmp_path / "p", offline=True)
    words = ["<|startoftext|>", "<|endoftext|>"] + [
        c + e for c in "abcdefghijklmnopqrstuvwxyz" for e in ("", "</w>")
    ]
    d = tmp_path / "tok"
    d.mkdir()
    (d / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (d / "merges.txt").write_text("#version: 0.2\n")
    tok = tr.CLIPTokenizer(str(d / "vocab.json"), str(d / "merges.txt"), model_max_length=12)
    tok.save_pretrained(tmp_path / "p" / "tokenizer")
    with torch.random.fork_rng():
        enc = tr.CLIPTextModel(
            tr.CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=12,
                bos_token_id=0,
                eos_token_id=1,
            )
        ).eval()
    enc.save_pretrained(tmp_path / "p" / "text_encoder")
    f = tmp_path / "p" / "model_index.json"
    i = json.loads(f.read_text())
    f.write_text(
        json.dumps(
            i
            | {
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
            }
        )
    )
    with pytest.raises(DdnbError, match="give classes="):
        Prior.load(tmp_path / "p", offline=True)
    q = Prior.load(tmp_path / "p", classes=["cat", "dog"], prompt="a {}", offline=True)
    with torch.no_grad():
        want = enc(
            tok(
                ["a cat", "a dog", ""], padding="max_length", max_length=12, return_tensors="pt"
            ).input_ids
        )[0]
    assert torch.allclose(q.table, want[:2], atol=1e-6) and torch.allclose(
        q.null, want[2], atol=1e-6
    )
    z, c, noise = draw(q, 2)
    c.requires_grad_()
    generate(Sampler(q, 2, guidance=3.0), z, c, noise).sum().backward()
    assert c.grad.shape == (2, 12, 16) and c.grad.abs().sum() > 0


def test_unreadable_pipelines_are_named(tmp_path):
    with pytest.raises(DdnbError, match="model_index.json"):
        Prior.load(tmp_path)
    prior(dtype=torch.float32).save(tmp_path / "p")
    f = tmp_path / "p" / "model_index.json"
    i = json.loads(f.read_text())
    f.write_text(json.dumps(i | {"unet": ["diffusers", "UNet3DConditionModel"]}))
    with pytest.raises(DdnbError, match="UNet3DConditionModel, but UNet2DConditionModel"):
        Prior.load(tmp_path / "p")
    f.write_text(json.dumps(i))
    w = tmp_path / "p" / "unet" / "diffusion_pytorch_model.safetensors"
    w.write_bytes(w.read_bytes()[:1000])
    with pytest.raises(DdnbError, match="cannot be read"):
        Prior.load(tmp_path / "p")


# ---- the original checkpoint's layout

YAML = """
model:
  params:
    linear_start: 0.0015
    linear_end: 0.0195
    timesteps: 1000
    image_size: 8
    unet_config:
      params: {image_size: 8, in_channels: 3, out_channels: 3, model_channels: 32, attention_resolutions: [2], num_res_blocks: 1, channel_mult: [1, 2], num_heads: 1, use_spatial_transformer: true, transformer_depth: 1, context_dim: 16}
    first_stage_config:
      params:
        embed_dim: 3
        n_embed: 32
        ddconfig: {double_z: false, z_channels: 3, resolution: 32, in_channels: 3, out_ch: 3, ch: 32, ch_mult: [1, 1, 2], num_res_blocks: 1, attn_resolutions: [], dropout: 0.0}
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


class _Boom:
    def __reduce__(self):
        return (print, ("executed",))


def test_compvis_never_runs_pickled_code(compvis, tmp_path, capsys):
    d, sd = compvis
    torch.save({"state_dict": sd, "x": _Boom()}, tmp_path / "m.ckpt")
    with pytest.raises(DdnbError, match="plain tensors"):
        Prior.from_compvis(tmp_path / "m.ckpt", d / "cin256-v2.yaml")
    assert "executed" not in capsys.readouterr().out


# ---- training


def test_training_is_repeatable_and_keeps_to_time(digits, tmp_path):
    a, b = (train_prior(digits, generator=rng(3), steps=(2, 2), progress=False) for _ in range(2))
    assert all(
        torch.equal(u, v)
        for m in ("autoencoder", "denoiser")
        for u, v in zip(getattr(a, m).state_dict().values(), getattr(b, m).state_dict().values())
    ) and torch.equal(a.table, b.table)
    seen = []
    train_prior(
        digits, generator=rng(3), steps=(10**6, 10**6), minutes=0.5 / 60, progress=seen.append
    )
    assert (
        {r["part"] for r in seen} == {"autoencoder", "denoiser"}
        and seen[-1]["done"] == 1
        and len(seen) < 10**4
    )


@pytest.mark.parametrize("size,latent", [(16, 4), (32, 8), (64, 8)])
def test_training_on_colour_images_of_any_size(size, latent):
    x = torch.randint(256, (30, 3, size, size), generator=rng(0)).to(torch.uint8)
    d = load((x, torch.arange(30) % 3))
    p = train_prior(d, generator=rng(0), steps=(1, 1), batch=(4, 4), progress=False)
    syn = Latents.of(p, d, 1, generator=rng(0), steps=1)
    assert (
        syn.z.shape == (3, 4, latent, latent)
        and syn()[0].shape == (3, 3, size, size)
        and p.classes == d.classes
    )


def test_tiny_prior_is_trained_once(digits, tmp_path, monkeypatch):
    calls, real = [], L.train_prior
    monkeypatch.setattr(L, "train_prior", lambda *a, **k: calls.append(1) or real(*a, **k))
    a, b = (tiny_prior(digits, steps=(2, 2), cache=tmp_path) for _ in range(2))
    assert len(calls) == 1 and torch.equal(a.table, b.table)
    tiny_prior(digits, steps=(2, 1), cache=tmp_path)
    tiny_prior(digits.keep(range(1000)), steps=(2, 2), cache=tmp_path)
    assert len(calls) == 3


# ---- budget and presets


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
    with pytest.raises(DdnbError, match="Did you mean 'imagenette'"):
        Published("imagenete")
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
    assert syn.c[:, 0, 0].tolist() == L.SUBSETS["imagewoof"]


def test_state_holds_no_weights(digits):
    "A checkpoint carries what was learned and the noise it is judged with, not the prior."
    syn = Latents.of(prior(dtype=torch.float32), digits, 1, generator=rng(0), steps=1)
    assert set(syn.state_dict()) == {"z", "c", "y", "noise", "_extra_state"} and set(
        syn.extra()
    ) == {"z", "c", "noise"}


def test_subsets_are_ten_classes_each():
    assert len(L.SUBSETS) == 11 and all(
        len(set(v)) == 10 and 0 <= min(v) and max(v) < 1000 for v in L.SUBSETS.values()
    )


@pytest.mark.parametrize(
    "call,match",
    [
        (lambda p, d: Sampler(p, 0), "whole number from 1"),
        (lambda p, d: Sampler(p, 3, "codes"), "Did you mean 'code'"),
        (lambda p, d: Prior.random("lmd", generator=rng(0)), "Did you mean 'ldm'"),
        (lambda p, d: p.embed(torch.tensor([10])), "10 classes"),
        (lambda p, d: p.encode(torch.zeros(1, 1, 9, 9)), "do not divide"),
        (
            lambda p, d: Latents(
                p, d.norm, torch.zeros(2, 4, 4, 4), torch.zeros(3).long(), generator=rng(0)
            ),
            "2 latents and 3 labels",
        ),
    ],
)
def test_mistakes_are_named(digits, call, match):
    with pytest.raises(DdnbError, match=match):
        call(prior(dtype=torch.float32), digits)


def test_an_interrupted_training_goes_on_to_the_same_weights(digits, tmp_path):
    "Stopped in the autoencoder, then in the denoiser; the third call ends where an undisturbed one does, and cleans up."

    def go(path, stop=None):
        def watch(r):
            if stop and (r["part"], r["step"]) == stop:
                raise RuntimeError("cable pulled")

        return train_prior(
            digits,
            generator=rng(3),
            steps=(7, 8),
            widths=(8, 8),
            unet=(8, 16),
            path=path,
            every=3,
            progress=watch,
        )

    calm = go(tmp_path / "calm")
    for stop in (("autoencoder", 5), ("denoiser", 7)):
        with pytest.raises(RuntimeError, match="cable"):
            go(tmp_path / "cut", stop)
        assert not (tmp_path / "cut").exists()
    wild = go(tmp_path / "cut")
    for a, b in ((calm.autoencoder, wild.autoencoder), (calm.denoiser, wild.denoiser)):
        assert all(
            torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values())
        )
    assert torch.equal(calm.table, wild.table) and calm.scale == wild.scale
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calm", "cut"]


def test_who_watches_may_stop_and_no_step_is_lost(digits, tmp_path):
    "An exception from progress= saves the step before it goes on, however rarely the training saves."
    seen = []

    def go(stop=None):
        def watch(r):
            seen.append((r["part"], r["step"]))
            if seen[-1] == stop:
                raise KeyboardInterrupt

        return train_prior(
            digits,
            generator=rng(3),
            steps=(4, 2),
            widths=(8, 8),
            unet=(8, 16),
            path=tmp_path / "p",
            every=10**6,
            progress=watch,
        )

    with pytest.raises(KeyboardInterrupt):
        go(("autoencoder", 3))
    go()
    assert seen == [("autoencoder", i) for i in (1, 2, 3, 4)] + [("denoiser", 1), ("denoiser", 2)]


def test_an_unfinished_training_with_other_settings_is_refused(digits, tmp_path):
    def go(lr):
        def stop(r):
            raise RuntimeError("cable pulled")

        return train_prior(
            digits,
            generator=rng(3),
            steps=(4, 4),
            widths=(8, 8),
            unet=(8, 16),
            path=tmp_path / "p",
            lr=lr,
            every=1,
            progress=stop,
        )

    with pytest.raises(RuntimeError):
        go(1e-3)
    with pytest.raises(DdnbError, match="other settings (.lr was 0.001 and is now 0.002.)"):
        go(2e-3)


def test_images_cut_everywhere_stop_the_run(digits):
    p = prior(dtype=torch.float32)
    syn = Latents.of(p, digits, 1, generator=rng(0), steps=1, clamp=True)
    p.autoencoder.decoder.conv_out.bias.data.fill_(50.0)  # a prior that decodes to white

    class Mean(torch.nn.Module):
        def forward(self, x, y):
            return x.mean()

    with pytest.raises(DdnbError, match="black or white"):
        next(distill(syn, Mean(), torch.optim.SGD(syn.parameters(), lr=0.0), 1))


def test_latents_and_priors_say_what_they_need(digits):
    p = prior(dtype=torch.float32)
    a, b = (Latents.of(p, digits, 1, generator=g, steps=1) for g in (3, rng(3)))
    assert torch.equal(a()[0], b()[0]) and torch.equal(a.noise, b.noise)
    for kw, says in (
        (dict(chunk=0), "chunk is 0"),
        (dict(learn=("x",)), "learn is"),
        (dict(learn=()), "learn is"),
        (dict(start="noise"), "Did you mean 'noised'"),
        (dict(steps=0), "steps is 0"),
        (dict(generator="a"), "generator is"),
        (dict(prior="facebook"), "Prior was expected"),
        (dict(data="digits"), "ddnb.data.load"),
    ):
        with pytest.raises(DdnbError, match=says):
            Latents.of(**{"prior": p, "data": digits, **kw})
    with pytest.raises(DdnbError, match="chunk is 0"):
        L.generate(a.sampler, a.z, a.c, a.noise, chunk=0)
    for f in (L.tiny_prior, L.train_prior):
        with pytest.raises(DdnbError, match="two whole numbers"):
            f(digits, steps=60)
        with pytest.raises(DdnbError, match="ddnb.data.load"):
            f("digits")
    with pytest.raises(DdnbError, match="seed is"):
        L.tiny_prior(digits, seed=rng(0))


def small_prior(data, **kw):
    return train_prior(
        data,
        **{
            **dict(generator=rng(3), steps=(7, 8), widths=(8, 8), unet=(8, 16), progress=False),
            **kw,
        },
    )


def weights(p):
    return [
        *p.autoencoder.state_dict().values(),
        *p.denoiser.state_dict().values(),
        p.table,
        torch.tensor(p.scale),
    ]


def test_a_forecast_of_a_prior_changes_nothing(digits, tmp_path):
    said, state = [], torch.random.get_rng_state()
    a, b = (
        small_prior(digits, announce=how, path=tmp_path / str(how)[:4].strip("<"))
        for how in (None, said.append)
    )
    assert all(torch.equal(x, y) for x, y in zip(weights(a), weights(b))) and state.equal(
        torch.random.get_rng_state()
    )
    assert (
        len(said) == 1
        and said[0].startswith("Training the prior takes about ")
        and f"in {tmp_path}" in said[0]
    )


def test_a_forecast_of_a_prior_knows_what_is_done(digits, tmp_path):
    def stop(r):
        if (r["part"], r["step"]) == ("denoiser", 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_prior(digits, path=tmp_path / "p", every=1, progress=stop)
    assert [L._done(tmp_path / "p", k) for k in ("autoencoder", "denoiser")] == [1.0, 0.5]
    assert L._done(tmp_path / "q", "denoiser") == 0


def test_a_signal_stops_the_training_of_a_prior(digits, tmp_path):
    "With a path the same call goes on; without one the sentence says how that would be had."
    import os, signal
    from ddnb.distill import Interrupted

    def stop(r):
        if (r["part"], r["step"]) == ("denoiser", 2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(
        Interrupted, match="denoiser stopped after step 2 of 8; the same call goes on"
    ) as e:
        small_prior(digits, path=tmp_path / "p", progress=stop)
    assert (
        e.value.code == 130
        and not (tmp_path / "p").exists()
        and L._done(tmp_path / "p", "denoiser") == 0.25
    )
    (tmp_path / ".p.abc.tmp").mkdir()  # a writer that was killed
    assert all(
        torch.equal(x, y)
        for x, y in zip(
            weights(small_prior(digits, path=tmp_path / "p")), weights(small_prior(digits))
        )
    )
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
    with pytest.raises(Interrupted, match="give path="):
        small_prior(digits, progress=stop)


def test_a_prior_is_refused_where_the_disk_is_full(digits, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(DdnbError, match="only 0 B are free"):
        small_prior(digits, path=tmp_path / "p")
    assert not list(tmp_path.iterdir())
    small_prior(digits, path=tmp_path / "p", force=True)


def test_a_run_is_not_gone_on_with_another_prior(tmp_path):
    data = load("digits")
    make = net_for(data, width=4)
    p, same, other = (
        prior(dtype=torch.float32),
        prior(dtype=torch.float32),
        prior("dit", dtype=torch.float32),
    )
    assert (
        p.fingerprint
        == same.fingerprint
        == Prior.random("ldm", channels=1, size=8, width=16, generator=rng(0)).fingerprint
    )
    assert (
        len(
            {
                q.fingerprint
                for q in (p, other, p.untrained(1), prior(dtype=torch.float32, pred="v_prediction"))
            }
        )
        == 4
    )

    def run(p, steps):
        syn = Latents(
            p,
            data.norm,
            torch.zeros(2, p.depth, 4, 4),
            torch.arange(2),
            p.embed(torch.arange(2)),
            generator=rng(0),
            steps=2,
        )
        return Run(
            tmp_path / "run",
            syn,
            DM(data, make, batch=4, generator=rng(1)),
            torch.optim.Adam(syn.parameters(), lr=0.1),
            steps,
        )

    list(run(p, 1))
    assert len(list(run(same, 2))) == 1
    with pytest.raises(DdnbError, match="prior"):
        list(run(p.untrained(1), 3))
