"""Where the leaves of a TrainState lie: whole on every device, or in parts."""

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from clr_jax import parallel
from clr_jax.entry import Problem

TABLES = ('queue', 'queues', 'memory')  # the fields of a method's state that are tables
SMALL = 2**14  # numbers: a leaf of fewer is whole everywhere


def is_table(path) -> bool:
    """Whether the leaf at this path of a method's state is a table."""
    return any(getattr(key, 'name', '') in TABLES for key in path)


def shardings(ts, mesh, sharded: bool):
    """Those of the leaves of a TrainState, of which only shapes count: replicated; or, if it is
    `sharded`, the optimizer's state and the method's, and with it averages of parameters, split along the
    longest axis that the devices divide, but for small leaves (ZeRO-1; Rajbhandari et al., 2020;
    arXiv:1910.02054). Tables are split by rows.

    Raises Problem for a table whose rows the devices do not divide.
    """
    whole = jax.tree.map(lambda _: parallel.replicated(mesh), ts)
    # as a compiled step names them, which leaves out axes of one device
    axes = tuple(axis for axis in parallel.DATA if mesh.shape[axis] > 1)
    if not (sharded and axes):
        return whole
    data = axes if len(axes) > 1 else axes[0]

    def split(path, x):
        if is_table(path):
            if len(x) % mesh.size:
                name = jax.tree_util.keystr(path, simple=True, separator='/')
                rows = f'the {len(x)} rows of {name} do not divide over {mesh.size} devices'
                raise Problem(f'config.sharded: {rows}')
            return NamedSharding(mesh, P(data))
        even = [axis for axis, n in enumerate(x.shape) if n % mesh.size == 0]
        if x.size < SMALL or not even:
            return parallel.replicated(mesh)
        longest = max(even, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, P(*(None,) * longest, data))

    return jax.tree.map_with_path(split, ts)._replace(step=whole.step, params=whole.params)


def place(ts, mesh, sharded: bool):
    """A traced TrainState where it lies between steps."""
    return lax.with_sharding_constraint(ts, shardings(ts, mesh, sharded))


def specs(state, sharded: bool):
    """What `parallel.shard` is told of a method's state: only tables stay in parts inside."""
    spec = lambda path, _: P(parallel.DATA) if sharded and is_table(path) else P()
    return jax.tree.map_with_path(spec, state)


def parted(state, sharded: bool):
    """A shard's state as methods see it: tables that are shared are a `parallel.Part`."""
    part = lambda path, x: parallel.Part(x) if sharded and is_table(path) else x
    return jax.tree.map_with_path(part, state)


def joined(state):
    """A shard's state without `Part`s."""
    is_part = lambda x: isinstance(x, parallel.Part)
    return jax.tree.map(lambda x: x.rows if is_part(x) else x, state, is_leaf=is_part)


def everywhere(tree, shardings):
    """Arrays that every process has with the same values -> each with its sharding."""

    def one(x, sharding):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])

    return jax.tree.map(one, tree, shardings)


def whole(tree, mesh):
    """Arrays that may lie in parts -> whole on every device."""
    return jax.jit(lambda tree: tree, out_shardings=parallel.replicated(mesh))(tree)
