"""What losses over all pairs of the batch need on each of 8 devices: the temporaries of value and
gradient, in MB, by the global batch, with the matrix whole and as chunk=None takes it: whole while it
is small, in chunks of columns beyond.

    python benchmarks/large_batch.py [--run] [--batches 4096 8192]

From what XLA compiles for 8 virtual CPU devices; nothing is computed. --run also computes each form
once and prints its seconds, on all the CPU cores that there are.
"""

import argparse
import os
import time

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
BATCHES = (4096, 8192, 16384, 32768)
WIDTH = 128  # of an embedding


def losses(chunk):
    """Functions of x, y [b, d], the two views or the image and the text of each example."""
    import jax.numpy as jnp

    from clr_jax import parallel
    from clr_jax.losses.contrastive import clip, nt_xent, sigmoid, sup_con

    label = lambda x: parallel.positions(len(x)) % 1000
    return {
        'nt_xent': lambda x, y: nt_xent(jnp.stack([x, y], 1), chunk=chunk),
        'sup_con': lambda x, y: sup_con(jnp.stack([x, y], 1), label(x), chunk=chunk),
        'clip': lambda x, y: clip(x, y, jnp.log(1 / 0.07), chunk=chunk),
        'sigmoid': lambda x, y: sigmoid(x, y, jnp.log(10.0), -10.0, chunk=chunk),
    }


def measure(loss, batch: int, run: bool) -> str:
    """A cell: MB on a device, and with `run` the seconds of one step."""
    import jax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from clr_jax import parallel

    mesh, rows = parallel.make_mesh(), P(parallel.DATA)

    def step(x, y):
        return jax.value_and_grad(lambda *x: parallel.mean(loss(*x)), argnums=(0, 1))(x, y)

    sharded = parallel.shard(step, mesh, (rows, rows), (P(), (rows, rows)))
    place = NamedSharding(mesh, rows)
    shape = jax.ShapeDtypeStruct((batch, WIDTH), 'float32', sharding=place)
    compiled = jax.jit(sharded).lower(shape, shape).compile()
    cell = f'{compiled.memory_analysis().temp_size_in_bytes / 1e6:,.0f}'
    if not run:
        return cell
    keys = jax.random.split(jax.random.key(0))
    x, y = (jax.device_put(jax.random.normal(key, shape.shape), place) for key in keys)
    jax.block_until_ready(compiled(x, y))
    start = time.perf_counter()
    jax.block_until_ready(compiled(x, y))
    return f'{cell} ({time.perf_counter() - start:.1f} s)'


def main():
    """One row for each loss and form."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--run', action='store_true')
    parser.add_argument('--batches', type=int, nargs='+', default=BATCHES)
    args = parser.parse_args()
    print('| loss | ' + ' | '.join(f'B = {batch:,}' for batch in args.batches) + ' |')
    print('|---' * (1 + len(args.batches)) + '|')
    for name in losses(None):
        for form, chunk in (('whole', 2 * max(args.batches)), ('chunk=None', None)):
            cells = [measure(losses(chunk)[name], batch, args.run) for batch in args.batches]
            print(f'| `{name}`, {form} | ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
    main()
