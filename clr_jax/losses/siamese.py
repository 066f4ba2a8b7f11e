"""Losses that only attract; what keeps them from collapse is in the method."""

from clr_jax.networks import normalize


def negative_cosine(prediction, target):
    """Minus the cosine of each row of `prediction` [b, d] and its row of `target` [b, d], mean over
    rows; in -1..1 (Chen & He, 2020, eq. 1).

    BYOL's regression of unit vectors, |p - z|^2, is 2 + 2 times as much (Grill et al., 2020, eq. 2).

    >>> p, z = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> bool(abs(negative_cosine(p, z)) < negative_cosine(p, -p) == 1)
    True
    """
    return -(normalize(prediction) * normalize(target)).sum(-1).mean()
