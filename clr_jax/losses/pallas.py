"""The sums of `chunked` on TPUs: kernels in Pallas for the forward and the backward pass, in which a block
of similarities is made, used and forgotten in the chip's vector memory.

Both walk over the blocks of the matrix; those of the same rows come one after the other and add to
what stays in vector memory. Only blocks in which a row meets itself, or may meet others of its group,
are masked.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from clr_jax import parallel

ROWS, COLUMNS = 256, 1024  # of a block, at most
ENTRIES = 2**18  # of a block's columns with all their dimensions, at most
BRIEF = (
    None,
    'default',
    'fastest',
    'bfloat16',
)  # precisions of products that TPUs take in one pass


class Terms(NamedTuple):
    """The groups of rows [n], or of keys [N], and what they bring to the slope of a similarity."""

    group: jax.Array | None = None
    lse: jax.Array | None = None
    of_lse: jax.Array | None = None
    of_similar: jax.Array | None = None


def blocks(rows, keys) -> tuple[int, int]:
    """The shape of the blocks that the matrix of rows [n, d] and keys [N, d] is cut into."""
    most = 2 ** int(math.log2(max(ENTRIES // rows.shape[1], 128)))
    return math.gcd(len(rows), ROWS), math.gcd(len(keys), min(most, COLUMNS))


def fits(rows, keys) -> bool:
    """Whether these blocks fill the registers of a TPU."""
    high, wide = blocks(rows, keys)
    return high % 16 == 0 and wide % 128 == 0


def sums(rows, keys, first=None, groups=None):
    """Of rows [n, d] and keys [N, d] -> three of [n]: the log of the sum of exp(row . key) over the keys;
    the sum of row . key over those of the row's group, and their number.

    first: the number of the first row among the keys, if rows are keys too and do not count for
    themselves. groups: int32 [n] and [N]; without them the last two are None.
    """
    number = 1 if groups is None else 3
    of_rows, of_keys = map(Terms, groups or (None, None))
    column = jax.ShapeDtypeStruct((len(rows), 1), jnp.float32)
    found = _walk(_sums, rows, keys, of_rows, of_keys, first, [column] * number, [1], 1)
    found = [x[:, 0].astype(rows.dtype) for x in found]
    return *found, *[None] * (3 - number)


def slopes(rows, keys, of_rows: Terms, of_keys: Terms, first=None):
    """Of rows [n, d] and keys [N, d] -> [n, d], the sum over the keys of w_ij key_j, where w_ij =
    of_lse_i exp(row_i . key_j - lse_i) + of_lse_j exp(row_i . key_j - lse_j)
    + [same group] (of_similar_i + of_similar_j), of those terms that are given (each [n] or [N])."""
    out = jax.ShapeDtypeStruct(rows.shape, jnp.float32)
    return _walk(_slopes, rows, keys, of_rows, of_keys, first, [out], [], 2)[0].astype(rows.dtype)


def _walk(kernel, rows, keys, of_rows, of_keys, first, outs, scratch, products):
    """A kernel over all blocks."""
    (n, width), columns = rows.shape, len(keys)
    high, wide = blocks(rows, keys)
    grid = n // high, columns // wide
    of_rows, of_keys = jax.tree.map(_narrow, (of_rows, of_keys))
    place = _place(first, of_rows.group, of_keys.group, grid)
    # JAX makes this attribute, and mypy does not know of it
    asked = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    dtype = jnp.bfloat16 if asked in BRIEF else jnp.float32
    upright = jax.tree.map(lambda x: x[:, None], of_rows)
    flat = jax.tree.map(lambda x: x[None], of_keys)
    given = parallel.vary((place, rows.astype(dtype), keys.astype(dtype), upright, flat))
    kind = jax.typeof(given[1]).manual_axis_type
    of_row = lambda x: pl.BlockSpec((high, x.shape[1]), lambda i, j, place: (i, 0))
    of_key = lambda x: pl.BlockSpec((1, wide), lambda i, j, place: (0, j))
    specs = [
        of_row(rows),
        pl.BlockSpec((wide, width), lambda i, j, place: (j, 0)),
        jax.tree.map(of_row, upright),
        jax.tree.map(of_key, flat),
    ]
    moved = given[1].dtype.itemsize * width * (n + grid[0] * columns)
    return pl.pallas_call(
        partial(kernel, masked=first is not None),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=kind) for x in outs],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=specs,
            out_specs=[of_row(x) for x in outs],
            scratch_shapes=[pltpu.VMEM((high, width), jnp.float32) for width in scratch],
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'arbitrary')),
        cost_estimate=pl.CostEstimate(
            flops=2 * products * n * columns * width,
            transcendentals=products * n * columns,
            bytes_accessed=moved,
        ),
        name=f'losses{kernel.__name__}',
    )(*given)


def _narrow(x):
    """In 32 bits, all that a TPU computes in."""
    return x.astype(jnp.int32 if jnp.issubdtype(x.dtype, jnp.integer) else jnp.float32)


def _place(first, row_group, key_group, grid):
    """int32 [1]: the first row's number among the keys. With groups [1 + 2 I + 2 J]: after it, of the I
    blocks of rows and then of the J of keys, their least groups and their greatest."""
    bounds = [jnp.asarray(0 if first is None else first, jnp.int32)[None]]
    if row_group is not None:
        for group, count in zip((row_group, key_group), grid, strict=True):
            inside = group.reshape(count, -1)
            bounds += [inside.min(1), inside.max(1)]
    return jnp.concatenate(bounds)


def _near(place, shape, grouped):
    """Whether a block has to be masked, and the number of its first row and column among the keys."""
    (i, j), (high, wide) = (pl.program_id(0), pl.program_id(1)), shape
    row, column = place[0] + i * high, j * wide
    if not grouped:
        return (row < column + wide) & (column < row + high), row, column
    rows, keys = pl.num_programs(0), pl.num_programs(1)
    of_row, of_key = 1 + i, 1 + 2 * rows + j
    meet = (place[of_row] <= place[of_key + keys]) & (place[of_key] <= place[of_row + rows])
    return meet, row, column


def _masks(shape, row, column, of_rows, of_keys):
    """-> [high, wide]: where a row meets itself, and where it meets another of its group."""
    number = partial(lax.broadcasted_iota, jnp.int32, shape)
    itself = row + number(0) == column + number(1)
    if of_rows.group is None:
        return itself, None
    return itself, (of_rows.group[...] == of_keys.group[...]) & ~itself


def _sums(place, rows, keys, of_rows, of_keys, *refs, masked):
    # the place of the logarithm has the highest exponent, until the end
    highest, *others, total = refs
    grouped = of_rows.group is not None

    @pl.when(pl.program_id(1) == 0)
    def _():
        highest[...] = jnp.full_like(highest, jnp.finfo(jnp.float32).min)
        for sum_ in (total, *others):
            sum_[...] = jnp.zeros_like(sum_)

    similarity = _product(rows[...], keys[...], 1)  # [high, wide]

    def add(exponents):
        higher = jnp.maximum(highest[...], exponents.max(1, keepdims=True))
        more = jnp.exp(exponents - higher).sum(1, keepdims=True)
        total[...] = total[...] * jnp.exp(highest[...] - higher) + more
        highest[...] = higher

    def add_masked(row, column):
        itself, same = _masks(similarity.shape, row, column, of_rows, of_keys)
        add(jnp.where(itself, -jnp.inf, similarity))
        if grouped:
            similar, number = others
            similar[...] += jnp.where(same, similarity, 0).sum(1, keepdims=True)
            number[...] += jnp.where(same, 1.0, 0.0).sum(1, keepdims=True)

    _either(place, similarity, grouped, masked, add_masked, lambda: add(similarity))

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _():
        highest[...] += jnp.log(total[...])


def _slopes(place, rows, keys, of_rows, of_keys, out, *, masked):
    @pl.when(pl.program_id(1) == 0)
    def _():
        out[...] = jnp.zeros_like(out)

    similarity = _product(rows[...], keys[...], 1)  # [high, wide]

    def slope():
        terms = [x for x in (of_rows, of_keys) if x.lse is not None]
        return sum(x.of_lse[...] * jnp.exp(similarity - x.lse[...]) for x in terms)

    def add(slope):
        out[...] += _product(slope.astype(keys.dtype), keys[...], 0)

    def add_masked(row, column):
        itself, same = _masks(similarity.shape, row, column, of_rows, of_keys)
        found = jnp.where(itself, 0, slope())
        if same is not None:
            found += jnp.where(same, of_rows.of_similar[...] + of_keys.of_similar[...], 0)
        add(found)

    grouped = of_rows.group is not None
    _either(place, similarity, grouped, masked, add_masked, lambda: add(slope()))


def _either(place, similarity, grouped, masked, with_masks, without):
    """One of the two, by where in the matrix the block is; `masked`: whether any block has to be."""
    if not masked:
        return without()
    near, row, column = _near(place, similarity.shape, grouped)
    pl.when(near)(lambda: with_masks(row, column))
    pl.when(~near)(without)


def _product(a, b, axis):
    """a [m, k] with b [k, n] (axis 0) or [n, k] (axis 1), summed in float32."""
    precision = lax.Precision.HIGHEST if b.dtype == jnp.float32 else lax.Precision.DEFAULT
    how = {'precision': precision, 'preferred_element_type': jnp.float32}
    return lax.dot_general(a, b, (((1,), (axis,)), ((), ())), **how)
