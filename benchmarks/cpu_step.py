"""Images per second of the SimCLR step on this machine's CPU, in one interleaved run.

    python benchmarks/cpu_step.py [--torch=/path/to/a/python/with/torch/and/lightly]

The four-layer ConvNet of configs/simclr_cifar10_small.py, batch 128, two 32-pixel views, without
input pipeline: for 1, 2 and 4 virtual devices and both forms of convolution, once with the C
library's memory settings left alone, and beside PyTorch with lightly's loss (its own environment).
Every contender is a process that takes turns with the others; the median of its rounds is printed,
with the ratio to the first.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BATCH, STEPS, ROUNDS = 128, 10, 7


def main():
    """Start the contenders, let them take turns, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--torch', default='', help='a Python that has torch and lightly')
    parser.add_argument('--rounds', type=int, default=ROUNDS)
    parser.add_argument('--worker', nargs='+', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(*options.worker)
    contenders = {
        f'{n} devices, {form}': (sys.executable, n, form, 'kept')
        for n in (2, 1, 4)
        for form in ('patches', 'direct')
    }
    contenders['2 devices, patches, memory settings alone'] = (
        sys.executable,
        2,
        'patches',
        'alone',
    )
    if options.torch:
        contenders['torch + lightly'] = (options.torch, 0, 'torch', '-')
    workers = {name: Worker(*what) for name, what in contenders.items()}
    speeds = {name: [] for name in workers}
    for _ in range(options.rounds):
        for name, one in workers.items():
            speeds[name].append(one.turn())
    reference = statistics.median(next(iter(speeds.values())))
    print(
        f'images/s, median of {options.rounds} interleaved rounds of {STEPS} steps of {BATCH} on {os.cpu_count()} cores'
    )
    for name, values in speeds.items():
        median = statistics.median(values)
        print(
            f'{name:45} {median:7.1f}   {median / reference:5.2f}   ({min(values):.1f} to {max(values):.1f})'
        )
    for one in workers.values():
        one.process.terminate()


class Worker:
    """A contender in a process of its own; `turn` lets it run some steps and returns its images per
    second."""

    def __init__(self, python, devices, form, memory):
        environment = os.environ | {
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={max(1, devices)}',
            'PYTHONPATH': str(ROOT),
        }
        command = [python, __file__, '--worker', form, memory]
        pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
        self.process = subprocess.Popen(command, env=environment, **pipes)
        if not self.process.stdout.readline():
            raise SystemExit(f'{" ".join(command)} did not start')

    def turn(self) -> float:
        """Run STEPS steps."""
        self.process.stdin.write('go\n')
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def worker(form, memory):
    """Answer each line on stdin with a measurement."""
    step = torch_step() if form == 'torch' else jax_step(form, memory)
    for _ in range(3):
        step()
    print('ready', flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        for _ in range(STEPS):
            step()
        print(BATCH * STEPS / (time.perf_counter() - begun), flush=True)


def jax_step(form, memory):
    """The library's own step, as `fit` runs it."""
    from clr_jax import entry

    if memory == 'kept':
        entry.keep_memory()
    import jax
    import numpy as np

    from clr_jax import parallel, train

    sys.path.insert(0, str(ROOT / 'configs'))
    import simclr_cifar10_small

    config = simclr_cifar10_small.get_config().to_dict()
    config['encoder']['conv'] = form
    run = train.describe(config, examples=50000, classes=0)
    mesh, blank = parallel.make_mesh(), train.blank_batch(run, BATCH)
    random = np.random.default_rng(0)
    batch = blank | {
        'views': tuple(random.integers(0, 255, v.shape, np.uint8) for v in blank['views'])
    }
    state = train.make_state(run.method, run.optimizer, mesh, blank, seed=0)
    pace = {'steps_per_epoch': run.steps_per_epoch, 'total_steps': run.total_steps}
    compiled = train.make_step(run.method, run.optimizer, mesh, seed=0, health_every=50, **pace)

    def step():
        nonlocal state
        state, metrics = compiled(state, parallel.spread(batch, mesh))
        jax.block_until_ready(metrics['loss'])

    return step


def torch_step():
    """The same network, head, loss, optimizer and batch in PyTorch, with lightly's NT-Xent."""
    import torch
    from lightly.loss import NTXentLoss
    from torch import nn

    widths, layers = (3, 32, 64, 128, 256), []
    for i in range(4):
        layers += [nn.Conv2d(widths[i], widths[i + 1], 3, 1 if i == 0 else 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(widths[i + 1]), nn.ReLU()]
    head = [
        nn.Linear(256, 256, bias=False),
        nn.BatchNorm1d(256),
        nn.ReLU(),
        nn.Linear(256, 128, bias=False),
        nn.BatchNorm1d(128),
    ]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)
    loss, optimizer = (
        NTXentLoss(temperature=0.1),
        torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-4),
    )
    images = torch.randint(0, 255, (2 * BATCH, 3, 32, 32), dtype=torch.uint8)

    def step():
        z = network(images.float() / 255)
        optimizer.zero_grad()
        loss(z[:BATCH], z[BATCH:]).backward()
        optimizer.step()

    return step


if __name__ == '__main__':
    main()
