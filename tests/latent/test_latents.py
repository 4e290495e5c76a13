"The parameterisation: its contract, what is learned, its noise, resuming, and another prior."

import pytest
import torch
from latent_tools import SMALL, draw, prior

from ddnb.base.check import DdnbError
from ddnb.base.rng import rng
from ddnb.base.run import Run
from ddnb.data import load
from ddnb.distil.loop import Distilling, distill
from ddnb.distil.match import DM
from ddnb.latent import Latents, Prior, Sampler, generate, train_prior
from ddnb.nets import net_for


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


def test_state_holds_no_weights(digits):
    "A checkpoint carries what was learned and the noise it is judged with, not the prior."
    syn = Latents.of(prior(dtype=torch.float32), digits, 1, generator=rng(0), steps=1)
    assert set(syn.state_dict()) == {"z", "c", "y", "noise", "_extra_state"} and set(
        syn.extra()
    ) == {"z", "c", "noise"}


@pytest.mark.parametrize(
    "call,match",
    [
        (lambda p, d: Sampler(p, 0), "steps is 0"),
        (lambda p, d: p.embed(torch.tensor([10])), "10 classes"),
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
        generate(a.sampler, a.z, a.c, a.noise, chunk=0)


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
        adam = torch.optim.Adam(syn.parameters(), lr=0.1)
        objective = DM(data, make, batch=4, generator=rng(1))
        return Run(tmp_path / "run", Distilling(syn, objective, adam, steps))

    list(run(p, 1))
    assert len(list(run(same, 2))) == 1
    with pytest.raises(DdnbError, match="prior"):
        list(run(p.untrained(1), 3))


def test_a_sampler_goes_in_place_of_a_prior_and_its_settings(digits):
    p = prior(dtype=torch.float32)
    sampler = Sampler(p, 2, "paper", chunk=3)
    a = Latents.of(sampler, digits, generator=rng(0))
    b = Latents.of(p, digits, generator=rng(0), steps=2, skip="paper", chunk=3)
    assert torch.equal(a()[0], b()[0])
    assert a.sampling == [2, "paper", 1.0, 1.0]
    assert a.halve() == 1 and sampler.chunk == 3  # its own


def test_latents_have_a_report_before_the_first_images(digits):
    for clamp, expected in ((True, {"saturated": 0.0}), (False, {})):
        syn = Latents.of(prior(dtype=torch.float32), digits, generator=rng(0), clamp=clamp)
        assert syn.report() == expected
        syn()
        assert set(syn.report()) == set(expected)
