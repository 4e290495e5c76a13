"""Training experts: seconds an epoch against the plain eager DataLoader loop: python tests/bench/bench_experts.py [--quick] [--device cuda] [--threads N]

Ways: micro-batches that fit the cache, compiled micro-batches, several experts in threads, several stacked by vmap.
'limit' is the share of the machine's own convolution rate that the three convolution passes of a step reach."""
import argparse, os, platform, time
from concurrent.futures import ThreadPoolExecutor
import torch, torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
from ddnb.data import load, rng
from ddnb.experts import _Gradient
from ddnb.nets import Flat, net_for
from ddnb.train import micro_size
from bench_engine import rate

def sync(device):
    if device == 'cuda': torch.cuda.synchronize()

def clock(f, device, n):
    f(); sync(device); out = []
    for _ in range(n): t = time.perf_counter(); f(); sync(device); out.append(time.perf_counter()-t)
    return min(out)

def plain(data, make, batch, steps, device):
    "What everybody writes: a DataLoader, zero_grad, backward, step."
    net = make(generator=rng(0)).to(device); x, y = data.xy(); opt = torch.optim.SGD(net.parameters(), lr=.01)
    loader = DataLoader(TensorDataset(x.cpu(), y.cpu()), batch, shuffle=True, drop_last=True, generator=rng(0))
    def f():
        for j, (xb, yb) in zip(range(steps), loader):
            opt.zero_grad(); F.cross_entropy(net(xb.to(device)), yb.to(device)).backward(); opt.step()
    return f

def ours(data, make, batch, steps, device, micro, compile=False, experts=1):
    net = make(generator=rng(0)).to(device); x, y = data.xy(); flat = Flat(net, batch_stats=True)
    gradient = _Gradient(flat, micro_size(net, x, batch, micro), compile)
    def one(_):
        theta = flat.theta(net)
        for j in range(steps):
            i = torch.randint(len(y), (batch,), device=device); theta = theta - .01*gradient(theta, x[i], y[i])
    def f():
        if experts == 1: return one(0)
        with ThreadPoolExecutor(experts) as pool: list(pool.map(one, range(experts)))
    return f

def stacked(data, make, batch, steps, device, experts):
    net = make(generator=rng(0)).to(device); x, y = data.xy(); flat = Flat(net); theta0 = torch.stack([flat.theta(make(generator=rng(k)).to(device)) for k in range(experts)])
    grad = torch.func.vmap(torch.func.grad(lambda t, x, y: F.cross_entropy(flat(t, x), y)))
    def f():
        theta = theta0
        for j in range(steps):
            i = torch.randint(len(y), (experts, batch), device=device); theta = theta - .01*grad(theta, x[i], y[i])
    return f

def main():
    p = argparse.ArgumentParser(); p.add_argument('--quick', action='store_true'); p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--threads', type=int, default=0); p.add_argument('--no-compile', action='store_true'); a = p.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    name = torch.cuda.get_device_name() if a.device == 'cuda' else f'{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()}, load {os.getloadavg()[0]:.1f}'
    print(f'torch {torch.__version__} on {name}; ratio = plain loop seconds / ours, for the same number of experts')
    print('| width, size, batch | plain ms a step | whole batch | micro | compiled micro | 2 threads | 2 by vmap | best, of limit |'); print('|---'*8 + '|')
    for width, size, batch, steps in [(8, 8, 64, 2)] if a.quick else [(128, 32, 256, 3), (32, 16, 256, 8), (32, 8, 128, 20)]:
        data = load('shapes', size=size, counts=(max(600, 2*batch), 50, 50)).to(a.device); make = net_for(data, width=width); n = 1 if a.quick else 3
        t = {'plain': clock(plain(data, make, batch, steps, a.device), a.device, n), 'whole': clock(ours(data, make, batch, steps, a.device, None), a.device, n), 'micro': clock(ours(data, make, batch, steps, a.device, 'auto'), a.device, n)}
        t['compiled'] = float('nan') if a.no_compile or a.quick else clock(ours(data, make, batch, steps, a.device, 'auto', True), a.device, n)
        t['threads'] = clock(ours(data, make, batch, steps, a.device, 'auto', experts=2), a.device, n)/2
        t['vmap'] = clock(stacked(data, make, batch, steps, a.device, 2), a.device, n)/2
        depth = make(generator=rng(0)).spec['depth']; flop, c, s = 0, 3, size
        for d in range(depth): flop += (3 if d else 2)*2*batch*c*width*9*s*s; c, s = width, s//2
        limit = flop/rate(width, size, batch, data.train.x); least = min(v for v in t.values() if v == v)/steps
        print(f"| {width}, {size}, {batch} | {t['plain']/steps*1e3:.3g} | " + ' | '.join(f"{t['plain']/t[k]:.2f}" for k in ('whole', 'micro', 'compiled', 'threads', 'vmap')) + f' | {limit/least:.0%} |', flush=True)

if __name__ == '__main__': main()
