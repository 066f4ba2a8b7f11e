"""Assignment of rows to clusters: equally, by Sinkhorn's iterations; nearest first, by k-means; and
the whitening that DeepCluster puts before it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from clr_jax import parallel
from clr_jax.entry import Problem
from clr_jax.networks import wide

PERTURBATION = 1 / 1024  # of the halves of a cluster, as in faiss
DEAD = 1e-10  # variance of a direction, of the greatest one's, that float32 features do not have


def sinkhorn(scores, epsilon=0.05, iterations=3, others=None):
    """Codes [b, K] of this shard's rows, which sum to 1: the rows of the global batch share the K
    prototypes equally (Caron et al., 2020; arXiv:2006.09882, section 3.1). No gradient.

    exp(scores / epsilon), normalised `iterations` times over the rows for each prototype, then over
    the prototypes for each row (Cuturi, 2013; arXiv:1306.0895). scores: [b, K]. others: [q, K] of
    rows that are the same on every shard, such as a queue's: they take their share, and are not
    returned. float32 holds scores that differ by no more than 70 epsilon.
    """
    scores = wide(lax.stop_gradient(scores))
    shared = scores[:0] if others is None else wide(lax.stop_gradient(others))  # [q, K]
    highest = parallel.highest(scores.max())
    codes, shared = (jnp.exp((x - highest) / epsilon) for x in (scores, shared))
    for _ in range(iterations):
        taken = parallel.total(codes.sum(0)) + shared.sum(0)  # [K], those of a queue once
        codes, shared = (x / taken for x in (codes, shared))
        codes, shared = (x / x.sum(1, keepdims=True) for x in (codes, shared))
    return codes  # [b, K]


def kmeans(x, start, iterations, spherical=False, chunk=4096):
    """Lloyd's k-means of whole arrays -> (centroids [k, d], the nearest one's number of each row [n]
    int32), after `iterations` moves of the centroids. x: [n, d]; start: [k, d] centroids.

    Distances are of `chunk` rows at a time, any n: the last chunk reaches back. An empty cluster
    takes half of what is then the largest, whose centroid it shares up to a perturbation (faiss; as
    DeepCluster, section 4.1, arXiv:1807.05520, which splits a random one).

    spherical: of unit rows, by dot products; centroids are unit, an empty cluster's stays, and rows
    that are all zero, as yet unseen, count for nothing and have label -1 (the official code of
    DeepCluster v2).
    """
    x, start = wide(x), wide(start)
    n, (k, d) = len(x), start.shape
    chunk = min(chunk, n)
    exact = lax.Precision.HIGHEST

    def assign(centroids):  # -> label [n], sums [k, d], counts [k]
        # the nearest has the greatest x.c - |c|^2 / 2
        offset = 0 if spherical else jnp.square(centroids).sum(1) / 2  # [k]

        def one(number, found):
            label, sums, counts = found
            first = jnp.minimum(number * chunk, n - chunk)
            rows = lax.dynamic_slice_in_dim(x, first, chunk)  # [chunk, d]
            near = jnp.matmul(rows, centroids.T, precision=exact) - offset  # [chunk, k]
            nearest = near.argmax(1).astype(jnp.int32)
            if spherical:
                nearest = jnp.where((rows != 0).any(1), nearest, -1)
            label = lax.dynamic_update_slice_in_dim(label, nearest, first, 0)
            new = first + jnp.arange(chunk) >= number * chunk
            # -1 is no class: a row of zeros
            member = jax.nn.one_hot(jnp.where(new, nearest, -1), k, dtype=x.dtype)  # [chunk, k]
            sums += jnp.matmul(member.T, rows, precision=exact)
            return label, sums, counts + member.sum(0)

        blank = jnp.full(n, -1, jnp.int32), jnp.zeros((k, d), x.dtype), jnp.zeros(k, x.dtype)
        return lax.fori_loop(0, -(-n // chunk), one, blank)

    def move(_, centroids):
        _, sums, counts = assign(centroids)
        mean = sums / jnp.maximum(counts, 1)[:, None]
        if not spherical:
            return _split(mean, counts)
        length = jnp.linalg.norm(mean, axis=1, keepdims=True)
        return jnp.where(length > 0, mean / jnp.where(length > 0, length, 1), centroids)

    centroids = lax.fori_loop(0, iterations, move, start.astype(x.dtype))
    return centroids, assign(centroids)[0]


def _split(centroids, counts):
    """Centroids [k, d] with those of empty clusters replaced by halves of the largest."""
    shift = PERTURBATION * (-1.0) ** jnp.arange(centroids.shape[1], dtype=centroids.dtype)  # [d]

    def one(carry):
        centroids, counts = carry
        empty, largest = counts.argmin(), counts.argmax()
        parent, half = centroids[largest], counts[largest] / 2
        centroids = centroids.at[empty].set(parent * (1 + shift))
        centroids = centroids.at[largest].set(parent * (1 - shift))
        return centroids, counts.at[empty].set(half).at[largest].set(half)

    return lax.while_loop(lambda carry: carry[1].min() == 0, one, (centroids, counts))[0]


def pca_whiten(x, dimensions: int, chunk: int = 16384) -> np.ndarray:
    """The first `dimensions` principal components of the rows x [n, d], each divided by its standard
    deviation, then unit rows [n, dimensions] float32 (DeepCluster; Caron et al., 2018;
    arXiv:1807.05520, section 4.1). NumPy; sums in float64.

    Of features with fewer directions than that, those that there are: [n, their number]. Raises
    Problem where all rows are the same.
    """
    chunks = [slice(i, i + chunk) for i in range(0, len(x), chunk)]
    mean = sum(x[rows].sum(0, dtype=np.float64) for rows in chunks) / len(x)  # [d]
    centred = lambda rows: x[rows].astype(np.float64) - mean
    covariance = sum(y.T @ y for y in map(centred, chunks)) / len(x)  # [d, d]
    variance, axes = np.linalg.eigh(covariance)  # in ascending order
    kept = [i for i in range(len(variance))[::-1] if variance[i] > DEAD * variance[-1]]
    if not kept or variance[-1] <= 0:
        raise Problem('the features of all examples are the same: the encoder has collapsed')
    kept = kept[:dimensions]
    onto = axes[:, kept] / np.sqrt(variance[kept])  # [d, dimensions]

    def unit(rows):
        y = centred(rows) @ onto
        return (y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-12)).astype(np.float32)

    return np.concatenate([unit(rows) for rows in chunks])
