"""What NT-Xent of a large global batch takes of each chip of a TPU pod, as the compiler for TPUs sees it:
the matrix whole, in chunks of columns, and by the Pallas kernels that are used there.

    python benchmarks/large_batch_tpu.py [--topology=v5e:16x16] [--batches 4096 32768 262144]

For value and gradient with two views of 128 dimensions each: the peak of the memory, in MiB, and the
milliseconds that the compiler's cycles come to at 1.5 GHz, without collectives. Kernels have no such
cycles: theirs is the number of instruction bundles of a block, as scheduled, times the blocks. Nothing
runs on a TPU, and a sum of cycles is no time of a step. Needs libtpu: pip install 'clr_jax[preflight]'.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

from clr_jax.preflight import answers

BATCHES = (4096, 32768, 262144)
WIDTH = 128  # of an embedding
CLOCK = 1.5e6  # cycles in a millisecond


def main():
    """One row for each form."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--topology', default='v5e:16x16')
    parser.add_argument('--batches', type=int, nargs='+', default=BATCHES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as dump:
        flags = f'--xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true'
        os.environ.update(answers.environment() | {'LIBTPU_INIT_ARGS': flags})
        print('| NT-Xent | ' + ' | '.join(f'B = {batch:,}' for batch in options.batches) + ' |')
        print('|---' * (1 + len(options.batches)) + '|')
        for form in ('whole', 'in chunks', 'kernels'):
            cells = [cell(form, batch, options.topology, Path(dump)) for batch in options.batches]
            print(f'| {form} | ' + ' | '.join(cells) + ' |', flush=True)


def cell(form: str, batch: int, topology: str, dump: Path) -> str:
    """'MiB, ms' of one form."""
    import jax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from clr_jax import parallel
    from clr_jax.losses import chunked, pallas
    from clr_jax.losses.contrastive import nt_xent
    from clr_jax.preflight import hlo, topologies

    mesh = parallel.make_mesh(topologies.devices(topologies.parse(topology)))
    rows, every = P(parallel.DATA), pallas.fits
    if 2 * batch % mesh.size:
        sys.exit(f'{batch} examples are not shared evenly by {mesh.size} devices')
    most = chunked.WHOLE * mesh.size // (2 * batch)  # columns, as chunk=None takes them
    chunk = 2 * batch if form == 'whole' else min(most, batch)

    def step(z):
        return jax.value_and_grad(lambda z: parallel.mean(nt_xent(z, chunk=chunk)))(z)

    sharded = parallel.shard(step, mesh, (rows,), (P(), rows))
    place = NamedSharding(mesh, rows)
    given = jax.ShapeDtypeStruct((batch, 2, WIDTH), 'bfloat16', sharding=place)
    try:
        if form != 'kernels':
            pallas.fits = lambda *_: False
        compiled = jax.jit(sharded).lower(given).compile()
    finally:
        pallas.fits = every
    peak = compiled.memory_analysis().peak_memory_in_bytes / 2**20
    time = hlo.cycles(hlo.parse(compiled.as_text())) / CLOCK
    if form == 'kernels':
        time += kernels(2 * batch // mesh.size, 2 * batch, mesh.devices.flat[0], dump)
    return f'{peak:,.0f} MiB, {time:,.2f} ms'


def kernels(rows: int, keys: int, device, dump: Path) -> float:
    """Milliseconds of both kernels, of blocks that need no mask, as nearly all."""
    import jax
    from jax.sharding import SingleDeviceSharding

    from clr_jax.losses import pallas

    place = SingleDeviceSharding(device)
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, 'float32', sharding=place)

    def slopes(z, keys, *known):
        ours, theirs = pallas.Terms(None, *known[:2]), pallas.Terms(None, *known[2:])
        return pallas.slopes(z, keys, ours, theirs)

    z, every, known = shape(rows, WIDTH), shape(keys, WIDTH), shape(rows)
    high, wide = pallas.blocks(z, every)
    bundles = 0
    for function, given in (
        (lambda *x: pallas.sums(*x)[0], (z, every)),
        (slopes, (z, every, known, known, shape(keys), shape(keys))),
    ):
        for old in dump.iterdir():
            old.unlink()
        jax.jit(function).lower(*given).compile()
        (said,) = dump.glob('*losses_*schedule-analysis_final_bundles.txt')
        bundles += int(re.search(r'total scheduled bundles:\s*(\d+)', said.read_text())[1])
    return bundles * (rows // high) * (keys // wide) / CLOCK


if __name__ == '__main__':
    main()
