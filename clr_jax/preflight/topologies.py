"""The TPU pods that can be had, and what their makers say of them."""

import math
import re
from typing import NamedTuple

from clr_jax.entry import USAGE, Problem, nearest


class Generation(NamedTuple):
    """One kind of TPU."""

    name: str  # as libtpu spells it
    sizes: tuple[str, ...]  # chips in each direction of the torus
    usable: float  # bytes of HBM that the compiler lets a program have, a device
    flops: float  # peak of one chip in bfloat16, FLOP/s
    bandwidth: float  # of one chip's HBM, bytes/s
    devices: int = 1  # a chip, as JAX counts them
    options: dict = {}  # of libtpu


PLANES = '1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16'
CUBES = '2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16'
GiB = 2.0**30

# Sizes, peaks and bandwidths: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e and tpu7x, the most common
# sizes of each; larger ones of v5p and TPU7x come in other shapes too. Usable HBM: what the compiler
# of libtpu 0.0.42 names when a program is too large for it.
GENERATIONS = {
    'v4': Generation(
        # one device for the two cores of a chip, as Cloud TPU has it
        *('v4', tuple(CUBES.split()), 30.75 * GiB, 275e12, 1228e9),
        options={'chip_config_name': 'megacore'},
    ),
    'v5e': Generation('v5e', tuple(PLANES.split()), 15.75 * GiB, 197e12, 819e9),
    'v5p': Generation('v5p', (*CUBES.split(), '16x16x16', '16x16x24'), 95.74 * GiB, 459e12, 2765e9),
    'v6e': Generation('v6e', tuple(PLANES.split()), 31.25 * GiB, 918e12, 1638e9),
    'tpu7x': Generation(
        'tpu7x', (*CUBES.split(), '16x16x16'), 94.75 * GiB, 2307e12, 7380e9, devices=2
    ),
}


class Topology(NamedTuple):
    """A pod: slices of one size."""

    name: str  # 'v5e:16x16'
    generation: Generation
    size: tuple[int, ...]
    slices: int


def parse(text: str, slices: int = 1) -> Topology:
    """The pod 'v5e:16x16', 'v4:4x4x4', 'TPU7x:2x2x1', of so many slices. Raises Problem for one that
    cannot be had, naming the nearest that can."""
    kind, _, size = text.lower().partition(':')
    if kind not in GENERATIONS:
        raise Problem(f'--topology={text}: no "{kind}"; {nearest(kind, GENERATIONS)}', USAGE)
    generation = GENERATIONS[kind]
    if size not in generation.sizes:
        near = ', '.join(_near(size, generation.sizes))
        raise Problem(
            f'--topology={text}: {kind} does not come in that size; nearest: {near}', USAGE
        )
    if slices < 1:
        raise Problem(f'--num_slices={slices}: at least 1', USAGE)
    return Topology(f'{kind}:{size}', generation, tuple(map(int, size.split('x'))), slices)


def devices(topology: Topology) -> list:
    """The devices of a pod that is not there, for the compiler alone; needs libtpu."""
    from jax.experimental import topologies

    where = topology.size
    # one host of 1 or 8 chips; all others have 4
    bounds = (*where, 1) if where in ((1, 1), (2, 4)) else (2, 2, 1)
    options: dict = dict(topology.generation.options) | {'chips_per_host_bounds': bounds}
    if topology.slices > 1:
        options['num_slices'] = topology.slices
    return topologies.get_topology_desc(
        topology_name=topology.name, platform='tpu', **options
    ).devices


def _near(size: str, sizes: tuple[str, ...]) -> list[str]:
    """The two sizes whose numbers of chips are nearest, or all."""
    if not re.fullmatch(r'[1-9]\d{0,3}(x[1-9]\d{0,3})*', size):
        return list(sizes)
    chips = lambda text: math.log(math.prod(map(int, text.split('x'))))
    return sorted(sizes, key=lambda other: abs(chips(other) - chips(size)))[:2]
