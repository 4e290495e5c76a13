"""10,000 tiny distillation steps under RunMonitor: does memory or the number of open files grow?
`python tests/bench/soak.py [--steps N]` prints resident memory and open files along the run, and the slope over its second half."""
import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ddnb.data import load, rng
from ddnb.distill import Run
from ddnb.match import DM
from ddnb.nets import net_for
from ddnb.syn import Pixels, init
from ddnb.widgets import RunMonitor


def rss(): return int(Path('/proc/self/statm').read_text().split()[1])*os.sysconf('SC_PAGE_SIZE')/2**20
def files(): return len(os.listdir('/proc/self/fd'))


def main():
    a = argparse.ArgumentParser(description=__doc__); a.add_argument('--steps', type=int, default=10000); a = a.parse_args()
    data = load('digits')
    syn = Pixels(*init(data, 1, 'real', generator=rng(0)))
    objective = DM(data, net_for(data, 'ConvNet', width=4, depth=1), batch=4, generator=rng(1))
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        run = Run(folder, syn, objective, torch.optim.Adam(syn.parameters(), lr=.01), a.steps, every=500)
        def watched():
            for r in run:
                if r['step'] % max(1, a.steps//20) == 0: seen.append((r['step'], rss(), files()))
                yield r
        t = time.perf_counter()
        monitor = RunMonitor(a.steps, syn=syn, data=data)
        monitor.start(watched(), background=True); monitor.wait()
        seconds = time.perf_counter() - t
    step, mem, fds = map(np.array, zip(*seen))
    late = step > a.steps/2
    slope = np.polyfit(step[late], mem[late], 1)[0]*1000
    print(f'machine: {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}')
    print('| step | resident MiB | open files |\n|---|---|---|')
    for s, m, f in seen[::max(1, len(seen)//10)]: print(f'| {s} | {m:.1f} | {f} |')
    print(f'{a.steps} steps in {seconds:.0f} s; slope over the second half {slope:+.3f} MiB per 1,000 steps; open files {fds.min()} to {fds.max()}')


if __name__ == '__main__': main()
