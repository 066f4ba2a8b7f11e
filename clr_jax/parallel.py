"""The devices: one mesh, the rows of the global batch spread over it, and every collective of the
library.

Lower-case `b` is this shard's examples, upper-case `B` the global batch. Inside `shard` the
functions communicate; outside they are the identity, so that a loss is also a plain function of
arrays.
"""

import math
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clr_jax.entry import Problem

# a group: devices that may share batch statistics (a slice, or a recipe's groups)
GROUP, DEVICE = 'group', 'device'
DATA = (GROUP, DEVICE)


def make_mesh(devices=None, groups: int = 1) -> Mesh:
    """A (group, device) mesh in process order: each process holds one contiguous piece of the
    global batch.

    Several slices make one group each, so that statistics of parts that fit them never leave one.
    (`jax.make_mesh` refuses slices and reorders devices, which would give a process rows that are
    not its own.)
    """
    place = lambda device: (getattr(device, 'slice_index', 0), device.process_index, device.id)
    devices = sorted(jax.devices() if devices is None else devices, key=place)
    slices = len({place(device)[0] for device in devices})
    outer = slices if slices > 1 else math.gcd(groups, len(devices))
    return Mesh(np.asarray(devices).reshape(outer, -1), DATA, axis_types=(AxisType.Auto,) * 2)


def shard(f, mesh: Mesh, in_specs, out_specs):
    """`f` on every shard. The check of varying axes stays on: it refuses forgotten reductions while
    tracing."""
    return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=True)


def inside() -> bool:
    """Whether we are being traced on a shard."""
    try:
        lax.axis_size(DATA)
        return True
    except NameError:
        return False


def size() -> int:
    """Number of shards; 1 outside."""
    return lax.axis_size(DATA) if inside() else 1


def vary(tree, axes=DATA):
    """Mark as different on every shard: a change of type, no communication."""

    def one(x):
        missing = tuple(a for a in axes if a not in jax.typeof(x).manual_axis_type.varying)
        return lax.pcast(x, missing, to='varying') if missing else x

    return jax.tree.map(one, tree) if inside() else tree


def mean(tree, axes=DATA):
    """Mean over the shards of values that are means over each shard's examples."""
    return lax.pmean(vary(tree, axes), axes) if inside() else tree


def total(x):
    """Sum over the shards of a value that differs between them."""
    return lax.psum(_varying(x, 'total'), DATA) if inside() else x


def highest(x):
    """The greatest over the shards of a value that differs between them; no gradient."""
    x = lax.stop_gradient(x)
    return lax.pmax(_varying(x, 'highest'), DATA) if inside() else x


def gather(x):
    """Rows of this shard [b, ...] -> rows of the global batch [B, ...]; gradients flow to every
    row."""
    return lax.all_gather(_varying(x, 'gather'), DATA, tiled=True) if inside() else x


def gather_state(x):
    """As `gather`, without a gradient, for what enters the replicated state."""
    x = lax.stop_gradient(x)
    if not inside():
        return x
    return lax.all_gather(_varying(x, 'gather_state'), DATA, tiled=True, to='invarying')


def positions(b: int):
    """[b] the numbers of this shard's rows in the global batch."""
    return (lax.axis_index(DATA) * b if inside() else 0) + jnp.arange(b)


def reduce(grads):
    """Gradients of this shard's share of the mean loss, summed over the shards in the dtype of the
    parameters."""
    return lax.psum(grads, DATA)


def parts(rows, groups: int):
    """`groups` contiguous parts of the global rows, of which this shard holds the `rows` [n].

    -> (each row's part [n], counted among those that the shards of `axes` hold together; their
    number; `axes`). Where the mesh has groups of its own, only their devices need to communicate.
    Raises Problem where the parts would not be of one size.
    """
    batch = len(rows) * size()
    if groups < 1 or batch % groups:
        equal = f'does not divide a batch of {batch} rows into equal parts'
        raise Problem(f'config.bn_groups={groups} {equal}')
    outer = lax.axis_size(GROUP) if inside() else 1
    number = rows * groups // batch  # [n]
    if outer == 1 or groups % outer:
        return number, groups, DATA
    held = groups // outer
    return number - held * lax.axis_index(GROUP), held, (DEVICE,)


def exchange(x, order):
    """The rows of the global batch in another order: this shard's rows of x[order], where x is this
    shard's [b, ...] and order [B] the same everywhere."""
    return jnp.asarray(gather(x))[order[positions(len(x))]]


# Tables: rows that outlive the batch. Every shard has a table whole, or a `Part` of its rows.

MULTIPLE = 1024  # of the rows of a table that is as long as the data


class Part(NamedTuple):
    """What one shard has of a table [n, d] that all share: as many rows as every other, in order."""

    rows: jax.Array  # [n / shards, d]

    def find(self, index):
        """Rows by their number in the table -> (their number here or 0, whether they are here)."""
        here = index - lax.axis_index(DATA) * len(self.rows)
        held = (here >= 0) & (here < len(self.rows))
        return jnp.where(held, here, 0), held


def padded(rows):
    """A table of any length [n, d], with rows of zeros behind it that any usual number of devices can
    share it: nobody's, for whoever reads all."""
    return jnp.pad(rows, ((0, -len(rows) % MULTIPLE), (0, 0)))


def take(table, index):
    """Rows `index` [...] of a table [n, d] -> [..., d]; of a shared one, `index` [b, ...] is of this
    shard's examples."""
    if not isinstance(table, Part):
        return jnp.asarray(table)[index]
    here, held = table.find(gather(index))  # [B, ...]
    found = jnp.where(held[..., None], table.rows[here], 0)  # [B, ..., d]: 0 on all shards but one
    return lax.psum_scatter(found, DATA, tiled=True)


def put(table, index, values):
    """The table [n, d] with the rows `index` [b], unique in the global batch, replaced by this
    shard's `values` [b, d]; no gradient."""
    index, values = gather_state(index), gather_state(values)  # [B], [B, d]
    if not isinstance(table, Part):
        return jnp.asarray(table).at[index].set(values.astype(table.dtype))
    here, held = table.find(index)
    place = jnp.where(held, here, len(table.rows))  # which is nowhere
    values = vary(values.astype(table.rows.dtype))
    return Part(table.rows.at[place].set(values, mode='drop'))


def score(table, query, index=None):
    """Dot products of the queries [b, d] with all rows of a table [n, d] -> [b, n], or with its rows
    `index` [b, m] -> [b, m]. The queries may be the same on every shard, if it is all rows."""
    if not isinstance(table, Part):
        if index is None:
            return query @ table.T
        return jnp.einsum('bd,bmd->bm', query, take(table, index))
    if not jax.typeof(query).manual_axis_type.varying:
        return lax.all_gather(vary(query) @ table.rows.T, DATA, axis=1, tiled=True)
    part = gather(query) @ table.rows.T  # [B, n / shards]
    if index is None:
        return lax.all_to_all(part, DATA, 0, 1, tiled=True)
    here, held = table.find(gather(index))  # [B, m]
    found = jnp.where(held, jnp.take_along_axis(part, here, 1), 0)
    return lax.psum_scatter(found, DATA, tiled=True)


def enqueue(queue, cursor, values):
    """The queue [K, d] with the oldest of its rows, from `cursor` [] on, replaced by the global
    batch of `values` [b, d], and the cursor behind them."""
    length = len(queue.rows) * size() if isinstance(queue, Part) else len(queue)
    batch = len(values) * size()
    if batch > length:
        raise Problem(f'a queue of {length} does not hold a batch of {batch}: make it longer')
    place = (cursor + positions(len(values))) % length
    return put(queue, place, values), (cursor + batch) % length


def share(devices: int, bn_groups: int = 1, exact: int = 1, plain: int = 1) -> int:
    """The smallest global batch that so many devices and groups share evenly, in pieces of `accumulate`."""
    return plain * math.lcm(devices * exact, bn_groups)


def check_batch(batch_size: int, mesh: Mesh, bn_groups: int = 1, exact: int = 1, plain: int = 1):
    """Refuse a global batch that the devices, the groups or the pieces cannot share evenly."""
    over = {'bn_groups': bn_groups, 'accumulate.exact': exact, 'accumulate.plain': plain}
    for name, value in over.items():
        if value < 1:
            raise Problem(f'config.{name}={value}: must be at least 1')
    least = share(mesh.size, bn_groups, exact, plain)
    if batch_size < 1 or batch_size % least:
        said = ', '.join(f'{name}={n}' for name, n in over.items() if name == 'bn_groups' or n > 1)
        raise Problem(
            f'batch_size={batch_size} does not divide over {mesh.size} devices and {said}: '
            f'set --config.batch_size to a multiple of {least}'
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, P())


def placed(shapes, mesh: Mesh):
    """Shapes of a replicated pytree -> the same with its sharding, for a checkpoint to be restored
    into."""
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh))
    return jax.tree.map(place, shapes)


def rows(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """First and last + 1 of the rows of the global batch that this process feeds."""
    pieces = NamedSharding(mesh, P(DATA)).addressable_devices_indices_map((batch_size,)).values()
    ours = [range(batch_size)[piece[0]] for piece in pieces if piece]
    return min(r.start for r in ours), max(r.stop for r in ours)


def spread(batch, mesh: Mesh):
    """This process's rows (NumPy, [b, ...] leaves) -> global arrays [B, ...] over the mesh."""
    data = NamedSharding(mesh, P(DATA))
    place = lambda x: jax.make_array_from_process_local_data(data, np.asarray(x))
    return jax.tree.map(place, batch)


def each_process(values) -> np.ndarray:
    """The numbers [k] that each process gives, as int32 or float32 -> [processes, k], the same
    everywhere. All must call it."""
    values = np.asarray(values)
    values = values.astype(np.float32 if values.dtype.kind == 'f' else np.int32)
    return multihost_utils.process_allgather(values).reshape(jax.process_count(), -1)


def agree(what: dict[str, str]):
    """Refuse to go on where processes differ in one of these texts: their programs would wait for each
    other for ever. All must call it."""
    found = each_process([zlib.crc32(text.encode()) & 0x7FFFFFFF for text in what.values()])
    for name, column in zip(what, found.T, strict=True):
        others = np.flatnonzero(column != column[0]).tolist()
        if others:
            same = 'start the same command from the same installation everywhere'
            raise Problem(f'processes {others} have another {name} than process 0: {same}')


def _varying(x, name):
    missing = [a for a in DATA if a not in jax.typeof(x).manual_axis_type.varying]
    # summing or gathering equal values multiplies or repeats them by the device count, silently
    if missing:
        raise ValueError(
            f'parallel.{name} of a value that is the same on all shards; mark it with parallel.vary'
        )
    return x
