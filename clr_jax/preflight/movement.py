"""What a scheduled program sends between devices, moves through HBM, and holds there."""

from typing import NamedTuple

import numpy as np

from clr_jax.preflight.hlo import (
    Array,
    Computation,
    Executed,
    Instruction,
    Program,
    executed,
    fused,
)

COLLECTIVES = {
    *('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all'),
    'collective-permute',
}
# moves nothing itself, or is counted where it starts or inside
STILL = {
    *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'iota'),
    *('while', 'conditional', 'call', 'partition-id', 'replica-id', 'send', 'recv'),
    *('call-start', 'async-start'),
}


class Collective(NamedTuple):
    kind: str
    dtype: str
    bytes: int  # of the whole array on one device
    is_async: bool  # computation runs while it does
    cross_slice: bool
    times: int  # a step
    always: bool  # False in a branch, which only some steps run
    shapes: tuple[tuple[int, ...], ...]  # of its arrays, without dimensions of 1
    source: str  # where in the Python program


def collectives(program: Program, slices: list[int]) -> list[Collective]:
    """Each communication between devices; `slices` has the slice of each device of the mesh, in its
    order."""
    found = []
    for run in executed(program):
        it, kind = run.it, run.it.op.removesuffix('-start')
        if kind in COLLECTIVES:
            is_async = _overlaps(run.start or run)
            found.append(_collective(run, it, run.inside, kind, is_async, slices))
        elif it.op == 'send' and 'megascale' in it.rest:  # between slices, through their hosts
            kind = it.attribute(r'_xla_megascale_transfer_type="(\w+)"').lower().replace('_', '-')
            found.append(_collective(run, it, run.inside, kind, _overlaps(run), slices))
        for part in (inner := fused(program, it)).values():
            # begun in one fusion, then carried on and ended in others, beside what these compute
            begins = any('"AsyncCollectiveStart"' in other.rest for other in inner.values())
            if part.op in COLLECTIVES and (begins or 'chain_id=' not in part.rest):
                found.append(_collective(run, part, inner, part.op, begins, slices))
    return found


def _collective(run: Executed, it, inside, kind, is_async, slices) -> Collective:
    arrays = [array for array in it.arrays if array.shape or array.dtype != 'u32']
    arrays = [array for array in arrays if array.dtype != 'token'] or list(it.arrays)
    if it.op in ('all-gather-start', 'collective-permute-start'):  # (from, to, ...)
        arrays = arrays[len(arrays) // 2 :]
    given = [array for name in it.operands if name in inside for array in inside[name].arrays]
    size = sum(array.bytes for array in (given if it.op == 'reduce-scatter' else arrays))
    cross = it.op == 'send' or any(
        len({slices[device] for device in group}) > 1 for group in _groups(it, len(slices))
    )
    dtype = max(arrays, key=lambda array: array.bytes).dtype
    shapes = tuple(tuple(n for n in array.shape if n > 1) for array in arrays)
    said = (kind, dtype, int(size), is_async, cross, run.times, run.always, shapes, it.source)
    return Collective(*said)


def _groups(it: Instruction, devices: int) -> list[list[int]]:
    """Which devices communicate with each other."""
    numbers = lambda text: [int(x) for x in text.split(',') if x]
    listed = it.attribute(r'(?:replica_groups|source_target_pairs)=\{\{([\d,{}]*?)\}\}')
    if listed:
        return [numbers(group) for group in listed.split('},{')]
    if shape := it.attribute(r'replica_groups=\[([\d,]*)\]<='):
        given = it.attribute(r'replica_groups=\[[\d,]*\]<=\[([\d,]*)\]')
        order = it.attribute(r'replica_groups=\[[\d,]*\]<=\[[\d,]*\]T\(([\d,]*)\)')
        grid = np.arange(np.prod(numbers(given))).reshape(numbers(given))
        grid = grid.transpose(numbers(order)) if order else grid
        return grid.reshape(numbers(shape)).tolist()
    return [list(range(devices))]


def _overlaps(run: Executed) -> bool:
    """Whether anything is computed between the start of an operation and its end, if these are two."""
    if not run.it.op.endswith('-start') and run.it.op != 'send':
        return False
    between = False
    for it in run.inside.values():
        if between and it.op in ('fusion', 'convolution', 'dot', 'while'):
            return True
        between |= it.name == run.it.name
        if between and run.it.name in it.operands and it.op.endswith('-done'):
            return False
    return False


def traffic(program: Program) -> float:
    """Bytes that a step reads from HBM and writes to it, on one device, as far as the schedule says so:
    at least these."""
    return sum(_moved(program, run) * run.times for run in executed(program) if run.always)


def _moved(program: Program, run: Executed) -> float:
    it, inside = run.it, run.inside
    inner = fused(program, it)
    given = [inside[name] for name in it.operands if name in inside]
    far = lambda array: 0 if array.near else array.bytes
    if it.op in STILL or it.op.endswith('-done'):
        return 0
    if any(part.op in COLLECTIVES for part in inner.values()):  # its buffers are passed along
        return 0
    if it.op == 'custom-call' and 'tpu_custom_call' not in it.rest:  # all but Pallas kernels
        return 0
    if it.op.endswith('-start'):  # a copy of some of one array to another, in either order
        ends = it.arrays[:2]
        return min(end.bytes for end in ends) * sum(not end.near for end in ends)
    if it.op in ('dynamic-slice', 'slice', 'gather'):
        return sum(2 * far(array) for array in it.arrays)
    if it.op == 'dynamic-update-slice':
        return 2 * sum(far(array) for array in given[1].arrays)
    if not inner:
        return sum(far(array) for value in (*given, it) for array in value.arrays)
    reads = 0.0
    for number, value in enumerate(given):
        if len(value.arrays) == 1 and not value.arrays[0].near:
            reads += _read(program, inner, number, value.arrays[0].bytes)
    return reads + _written(inner, it.arrays)


def _read(program: Program, inner: Computation, number: int, whole: float) -> float:
    """Bytes that a fusion reads of its operand `number`: of what it only cuts from, the cut."""
    named = f'value=({number})'
    start = [it.name for it in inner.values() if it.op == 'parameter' and it.rest.startswith(named)]
    names, read = set(start), 0.0
    for it in inner.values():  # in order: users come after what they use
        places = [i for i, name in enumerate(it.operands) if name in names]
        if not places:
            continue
        if it.op == 'bitcast':
            names.add(it.name)
        elif it.op in ('dynamic-slice', 'slice', 'gather') and places == [0]:
            read += it.arrays[0].bytes
        elif it.op == 'fusion':
            read += sum(_read(program, fused(program, it), place, whole) for place in places)
        elif it.op != 'dynamic-update-slice' or places != [0]:
            return whole
    return min(read, whole)


def _written(inner: Computation, results: tuple[Array, ...]) -> float:
    """Bytes that a fusion writes: of what it only changes in part, the part."""
    root = next(it for it in inner.values() if it.root)
    values = [inner[name] for name in root.operands] if root.op == 'tuple' else [root]
    written = 0.0
    for array, value in zip(results, values, strict=False):
        while value.op == 'bitcast' and value.operands[0] in inner:
            value = inner[value.operands[0]]
        part = inner.get(value.operands[1]) if value.op == 'dynamic-update-slice' else None
        written += (
            0 if array.near else min(array.bytes, part.arrays[0].bytes if part else array.bytes)
        )
    return written


class Held(NamedTuple):
    """Arrays of one kind that a program has in HBM at some time."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int  # of one, without padding
    number: int  # of values, not all at once
    computed: bool  # by computation: neither given nor gathered
    source: str  # of the first


def largest(program: Program, least: int = 2**20) -> list[Held]:
    """The arrays in HBM of at least so many bytes, largest first."""
    found: dict[tuple, Held] = {}
    for run in executed(program):
        it = run.it
        given = it.op == 'parameter' and run.inside is program.computations[program.entry]
        if not given and (it.op in STILL or it.op.endswith('-start')):
            continue
        moves = it.op.endswith('-done') or it.op in COLLECTIVES or it.op == 'copy'
        computed = not (given or moves or 'all_gather' in it.source)
        for array in it.arrays:
            if not array.near and array.bytes >= least:
                new = Held(array.dtype, array.shape, int(array.bytes), 0, computed, it.source)
                old = found.get((array.dtype, array.shape), new)
                source = old.source or it.source
                old = old._replace(number=old.number + 1, source=source)
                found[array.dtype, array.shape] = old._replace(computed=old.computed or computed)
    return sorted(found.values(), key=lambda held: -held.bytes)
