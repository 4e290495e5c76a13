"Priors on disk: every family comes back, diffusers opens them, what cannot be read is named."

import json

import pytest
import torch
from latent_tools import SMALL, denoise, draw, prior

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.latent import TABLE, Prior, Sampler, generate, train_prior


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
    "Blocks with tables of their own give [classes, blocks, D]; vectors and numbers mean the same."
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
    (tmp_path / "p" / TABLE).unlink()
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


def test_only_an_explicit_id_asks_the_hub(monkeypatch):
    import huggingface_hub

    asked = []

    def hub(source, file, local_files_only):
        asked.append((source, local_files_only))
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    calls = ("typo", None), ("hub:some/model", None), ("typo", False), ("hub:some/model", True)
    for path, offline in calls:
        with pytest.raises(DdnbError, match="model_index.json"):
            Prior.load(path, offline=offline)
    assert asked == [("typo", True), ("some/model", False), ("typo", False), ("some/model", True)]
