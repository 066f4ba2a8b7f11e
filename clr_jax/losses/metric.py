"""Losses of distances: pairs and triplets with a margin, mined or given, and their softmax form.

Each takes this shard's rows and returns their mean, as the losses in `contrastive.py` do; what is
mined comes from the global batch, with its gradients.
"""

import jax.numpy as jnp

from clr_jax import parallel
from clr_jax.losses.contrastive import info_nce
from clr_jax.networks import wide


def contrastive(x, y, same, margin=1.0):
    """Contrastive loss of pairs (Hadsell et al., 2006, eq. 4). x, y: [b, d], same: [b] bool.

    The mean over pairs of d^2 where they are the same, else of max(0, margin - d)^2; d is the
    Euclidean distance. Without the paper's factor of one half.

    >>> same = jnp.array([True, False])
    >>> print(contrastive(jnp.zeros((2, 2)), jnp.array([[1.0, 0.0], [0.0, 0.5]]), same))
    0.625
    """
    square = _square(wide(x), wide(y))  # [b]
    apart = square > 0  # the root has no gradient at 0; there we take 0
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)
    return jnp.where(same, square, jnp.maximum(margin - distance, 0) ** 2).mean()


def triplet(anchor, positive, negative, margin=0.2):
    """Triplet loss of given triplets (Schroff et al., 2015; arXiv:1503.03832). All: [b, d].

    The mean over rows of max(0, |a - p|^2 - |a - n|^2 + margin).

    >>> print(triplet(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 0.5]])))
    0.95
    """
    anchor, positive, negative = wide(anchor), wide(positive), wide(negative)
    excess = _square(anchor, positive) - _square(anchor, negative) + margin  # [b]
    return jnp.maximum(excess, 0).mean()


def triplet_mined(z, label, margin=0.2, *, mining='all'):
    """Triplet loss of the triplets that a labelled batch has. z: [b, d], label: [b], -1: left out.

    The anchors are this shard's rows; positives, rows of the same label, and negatives, of another,
    come from the global batch. A triplet costs max(0, |a - p|^2 - |a - n|^2 + margin). mining:

    - all: the mean over all triplets;
    - hard: the farthest positive with the nearest negative of each anchor (Hermans et al., 2017,
      eq. 5, with squared distances), the mean over the anchors that have both;
    - semi_hard: every positive with the nearest negative that is farther, or the farthest one if
      none is (Schroff et al., 2015), the mean over all pairs of an anchor that has a negative.

    Means are over the terms of the global batch, also those that cost 0; without any the loss is 0.
    'all' and 'semi_hard' take memory for b B^2 numbers.

    >>> z, label = jnp.array([[0.0], [2.0], [1.0], [3.0]]), jnp.array([0, 0, 1, 1])
    >>> [f'{triplet_mined(z, label, mining=how):.1f}' for how in ('all', 'hard', 'semi_hard')]
    ['2.4', '3.2', '1.6']
    """
    if mining not in ('all', 'hard', 'semi_hard'):
        raise ValueError(f'mining={mining!r}: "all", "hard" or "semi_hard" triplets')
    z = wide(z)
    keys, labels = parallel.gather(z), parallel.gather(label)  # [B, d], [B]
    distance = _square(z[:, None], keys)  # [b, B]
    itself = parallel.positions(len(z))[:, None] == jnp.arange(len(keys))
    same, known = label[:, None] == labels, (label[:, None] >= 0) & (labels >= 0)
    positive, negative = same & known & ~itself, ~same & known  # [b, B]
    nearest = jnp.where(negative, distance, jnp.inf)
    farthest = jnp.where(negative, distance, -jnp.inf)
    to_positive, to_negative = distance[:, :, None], distance[:, None, :]
    if mining == 'all':
        valid = positive[:, :, None] & negative[:, None, :]  # [b, B, B]
    elif mining == 'hard':
        to_positive = jnp.where(positive, distance, -jnp.inf).max(1)  # [b]
        to_negative = nearest.min(1)
        valid = positive.any(1) & negative.any(1)
    else:
        farther = jnp.where(to_negative > to_positive, nearest[:, None, :], jnp.inf).min(
            2
        )  # [b, B]
        to_positive = distance
        to_negative = jnp.where(farther < jnp.inf, farther, farthest.max(1, keepdims=True))
        valid = positive & negative.any(1, keepdims=True)
    cost = jnp.where(valid, jnp.maximum(to_positive - to_negative + margin, 0), 0)
    # per shard, so that a mean over shards is right
    return cost.sum() * parallel.size() / jnp.maximum(parallel.total(valid.sum()), 1)


def n_pair(query, key, *, l2=0.0):
    """N-pair loss (Sohn, 2016). query, key: [b, d], row by row a positive pair.

    The mean over rows of log(1 + sum_{j != i} exp(q_i.k_j - q_i.k_i)), j over the global batch:
    InfoNCE of dot products at temperature 1. Rows are not normalised, and l2 times the mean over
    rows of |q|^2 + |k|^2 is added to keep them short.

    >>> print(f'{n_pair(jnp.zeros((8, 4)), jnp.eye(8, 4)):.4f}, log 8 is {jnp.log(8):.4f}')
    2.0794, log 8 is 2.0794
    """
    length = (wide(query) ** 2 + wide(key) ** 2).sum(-1).mean()
    return info_nce(query, key, 1.0) + l2 * length


def _square(x, y):
    """Squared distances of rows [..., d], exact where they are close."""
    return jnp.sum((x - y) ** 2, -1)
