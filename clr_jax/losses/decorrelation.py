"""Losses that attract, and keep from collapse by the statistics of each dimension and each pair.

Each takes this shard's rows of two views, [b, d] as they are, not of unit length, and returns the
loss and a dict of its terms, before their weights. Statistics are those of the global batch, with
their gradients: shards exchange moments, [d] and [d, d], and no rows. Outside a mesh the arrays
given are the whole batch.
"""

import jax
import jax.numpy as jnp
from jax import lax

from clr_jax import parallel
from clr_jax.networks import wide


def barlow_twins(z1, z2, weight=0.0051):
    """Redundancy reduction (Zbontar et al., 2021, eq. 1; arXiv:2103.03230). z1, z2: [b, d].

    C [d, d] is the correlation of each dimension of z1 with each of z2: rows are standardised over
    the batch with the biased variance + 1e-5, as by a batch norm. The sum of (1 - C_ii)^2
    ('on_diagonal') + weight times that of C_ij^2, i != j ('off_diagonal'). The paper's weight is
    0.005, the official code's 0.0051.

    >>> z = jnp.array([[1, 1], [1, -1], [-1, 1], [-1, -1.0]])  # two independent dimensions
    >>> loss, _ = barlow_twins(z, z)
    >>> collapsed, _ = barlow_twins(jnp.ones((4, 2)), jnp.ones((4, 2)))
    >>> print(f'{loss:.4f}, collapsed {collapsed:.4f}')
    0.0000, collapsed 2.0000
    """

    def standard(z):
        z = _centred(z)
        return z * lax.rsqrt(parallel.mean(jnp.square(z).mean(0)) + 1e-5)  # [b, d]

    correlation = parallel.mean(standard(z1).T @ standard(z2) / len(z1))  # [d, d]
    terms = {
        'on_diagonal': jnp.square(1 - jnp.diagonal(correlation)).sum(),
        'off_diagonal': _off_diagonal(correlation),
    }
    return terms['on_diagonal'] + weight * terms['off_diagonal'], terms


def vicreg(z1, z2, invariance=25.0, variance=25.0, covariance=1.0):
    """Variance-invariance-covariance regularisation (Bardes et al., 2022, eq. 1 to 6;
    arXiv:2105.04906). z1, z2: [b, d], of a global batch of B > 1.

    The weighted sum of 'invariance', the mean over rows and dimensions of (z1 - z2)^2; 'variance',
    the mean over the two views and their dimensions of max(0, 1 - sqrt(variance + 1e-4));
    'covariance', the sum over the two views of that of their covariances' squares off the diagonal
    / d. Variances and covariances are unbiased, by B - 1.

    This is the official code's: the paper's eq. 5 does not divide by d, and its eq. 6 sums both
    regularisers over the views, as solo-learn does, whose 25 of the variance is 50 here.

    >>> z = jnp.array([[1, 1], [1, -1], [-1, 1], [-1, -1.0]])  # two independent dimensions
    >>> loss, _ = vicreg(z, z)
    >>> collapsed, _ = vicreg(jnp.ones((4, 2)), jnp.ones((4, 2)))
    >>> print(f'{loss:.4f}, collapsed {collapsed:.4f}')
    0.0000, collapsed 24.7500
    """
    batch = len(z1) * parallel.size()

    def regularizers(z):
        z = _centred(z)
        moments = jnp.square(z).mean(0), z.T @ z / len(z)  # in one all-reduce
        own, pairs = (x * batch / (batch - 1) for x in parallel.mean(moments))  # [d], [d, d]
        return jax.nn.relu(1 - jnp.sqrt(own + 1e-4)).mean(), _off_diagonal(pairs) / len(own)

    (hinge1, squares1), (hinge2, squares2) = regularizers(z1), regularizers(z2)
    terms = {
        'invariance': jnp.square(wide(z1) - wide(z2)).mean(),
        'variance': (hinge1 + hinge2) / 2,
        'covariance': squares1 + squares2,
    }
    weights = invariance, variance, covariance
    return sum(w * term for w, term in zip(weights, terms.values(), strict=True)), terms


def _centred(z):
    """Rows [b, d] less their mean over the global batch, in float32 at least."""
    z = wide(z)
    return z - parallel.mean(z.mean(0))


def _off_diagonal(x):
    """The sum of the squares of [d, d] off its diagonal."""
    return jnp.where(jnp.eye(len(x), dtype=bool), 0, jnp.square(x)).sum()
