"""What is said of a program: facts -> a report, and its words."""

import math
from collections import Counter

from clr_jax.preflight.topologies import Topology

SMALL, MANY = 2**16, 50  # bytes of a small all-reduce; so many a step are many
SHARE = 0.25  # of the usable HBM: beyond it, what every device holds whole is worth a word
UNKNOWN = (
    'Not known without the hardware: the time of a step, of collectives and of the input, and the memory of evaluation. '
    'Loops count with their trips, branches that only some steps run (health measures) do not count.'
)


def report(facts: dict, request: dict, topology: Topology, about: dict) -> dict:
    """All that preflight prints, as `--json` has it; bytes, FLOPs and collectives are of one device and
    one step. `about` begins it: names, versions, where numbers come from."""
    kind, batch = topology.generation, request['config']['batch_size']
    pod = {'devices': facts['devices'], 'hosts': facts['hosts']}
    pod['chips'] = pod['devices'] // kind.devices
    pod['chips_per_host'] = pod['chips'] // pod['hosts']
    sizes = {'global': batch, 'host': batch // pod['hosts'], 'device': batch // pod['devices']}
    said = about | {'pod': pod, 'batch': sizes, 'fits': facts['fits'], 'usable': int(kind.usable)}
    if not facts['fits']:
        return said | {'needed': facts['needed'], 'usable': facts['usable'] or said['usable']}
    memory = dict(facts['memory'])
    memory['total'] = sum(memory.values()) - 2 * memory['donated']
    said |= {'memory': memory, 'state': facts['state_bytes'], 'unread': facts.get('unread')}
    said['sharded'] = request['config']['sharded']
    program = facts.get('program')
    if program:
        flops, moved = program['flops'], program['bytes']
        said |= {'flops': flops, 'bytes': moved, 'estimated_cycles': program['cycles']}
        said['lower_bound_ms'] = {
            'compute': 1e3 * flops * kind.devices / kind.flops,
            'memory': 1e3 * moved * kind.devices / kind.bandwidth,
        }
        said['collectives'] = grouped(program['collectives'])
        said['largest'] = program['largest']
    return said | {'warnings': warnings(facts, said)}


def grouped(collectives: list[dict]) -> list[dict]:
    """Equal collectives as one, with their `number` a step, largest first."""
    names = ('kind', 'dtype', 'bytes', 'is_async', 'cross_slice', 'always')
    number: Counter = Counter()
    for each in collectives:
        number[tuple(each[name] for name in names)] += each['times']
    found = [dict(zip(names, of, strict=True), number=n) for of, n in number.items()]
    return sorted(found, key=lambda each: (not each['always'], -each['bytes'] * each['number']))


def warnings(facts: dict, said: dict) -> list[str]:
    """What is likely not meant, or will cost."""
    found, memory, usable = [], said['memory'], said['usable']
    if facts['whole_bytes'] > SHARE * usable:
        share = (
            f'{size(facts["whole_bytes"])}, {facts["whole_bytes"] / usable:.0%} of the usable HBM'
        )
        hint = '' if said['sharded'] else '; config.sharded=True puts most of it in parts'
        found.append(f'every device holds the same state whole: {share}{hint}')
    lost = memory['outputs'] - memory['donated']
    if lost > max(0.01 * memory['outputs'], 2**20):
        found.append(
            f'donation is not effective: {size(lost)} of the outputs have memory of their own'
        )
    program = facts.get('program')
    if not program:
        return found
    always = [each for each in program['collectives'] if each['always']]
    sums = [e for e in always if e['kind'] in ('all-reduce', 'reduce-scatter')]
    shapes = [[n for n in shape if n > 1] for shape in facts['parameters']]
    matrices = [shape for shape in shapes if len(shape) > 1]
    narrow = [each for each in sums if each['dtype'] in ('bf16', 'f16')]
    narrow = [each for each in narrow if any(list(s) in matrices for s in each['shapes'])]
    if narrow:
        bytes = size(sum(each['bytes'] * each['times'] for each in narrow))
        found.append(f'gradients are summed over devices in {narrow[0]["dtype"]}: {bytes}')
    small = [each for each in sums if each['bytes'] < SMALL]
    if (number := sum(each['times'] for each in small)) > MANY:
        found.append(
            f'{number} all-reduces a step are smaller than {size(SMALL)}: their latency grows with the pod'
        )
    far = sum(each['times'] for each in small if each['cross_slice'])
    if far > 8:
        found.append(
            f'{far} small all-reduces a step cross slices: set config.bn_groups to a multiple of the slices'
        )
    b, whole = said['batch']['device'], said['batch']['global']
    for held in program['largest']:
        if held['computed'] and held['bytes'] > 0.01 * usable and _logits(held['shape'], b, whole):
            shape = f'{held["dtype"]}{held["shape"]}'.replace(' ', '')
            found.append(
                f'a matrix of the batch against the batch is in HBM: {shape}, {size(held["bytes"])}'
            )
            break
    if program['unknown_loops']:
        found.append(
            f'{program["unknown_loops"]} loops have trips that are not known, and count once'
        )
    return found


def _logits(shape: list[int], b: int, whole: int) -> bool:
    """Whether an array has a row for each of this device's examples and a column for each of the
    batch's, of one or several views."""
    wide = [n for n in shape if whole <= n <= 16 * whole and n % whole == 0]
    rest = math.prod(shape) // math.prod(wide[:1] or [1])
    return bool(wide) and rest % b == 0 and 1 <= rest // b <= 16


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ('B', 'KiB', 'MiB'):
        if count < 1000:
            return f'{count:.3g} {unit}'
        count /= 1024
    return f'{count:.2f} GiB'


def text(said: dict) -> str:
    """The report in words."""
    pod, batch, versions = said['pod'], said['batch'], said['versions']
    slices = f'{said["slices"]} slices of ' if said['slices'] > 1 else ''
    lines = [
        f'{said["config"]} on {slices}{said["topology"]}: {pod["chips"]} chips, {pod["devices"]} devices, '
        f'{pod["hosts"]} hosts of {pod["chips_per_host"]} chips',
        f'compiled by libtpu {versions["libtpu"]}, jax {versions["jax"]}, clr_jax {versions["clr_jax"]}; run on no TPU',
        f'{said["examples"]:,} examples of {said["classes"]:,} classes ({said["data"]})',
        f'batch {batch["global"]:,}: {batch["host"]:,} a host, {batch["device"]:,} a device',
    ]
    usable = f'{size(said["usable"])} of usable HBM a device'
    if not said['fits']:
        needed = f'needs {size(said["needed"])} of' if said['needed'] else 'needs more than the'
        return '\n'.join([*lines, f'DOES NOT FIT: {needed} {usable}'])
    memory = said['memory']
    share = memory['total'] / said['usable']
    lines.append(f'fits: {size(memory["total"])} of {usable} ({share:.0%})')
    parts = ('arguments', 'outputs', 'donated', 'temporaries', 'program')
    named = {'donated': 'outputs in place of arguments (donated)'}
    named['arguments'] = f'arguments, of which {size(said["state"])} state'
    lines += [f'  {size(memory[part]):>10}  {named.get(part, part)}' for part in parts]
    if 'flops' in said:
        lines += _work(said)
    elif said['unread']:
        lines.append(f'no more is known: the compiler cannot print this program ({said["unread"]})')
    if said['warnings']:
        lines += ['warnings', *(f'  {warning}' for warning in said['warnings'])]
    return '\n'.join([*lines, UNKNOWN])


def _work(said: dict) -> list[str]:
    bounds, all = said['lower_bound_ms'], said['collectives']
    lines = [
        'a step of a device',
        f'  {said["flops"] / 1e9:,.1f} GFLOP of matrix products and convolutions: '
        f'at least {bounds["compute"]:.2f} ms at the peak of the chip',
        f'  {said["bytes"] / 1e9:,.2f} GB through HBM: at least {bounds["memory"]:.2f} ms at its bandwidth',
        f'  {said["estimated_cycles"] / 1e6:,.1f} M cycles as XLA estimates them, to compare with another config alone',
    ]
    always = [each for each in all if each['always']]
    number = sum(each['number'] for each in always)
    sync = sum(each['number'] for each in always if not each['is_async'])
    far = sum(each['number'] for each in always if each['cross_slice'])
    total = size(sum(each['bytes'] * each['number'] for each in always))
    lines.append(f'{number} collectives a step, {sync} synchronous, {far} between slices, {total}')
    lines += [f'  {_collective(each)}' for each in always[:12]]
    if len(always) > 12:
        rest = always[12:]
        left = size(sum(each['bytes'] * each['number'] for each in rest))
        lines.append(f'  {sum(each["number"] for each in rest)} more, {left}')
    rare = sum(each['number'] for each in all if not each['always'])
    if rare:
        lines.append(f'  {rare} in branches that only some steps run')
    lines.append('largest arrays in HBM, not all at once')
    for held in said['largest'][:6]:
        shape = f'{held["dtype"]}{held["shape"]}'.replace(' ', '')
        lines.append(f'  {size(held["bytes"]):>10}  {shape}, {held["number"]} values')
    return lines


def _collective(each: dict) -> str:
    how = 'async' if each['is_async'] else 'sync'
    where = 'between slices' if each['cross_slice'] else 'in a slice'
    return f'{each["number"]:>4} x {size(each["bytes"]):>9}  {each["dtype"]} {each["kind"]}, {how}, {where}'
