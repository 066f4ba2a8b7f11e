"""What every device holds between steps, by config, in MB: from shapes alone, nothing is trained.

    python benchmarks/state_memory.py [configs/mocov2_imagenet.py ...]

Tables are queues and memories; `state` is the rest of the method's state (batch statistics, slow copies
of the network). `sharded` is what each of 8 devices holds of all with `config.sharded`. Data sets count
with ImageNet's 1,281,167 examples, 50,000 where the config's name says CIFAR-10.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')
ROOT = Path(__file__).parent.parent


def main():
    """One row for each config."""
    import jax

    from clr_jax import config, parallel, placement, train
    from clr_jax.preflight.program import held, laid

    chosen = sys.argv[1:] or sorted(map(str, (ROOT / 'configs').glob('*_imagenet.py')))
    print('| config | params | optimizer | state | tables | sharded |\n|---|---|---|---|---|---|')
    mesh = parallel.make_mesh()
    for path in chosen:
        c = config.load(path).to_dict()
        if c['teacher']['workdir']:
            continue  # its state has the teacher, which is another config's
        examples = 50_000 if 'cifar10' in path else 1_281_167
        run = train.describe(c | {'probe': {'learning_rate': 0}}, examples, 1000)
        ts = train.state_shapes(run, mesh)
        fields = ts.state._asdict()
        tables = size([fields[name] for name in placement.TABLES if name in fields], jax)
        sizes = [size(ts.params, jax), size(ts.opt, jax), size(ts.state, jax) - tables, tables]
        sizes.append(held(laid(ts, mesh, sharded=True)) / 1e6)
        print(f'| {Path(path).stem} | ' + ' | '.join(f'{s:.1f}' for s in sizes) + ' |')


def size(tree, jax) -> float:
    """MB of the leaves."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 1e6


if __name__ == '__main__':
    main()
