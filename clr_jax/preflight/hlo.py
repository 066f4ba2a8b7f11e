"""What a program that XLA has scheduled for TPUs says of itself: text -> numbers.

XLA counts the body of a loop once, bills the fast memory of the chip (VMEM, the space S(1)) as HBM
and, in `optimal_seconds`, subtracts a second for each of some operations. So all is counted here,
with the trips of loops. The branches of a conditional, of which a step runs one, are not counted
(the health measures, which only some steps compute, are such a branch): sums are lower bounds.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {'pred': 1, 'bf16': 2, 'token': 0, 's4': 0.5, 'u4': 0.5}  # others: their digits / 8
ARRAY = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^{}]*\})?')


class Array(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    near: bool  # in VMEM or smaller memories, not in HBM

    @property
    def bytes(self) -> float:
        digits = re.match(r'[a-z]+(\d+)', self.dtype)
        each = BYTES.get(self.dtype) or (int(digits[1]) / 8 if digits else 0)
        return math.prod(self.shape) * each


class Instruction(NamedTuple):
    name: str
    arrays: tuple[Array, ...]  # of its value; a tuple has several
    op: str
    operands: tuple[str, ...]
    rest: str  # its attributes
    root: bool

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in the attributes, or ''."""
        found = re.search(pattern, self.rest)
        return found[1] if found else ''

    @property
    def source(self) -> str:
        """What of the Python program it comes from."""
        return self.attribute(r'op_name="([^"]*)"')


Computation = dict[str, Instruction]


class Program(NamedTuple):
    computations: dict[str, Computation]
    entry: str


class Executed(NamedTuple):
    """An instruction that a step runs."""

    it: Instruction
    inside: Computation
    times: int
    always: bool  # False in a branch
    start: 'Executed | None' = None  # of what runs beside the rest: what has started it


def parse(text: str) -> Program:
    """The computations of `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, current = '', None
    for line in text.splitlines():
        if head := re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\{\s*$', line):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif line.startswith('}'):
            current = None
        elif current is not None and (instruction := _instruction(line)):
            current[instruction.name] = instruction
    return Program(computations, entry)


def _instruction(line: str) -> Instruction | None:
    line = re.sub(r'/\*.*?\*/', '', line)
    found = re.match(r'\s+(ROOT )?%?([\w.\-]+) = ', line)
    if not found:
        return None
    value, line = _enclosed(line[found.end() :])
    call = re.match(r'\s*([\w\-]+)', line)
    if not call:
        return None
    given, rest = _enclosed(line[call.end() :])
    operands = tuple(re.findall(r'%([\w.\-]+)', given))
    rest = f'value={given}{rest}' if call[1] in ('constant', 'parameter') else rest
    return Instruction(found[2], _arrays(value), call[1], operands, rest, bool(found[1]))


def _enclosed(text: str) -> tuple[str, str]:
    """A type or the operands at the start of `text`, to the end of their parenthesis, or else to the
    first blank, and what follows."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == '(') - (letter == ')')
        if not depth and (letter == ' ' or (letter == ')' and text[0] == '(')):
            return text[: i + 1], text[i + 1 :]
    return text, ''


def _arrays(value: str) -> tuple[Array, ...]:
    near = lambda layout: bool(re.search(r'S\([1-9]', layout))
    shape = lambda numbers: tuple(int(x) for x in numbers.split(',') if x)
    return tuple(Array(d, shape(s), near(layout)) for d, s, layout in ARRAY.findall(value))


def executed(program: Program) -> list[Executed]:
    """All that a step runs, in order, loops with their trips; fusions are one instruction."""
    return list(_executed(program, program.entry, 1, True))


def _executed(
    program: Program, name: str, times: int, always: bool, start: Executed | None = None
) -> Iterator[Executed]:
    inside = program.computations[name]
    for it in inside.values():
        yield Executed(it, inside, times, always, start)
        if it.op == 'while':
            body = it.attribute(r'body=%?([\w.\-]+)')
            yield from _executed(program, body, times * (trips(program, it) or 1), always)
        elif it.op == 'call':
            yield from _executed(program, it.attribute(r'to_apply=%?([\w.\-]+)'), times, always)
        elif it.op in ('call-start', 'async-start'):  # as TPU7x's, on its other cores
            called = it.attribute(r'(?:to_apply|calls)=%?([\w.\-]+)')
            own = Executed(it, inside, times, always)
            yield from _executed(program, called, times, always, own)
        elif it.op == 'conditional':
            for branch in _branches(it):
                yield from _executed(program, branch, times, False)


def _branches(it: Instruction) -> list[str]:
    listed = it.attribute(r'branch_computations=\{([^}]*)\}')
    return re.findall(r'%([\w.\-]+)', listed) or re.findall(
        r'(?:true|false)_computation=%?([\w.\-]+)', it.rest
    )


def trips(program: Program, loop: Instruction) -> int | None:
    """How often the body of a `while` runs, None where that depends on values.

    Read from the condition: a counter below a constant; lax.scan and lax.fori_loop with constant
    bounds count from 0 by 1.
    """
    if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
        return int(known)
    condition = program.computations[loop.attribute(r'condition=%?([\w.\-]+)')]
    root = next(it for it in condition.values() if it.root)
    kinds = [condition[name].op for name in root.operands if name in condition]
    if root.op == 'fusion':  # of the comparison alone
        compared = [
            it for it in fused(program, root).values() if it.op not in ('parameter', 'constant')
        ]
        below = len(compared) == 1 and 'direction=LT' in compared[0].rest
    else:
        below = root.op == 'compare' and 'direction=LT' in root.rest
    limits = [condition[n] for n in root.operands if condition[n].op == 'constant']
    if not below or len(limits) != 1 or sorted(kinds) != ['constant', 'get-tuple-element']:
        return None
    limit = limits[0].attribute(r'value=\((-?\d+)\)')
    return max(int(limit), 0) if limit else None


def unknown_loops(program: Program) -> int:
    """How many loops that always run have trips that are not known, and count once."""
    loops = [run.it for run in executed(program) if run.it.op == 'while' and run.always]
    return sum(trips(program, loop) is None for loop in loops)


def cycles(program: Program) -> int:
    """Sum of the cycles that XLA's tiling estimates: to compare two programs for the same TPUs, no
    time. Collectives, copies and Pallas kernels have none."""
    found = ((run, run.it.attribute(r'"estimated_cycles":"(\d+)"')) for run in executed(program))
    return sum(int(count) * run.times for run, count in found if count and run.always)


def flops(program: Program) -> float:
    """Of the matrix products and convolutions of a step, on one device."""
    return sum(
        run.times * sum(_flops(it, inside) for it, inside in _parts(program, run.it, run.inside))
        for run in executed(program)
        if run.always
    )


def fused(program: Program, it: Instruction) -> Computation:
    """What a fusion is made of; of any other instruction nothing."""
    return program.computations[it.attribute(r'calls=%?([\w.\-]+)')] if it.op == 'fusion' else {}


def _parts(program: Program, it: Instruction, inside: Computation):
    """The instruction, or those of a fusion, and of fusions in it."""
    yield it, inside
    inner = fused(program, it)
    for part in inner.values():
        yield from _parts(program, part, inner)


def _flops(it: Instruction, inside: Computation) -> float:
    if it.op not in ('dot', 'convolution') or not all(name in inside for name in it.operands):
        return 0
    left, right = (inside[name].arrays[0].shape for name in it.operands[:2])
    out = it.arrays[0].shape
    if it.op == 'dot':
        summed = it.attribute(r'lhs_contracting_dims=\{([\d,]*)\}').split(',')
        return 2 * math.prod(out) * math.prod(left[int(axis)] for axis in summed if axis)
    data, kernel, result = re.split(r'_|->', it.attribute(r'dim_labels=([\w>-]+)'))
    window = dict(re.findall(r'(\w+)=(\S+)', it.attribute(r'window=\{([^}]*)\}')))
    counted = 2 * out[result.index('b')] * out[result.index('f')] * right[kernel.index('i')]
    for axis in sorted(set(result) - {'b', 'f'}):
        sizes = left[data.index(axis)], right[kernel.index(axis)], out[result.index(axis)]
        counted *= _products(*sizes, _window(window, int(axis)))
    return counted


def _window(window: dict[str, str], axis: int) -> dict[str, int]:
    """stride, dilations and the padding before the first element, of one axis."""
    names = {'stride': '1', 'lhs_dilate': '1', 'rhs_dilate': '1', 'pad': '0_0'}
    of = lambda name: window[name].split('x')[axis] if name in window else names[name]
    return {name: int(of(name).split('_')[0]) for name in names}


def _products(size: int, kernel: int, out: int, of: dict[str, int]) -> int:
    """Pairs of an output and a kernel position that meet an element, not padding or a hole."""
    reach, hole = (size - 1) * of['lhs_dilate'], of['lhs_dilate']
    met = 0
    for k in range(kernel):
        first = k * of['rhs_dilate'] - of['pad']
        met += sum(
            0 <= place <= reach and place % hole == 0
            for place in range(first, first + out * of['stride'], of['stride'])
        )
    return met
