"""Cutoff (Shen et al., 2020; arXiv:2009.13818): a sentence without some of its embeddings."""

import jax
import jax.numpy as jnp
import numpy as np

CUTOFFS = ('token', 'span', 'feature')


def cutoff(kind: str, x, mask, key, rows, ratio: float):
    """Embeddings x [n, t, d] of sentences and their tokens [n, t], the first ones of each row ->
    both without what is cut off, drawn by row: embeddings become zero, and tokens are no longer
    seen.

    kind, one of `CUTOFFS`: of a sentence of l tokens, int(ratio l) draws of a 'token', with
    replacement, or a 'span' of as many neighbours; of all its tokens int(ratio d) 'feature's, which
    leaves every token seen.
    """
    n, t, d = x.shape
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    if kind == 'feature':
        order = jax.vmap(lambda key: jax.random.permutation(key, d))(keys)  # [n, d]
        return jnp.where((order < int(ratio * d))[:, None], 0, x), mask
    length = mask.sum(1)  # [n]
    # from a table, so that it is Python's int in any precision
    number = jnp.asarray([int(ratio * tokens) for tokens in range(t + 1)])[length]  # [n]
    place = jnp.arange(t)
    if kind == 'token':
        most = int(ratio * t)
        draw = lambda key, length: jax.random.randint(key, (most,), 0, jnp.maximum(length, 1))
        drawn = jax.vmap(draw)(keys, length)  # [n, most]
        counted = np.arange(most) < number[:, None]
        cut = ((drawn[..., None] == place) & counted[..., None]).any(1)  # [n, t]
    else:
        draw = lambda key, last: jax.random.randint(key, (), 0, last + 1)
        start = jax.vmap(draw)(keys, length - number)[:, None]  # [n, 1]
        cut = (start <= place) & (place < start + number[:, None])
    return jnp.where(cut[..., None], 0, x), mask & ~cut
