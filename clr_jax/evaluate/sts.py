"""Semantic textual similarity (Cer et al., 2017; arXiv:1708.00055): do cosines of sentences rank pairs
as people do?"""

import numpy as np


def sts(first, second, score) -> dict:
    """-> {'spearman': -1 to 1}: the rank correlation of the cosine similarities of sentences [n, d]
    and [n, d], row by row a pair, with the scores [n] of the pairs, all pairs at once."""
    first, second = (np.asarray(x, np.float64) for x in (first, second))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosine = (first * second).sum(1) / np.maximum(lengths, 1e-12)
    return {'spearman': spearman(cosine, score)}


def spearman(x, y) -> float:
    """Rank correlation of x [n] and y [n]: Pearson's of their ranks, equal values having the mean of
    theirs. NaN where all of x or all of y are equal."""
    x, y = (ranks(np.asarray(values, np.float64)) for values in (x, y))
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / scale) if scale else float('nan')


def ranks(x):
    """The rank of each of x [n], from 1; equal values have the mean of theirs."""
    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]
