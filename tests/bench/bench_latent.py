"""Distilling through a prior: denoiser passes, processor seconds and peak memory of a step.

    python tests/bench/bench_latent.py    # the table, sweeps over T and images per class
    python tests/bench/bench_latent.py --device cuda --size 128 --width 128 --guidance 3

Every row is a process of its own. Memory is the process's peak (ru_maxrss; on CUDA the allocator's
peak) above what it held before the step. It is compared with the reference's two-phase scheme:
images without a graph, the loss and its gradient at the images, then images again in splits of ten
with a checkpoint around every denoiser call.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

MODES = {  # settings of the sampler; `before`: its defaults until a budget chose
    "before": {"checkpoint": True, "chunk": 16},
    "now": {},
    "plain": {"checkpoint": False},
    "reference": None,
}


def reference(s, z, c, noise, loss, split=10):
    "Two phases, four denoiser passes a sampling step: forward, forward, recompute, backward."
    from torch.utils.checkpoint import checkpoint

    from ddnb.latent.denoise import clean, predict

    def images(z, c, noise, graph):
        zt = s.start(z, noise)
        q = s.quantised(z)
        for i in range(s.steps):
            call = lambda zz, cc, t=s.ts[i]: predict(s.prior, zz, t, cc, s.guidance)
            out = checkpoint(call, zt, c, use_reentrant=False) if graph else call(zt, c)
            a, b = s.alphas[i]
            w = s.weight(i)
            x0, e = clean(s.prior.scheduler, out, zt, a)
            zt = b**0.5 * ((1 - w) * x0 + w * q) + (1 - b) ** 0.5 * e
        return s.image(zt)

    with torch.no_grad():
        parts = zip(z.split(split), c.split(split), noise.split(split))
        x = torch.cat([images(*part, False) for part in parts])
    x.requires_grad_()
    (gx,) = torch.autograd.grad(loss(x), x)
    for zz, cc, nn, g in zip(z.split(split), c.split(split), noise.split(split), gx.split(split)):
        images(zz, cc, nn, True).backward(g)


def memory(cuda):
    "Bytes held now on CUDA, the process's peak so far elsewhere."
    if cuda:
        return torch.cuda.memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one(mode, T, ipc, a):
    "One row: a warm-up with one image, then the step that is measured."
    from ddnb.base.rng import rng
    from ddnb.latent import Prior, Sampler, generate

    torch.set_num_threads(a.threads)
    dev = torch.device(a.device)
    p = Prior.random("ldm", size=a.size, width=a.width, generator=rng(0)).to(dev)
    y = torch.arange(10).repeat_interleave(ipc)
    side = a.size // p.factor
    z = torch.randn(len(y), p.depth, side, side, generator=rng(1)).to(dev)
    c, noise = p.embed(y), torch.randn(z.shape, generator=rng(2)).to(dev)
    s = Sampler(p, T, "code", guidance=a.guidance)
    loss = lambda x: x.square().mean()

    def step(n):
        zz, cc = z[:n].clone().requires_grad_(), c[:n].clone().requires_grad_()
        if mode == "reference":
            reference(s, zz, cc, noise[:n], loss)
        else:
            loss(generate(s, zz, cc, noise[:n], **MODES[mode])).backward()
        return zz.grad

    step(1)
    calls = [0]
    h = p.denoiser.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    cuda = dev.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    base = memory(cuda)
    clock = time.perf_counter if cuda else time.process_time  # what others compute does not count
    t = clock()
    g = step(len(z))
    if cuda:
        torch.cuda.synchronize()
    sec = clock() - t
    h.remove()
    peak = torch.cuda.max_memory_allocated() if cuda else memory(cuda)
    at_once = 10 if mode == "reference" else Sampler(p, T, **MODES[mode]).rows(z, c)
    chunks = -(-len(z) // at_once)
    return {
        "mode": mode,
        "T": T,
        "ipc": ipc,
        "passes": calls[0] / T / chunks + 1,
        "seconds": sec,
        "mb": (peak - base) / 1e6,
        "gradient": g.norm().item(),
    }


HEAD = "mode", "T", "images", "denoiser passes per step", "CPU seconds", "peak MB", "gradient norm"


def measured(row, a):
    "The quickest of some processes that measure one row."
    keys = "device", "threads", "size", "width", "guidance"
    options = [o for k in keys for o in (f"--{k}", str(getattr(a, k)))]
    command = [sys.executable, __file__, *options, "--one", *map(str, row)]
    runs = [
        subprocess.run(command, check=True, capture_output=True, text=True)
        for _ in range(a.repeats)
    ]
    return min((json.loads(r.stdout) for r in runs), key=lambda o: o["seconds"])


def main():
    q = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    q.add_argument("--one", nargs=3)
    q.add_argument("--device", default="cpu")
    q.add_argument("--threads", type=int, default=1)
    q.add_argument("--size", type=int, default=32)
    q.add_argument("--width", type=int, default=32)
    q.add_argument("--guidance", type=float, default=1.0)
    q.add_argument("--steps", type=int, nargs="*", default=[5, 10, 20, 50])
    q.add_argument("--ipc", type=int, nargs="*", default=[1, 10])
    q.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES))
    q.add_argument("--repeats", type=int, default=1)
    a = q.parse_args()
    if a.one:
        return print(json.dumps(one(a.one[0], int(a.one[1]), int(a.one[2]), a)))
    rows = [(m, T, i) for i in a.ipc for T in a.steps for m in a.modes]
    print(f"| {' | '.join(HEAD)} |")
    print("|---" + "|--:" * (len(HEAD) - 1) + "|")
    for mode, T, ipc in rows:
        m = measured((mode, T, ipc), a)
        figures = f"{m['passes']:.0f} | {m['seconds']:.2f} | {m['mb']:.0f} | {m['gradient']:.6g}"
        print(f"| {mode} | {T} | {10 * ipc} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
