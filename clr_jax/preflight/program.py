"""The program of a config for a pod, compiled, in a process of its own:
`python -m clr_jax.preflight.program <request.json> <facts.json>`."""

import json
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import jax

from clr_jax import parallel, placement, train
from clr_jax.entry import Problem
from clr_jax.preflight import hlo, movement, topologies

UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def facts(request: dict) -> dict:
    """What the compiler says of the train step of `request['config']`, resolved, for so many `examples`
    of so many `classes`, on `slices` slices of the `topology`."""
    config = request['config']
    devices = topologies.devices(topologies.parse(request['topology'], request['slices']))
    mesh = parallel.make_mesh(devices, config['bn_groups'])
    pieces = config['accumulate']
    parallel.check_batch(config['batch_size'], mesh, config['bn_groups'], **pieces)
    run = train.describe(config, request['examples'], request['classes'])
    if run.extra:
        parallel.check_batch(run.extra, mesh, **pieces)
    shapes = train.state_shapes(run, mesh)
    state = laid(shapes, mesh, config['sharded'])
    found: dict[str, Any] = {
        'devices': mesh.size,
        'hosts': len({device.process_index for device in devices}),
        'state_bytes': held(state),
        'whole_bytes': held(state, whole=True),
        'parameters': sorted({leaf.shape for leaf in jax.tree.leaves(state.params)}),
    }
    step = train.step_of(config, run, mesh)
    given = state, batch(run, config['batch_size'], mesh)
    return found | compiled(step, given, mesh, config['compiler_options'])


def batch(run: train.Run, size: int, mesh) -> dict:
    """The shapes of a global batch, spread over the mesh by rows."""
    rows = jax.sharding.NamedSharding(mesh, jax.P(parallel.DATA))
    sized = lambda tree, n: jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype, sharding=rows), tree
    )
    blank = train.blank_batch(run, 1)
    other = {'unlabelled': sized(blank.pop('unlabelled'), run.extra)} if run.extra else {}
    return sized(blank, size) | other


def laid(ts: train.TrainState, mesh, sharded: bool) -> train.TrainState:
    """The shapes of a state where its leaves lie."""
    placed = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
    return jax.tree.map(placed, ts, placement.shardings(ts, mesh, sharded))


def held(tree, whole: bool = False) -> int:
    """Bytes of the arrays on one device; `whole`: of those that every device has whole."""
    leaves = [x for x in jax.tree.leaves(tree) if not whole or x.sharding.is_fully_replicated]
    size = lambda x: jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), x.dtype).size
    return sum(size(x) * x.dtype.itemsize for x in leaves)


def compiled(step, arguments, mesh, options: str = '') -> dict:
    """Whether a jitted function fits these devices and, if it does, what its program is like."""
    state, batch = arguments
    try:
        program: Any = train.compiled(step, state, batch, options)
    except jax.errors.JaxRuntimeError as error:
        if short := out_of_memory(str(error)):
            return short
        raise
    memory = program.memory_analysis()
    kinds = {
        'arguments': 'argument_size_in_bytes',
        'outputs': 'output_size_in_bytes',
        'donated': 'alias_size_in_bytes',
        'temporaries': 'temp_size_in_bytes',
        'program': 'generated_code_size_in_bytes',
    }
    split = {kind: getattr(memory, name) for kind, name in kinds.items()}
    found = {'fits': True, 'memory': split, 'xla': (program.cost_analysis() or {}).get('flops')}
    try:
        text = program.as_text()
    except jax.errors.JaxRuntimeError as error:  # of some programs for TPU7x
        return found | {'unread': first_line(error)}
    slices = [getattr(device, 'slice_index', 0) for device in mesh.devices.flat]
    return found | {'program': read(text, slices)}


def out_of_memory(message: str) -> dict | None:
    """{'fits': False, 'needed', 'usable'} in bytes, as the compiler's refusal says it; None of any
    other message."""
    number = r'([\d.]+)([KMGT]?)'
    for pattern in (
        rf'required for (?:HLO )?\w+ \({number}\) exceeds available HBM \({number}\)',
        rf'Used {number}B? of {number}B? hbm',
    ):
        if found := re.search(pattern, message):
            size = lambda value, unit: round(float(value) * UNITS[unit])
            needed, usable = size(*found.groups()[:2]), size(*found.groups()[2:])
            return {'fits': False, 'needed': needed, 'usable': usable}
    if 'RESOURCE_EXHAUSTED' in message and 'memory' in message.lower():
        return {'fits': False, 'needed': None, 'usable': None}
    return None


def read(text: str, slices: list[int]) -> dict:
    """The numbers of a scheduled program, by device and step."""
    program = hlo.parse(text)
    return {
        'flops': hlo.flops(program),
        'bytes': movement.traffic(program),
        'cycles': hlo.cycles(program),
        'unknown_loops': hlo.unknown_loops(program),
        'collectives': [each._asdict() for each in movement.collectives(program, slices)],
        'largest': [each._asdict() for each in movement.largest(program)[:20]],
    }


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


if __name__ == '__main__':
    request, answer = map(Path, sys.argv[1:])
    try:
        said = facts(json.loads(request.read_text()))
    except Problem as problem:
        said = {'problem': str(problem), 'code': problem.code}
    except jax.errors.JaxRuntimeError as error:
        traceback.print_exc()
        said = {'problem': f'the TPU compiler refuses the step: {first_line(error)}', 'code': 1}
    answer.write_text(json.dumps(said))
