"""Sums over all pairs of the global batch, exact, without the matrix of their similarities.

A shard's n rows meet the N columns of the batch in chunks, one block [n, chunk] at a time; the
backward pass computes each block again. Memory grows with n d + N d + n chunk, not with n N, for
the time of at most one more product of the matrices. The sum of exponentials is that of Milakov &
Gimelshein, 2018 (arXiv:1805.02867), which needs no second look. Gradients are in reverse mode only.
On TPUs kernels do the same block by block in the chip (`pallas.py`), but for `logistic`.

Rows come scaled: a temperature, or a learned scale, is a factor of theirs, with its gradient.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import sigmoid, softplus  # -log sigmoid(-x)

from clr_jax import parallel
from clr_jax.losses import pallas

WHOLE = 2**24  # similarities on a device, 64 MiB of float32, up to which the matrix is left whole


def size(rows: int, chunk: int | None) -> int | None:
    """The columns that this shard's `rows` take at a time, or None for the whole matrix.

    chunk: what was asked for; None is as many, a multiple of 128, as WHOLE allows. As many columns as
    the global batch has rows are the whole.
    """
    columns = rows * parallel.size()
    if chunk is None:
        chunk = columns if rows * columns <= WHOLE else max(WHOLE // rows // 128, 1) * 128
    if chunk < 1:
        raise ValueError(f'chunk={chunk}: a number of columns, at least 1, or None')
    return chunk if chunk < columns else None


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def others(z, group, chunk):
    """Every row against all other rows of the global batch: z [n, d], group [n] -> three of [n].

    With s_ij = z_i . z_j: the log of the sum of exp(s_ij) over the N - 1 others; the sum of s_ij
    over those of the row's own group; and their number. Without groups (None) the last two are None.

    s is symmetric, so a row's gradient as a column needs of the other shards no more than a few
    numbers a row: from a_i and b_i, the gradients in the two sums of row i,
    dz_i = sum_j (a_i exp(s_ij - lse_i) + a_j exp(s_ij - lse_j) + [same group] (b_i + b_j)) z_j.
    """
    return _others(z, group, chunk)[0]


def _others(z, group, chunk):
    everything = jax.tree.map(parallel.gather, (z, group))  # [N, d], [N]
    empty = jnp.zeros(len(z), z.dtype)

    def block(sums, columns):
        similarity, itself, positive = _meet(z, group, columns)
        lse, more = sums
        lse = _add(lse, jnp.where(itself, -jnp.inf, similarity))
        if more:
            similar = jnp.where(positive, similarity, 0).sum(1)
            more = more[0] + similar, more[1] + positive.sum(1)
        return (lse, more), None

    def in_chunks():
        start = _nothing(z), () if group is None else (empty, empty)
        (lse, more), _ = _scan(block, start, _numbered(*everything), chunk)
        return _log(lse), *(more or (None, None))

    groups = None if group is None else (group, everything[1])
    kernel = lambda: pallas.sums(z, everything[0], parallel.positions(len(z))[0], groups)
    sums = _on_tpu(pallas.fits(z, everything[0]), kernel, in_chunks)
    return sums, (z, group, everything, sums[0])


def _others_gradient(chunk, saved, slopes):
    z, group, everything, lse = saved
    of_lse, of_similar, _ = slopes  # [n] each
    known = (lse, of_lse) if group is None else (lse, of_lse, of_similar)
    of_rows = parallel.gather(jnp.stack(known, 1))  # [N, 2 or 3]

    def block(grad, columns):
        columns, of_columns = columns
        their_lse, of_their_lse, *of_their_similar = of_columns.T
        similarity, itself, positive = _meet(z, group, columns)
        similarity = jnp.where(itself, -jnp.inf, similarity)
        slope = of_lse[:, None] * jnp.exp(similarity - lse[:, None])  # [n, chunk]
        slope += of_their_lse * jnp.exp(similarity - their_lse)
        if group is not None:
            slope += jnp.where(positive, of_similar[:, None] + of_their_similar[0], 0)
        return grad + slope @ columns[0], None

    def in_chunks():
        return _scan(block, jnp.zeros_like(z), (_numbered(*everything), of_rows), chunk)[0]

    def kernel():
        ours = pallas.Terms(group, *known)
        theirs = pallas.Terms(everything[1], *of_rows.T)
        return pallas.slopes(z, everything[0], ours, theirs, parallel.positions(len(z))[0])

    return _on_tpu(pallas.fits(z, everything[0]), kernel, in_chunks), None


others.defvjp(_others, _others_gradient)


def log_sum_exp(rows, keys, chunk):
    """The log of the sum of exp(row . key) over the keys. rows: [n, d], keys: [N, d] -> [n]."""
    return _log_sum_exp(*parallel.vary((rows, keys)), chunk)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _log_sum_exp(rows, keys, chunk):
    return _log_sum_exp_forward(rows, keys, chunk)[0]


def _log_sum_exp_forward(rows, keys, chunk):
    block = lambda lse, keys: (_add(lse, rows @ keys.T), None)
    in_chunks = lambda: _log(_scan(block, _nothing(rows), keys, chunk)[0])
    lse = _on_tpu(pallas.fits(rows, keys), lambda: pallas.sums(rows, keys)[0], in_chunks)
    return lse, (rows, keys, lse)


def _log_sum_exp_gradient(chunk, saved, of_lse):
    rows, keys, lse = saved

    def block(grad, keys):
        slope = of_lse[:, None] * jnp.exp(rows @ keys.T - lse[:, None])  # [n, chunk]
        return grad + slope @ keys, slope.T @ rows

    def kernels():
        ours, nothing = pallas.Terms(None, lse, of_lse), pallas.Terms()
        of_rows = pallas.slopes(rows, keys, ours, nothing)
        return of_rows, pallas.slopes(keys, rows, nothing, ours)

    in_chunks = lambda: _scan(block, jnp.zeros_like(rows), keys, chunk)
    return _on_tpu(pallas.fits(rows, keys) and pallas.fits(keys, rows), kernels, in_chunks)


_log_sum_exp.defvjp(_log_sum_exp_forward, _log_sum_exp_gradient)


def logistic(rows, keys, bias, chunk):
    """The sum over the keys of -log sigmoid(row . key + bias) for the row's own key, and of -log
    sigmoid(-(row . key + bias)) for all others. rows: [n, d], keys: [N, d], bias: [] -> [n]."""
    return _logistic(*parallel.vary((rows, keys, bias)), chunk)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _logistic(rows, keys, bias, chunk):
    return _logistic_forward(rows, keys, bias, chunk)[0]


def _logistic_forward(rows, keys, bias, chunk):
    def block(total, columns):
        logits, sign = _signed(rows, bias, columns)
        return total + softplus(-sign * logits).sum(1), None

    total, _ = _scan(block, jnp.zeros(len(rows), rows.dtype), _numbered(keys), chunk)
    return total, (rows, keys, bias)


def _logistic_gradient(chunk, saved, of_total):
    rows, keys, bias = saved

    def block(grads, columns):
        logits, sign = _signed(rows, bias, columns)
        slope = -of_total[:, None] * sign * sigmoid(-sign * logits)  # [n, chunk]
        grad, of_bias = grads
        return (grad + slope @ columns[0], of_bias + slope.sum()), slope.T @ rows

    empty = jnp.zeros_like(rows), jnp.zeros_like(bias)
    (grad, of_bias), of_keys = _scan(block, empty, _numbered(keys), chunk)
    return grad, of_keys, of_bias


_logistic.defvjp(_logistic_forward, _logistic_gradient)


def _scan(block, carry, columns, chunk):
    """`lax.scan` of block(carry, columns [chunk, ...]) over arrays [N, ...]; the last chunk may be a
    shorter one."""
    whole = len(jax.tree.leaves(columns)[0]) // chunk * chunk
    chunks = jax.tree.map(lambda x: x[:whole].reshape(-1, chunk, *x.shape[1:]), columns)
    carry, out = lax.scan(block, parallel.vary(carry), chunks)
    out = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), out)
    rest = jax.tree.map(lambda x: x[whole:], columns)
    if len(jax.tree.leaves(rest)[0]):
        carry, last = block(carry, rest)
        out = jax.tree.map(lambda *x: jnp.concatenate(x), out, last)
    return carry, out


def _on_tpu(fits, kernel, default):
    """kernel() if it fits and the program is for TPUs, else default()."""
    return lax.platform_dependent(tpu=kernel, default=default) if fits else default()


def _numbered(*columns):
    """Arrays of columns [N, ...], and the columns' numbers in the global batch [N]."""
    return *columns, jnp.arange(len(columns[0]))


def _itself(rows, numbers):
    """Where this shard's rows [n] are the columns of these numbers [chunk]: [n, chunk]."""
    return parallel.positions(len(rows))[:, None] == numbers


def _meet(z, group, columns):
    """-> [n, chunk]: similarities, where a row meets itself, and where another of its group."""
    keys, groups, numbers = columns
    itself = _itself(z, numbers)
    positive = None if group is None else (group[:, None] == groups) & ~itself
    return z @ keys.T, itself, positive


def _signed(rows, bias, columns):
    """-> [n, chunk]: logits, and 1 where a row meets its own key, -1 elsewhere."""
    keys, numbers = columns
    logits = rows @ keys.T + bias
    return logits, jnp.where(_itself(rows, numbers), 1, -1).astype(logits.dtype)


# A sum of exponentials: the highest exponent yet [n], and the sum relative to it [n].


def _nothing(rows):
    # finite, so that a block of nothing but -inf adds nothing
    lowest = jnp.full(len(rows), jnp.finfo(rows.dtype).min, rows.dtype)
    return lowest, jnp.zeros_like(lowest)


def _add(lse, exponents):
    highest, total = lse
    higher = jnp.maximum(highest, exponents.max(1))
    total = total * jnp.exp(highest - higher) + jnp.exp(exponents - higher[:, None]).sum(1)
    return higher, total


def _log(lse):
    highest, total = lse
    return highest + jnp.log(total)
