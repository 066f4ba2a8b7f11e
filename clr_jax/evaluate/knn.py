"""Weighted nearest neighbours (Wu et al., 2018; arXiv:1805.01978): no training, the cheapest honest
look at features."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.networks import normalize


class Knn(NamedTuple):
    """Cosine similarity s to every training example; the k nearest vote for their class with weight
    exp(s / temperature)."""

    version: int = 1
    k: int = 20
    temperature: float = 0.1


def knn(protocol: Knn, train, test, classes: int, seed: int = 0) -> dict:
    """-> {'top1': fraction of test examples whose label wins the vote}. train, test: `Features`.

    With fewer than k training examples all of them vote. `seed` is not used: nothing is random.
    """
    k = min(protocol.k, len(train.h))
    bank, labels = normalize(jnp.asarray(train.h)), jnp.asarray(train.label)
    votes = [_vote(h, bank, labels, k, protocol.temperature, classes) for h in _chunks(test.h, 512)]
    guess = np.concatenate([np.asarray(v) for v in votes])[: len(test.h)]
    return {'top1': float((guess == test.label).mean())}


@partial(jax.jit, static_argnames=('k', 'classes'))
def _vote(h, bank, labels, k, temperature, classes):
    """h [m, d], bank [n, d] unit rows, labels [n] -> [m] the winning class."""
    similarity, neighbours = nearest(normalize(h) @ bank.T, k)  # [m, k]
    weight = jnp.exp((similarity - similarity[:, :1]) / temperature)
    row = jnp.arange(len(h))[:, None]
    votes = jnp.zeros((len(h), classes)).at[row, labels[neighbours]].add(weight)
    return votes.argmax(1)


def nearest(similarity, k: int, block: int = 64):
    """The k largest of each row of [m, n] and their columns, exactly, as `lax.top_k`, in two short
    sorts.

    The k largest lie in the k blocks of columns with the largest maxima: much
    faster than one long sort on a CPU.
    """
    m, n = similarity.shape
    if n <= 2 * k * block:
        return jax.lax.top_k(similarity, k)
    padded = jnp.pad(similarity, ((0, 0), (0, -n % block)), constant_values=-jnp.inf)
    blocks = padded.reshape(m, -1, block)  # [m, n / block, block]
    best = jnp.sort(jax.lax.top_k(blocks.max(-1), k)[1])  # [m, k] blocks, in order of columns
    inside = jnp.take_along_axis(blocks, best[..., None], 1).reshape(m, -1)  # [m, k * block]
    values, places = jax.lax.top_k(inside, k)  # [m, k]
    return values, jnp.take_along_axis(best, places // block, 1) * block + places % block


def _chunks(h, rows: int):
    """Pieces of `rows` rows, the last padded with zeros, so that one compiled program serves all."""
    for i in range(0, len(h), rows):
        piece = h[i : i + rows]
        yield np.pad(piece, ((0, rows - len(piece)), (0, 0)))
