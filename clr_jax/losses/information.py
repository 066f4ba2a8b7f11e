"""The mutual information of wholes and their parts (Hjelm et al., 2019; Deep InfoMax,
arXiv:1808.06670), exact over the global batch."""

import jax.numpy as jnp
from jax.nn import softplus  # -log sigmoid(-x)

from clr_jax import parallel
from clr_jax.networks import wide


def jensen_shannon(parts, whole, there):
    """Minus the Jensen-Shannon estimator of the information between parts and their whole (Hjelm et
    al., eq. 4; Zhang et al., 2020, arXiv:2009.12061, eq. 3).

    parts: [b, m, d], of which `there` [b, m] (bool) exist, whole: [b, d]. With the score s, the dot
    product of a part and a whole: the mean over all parts of the global batch of -log sigmoid(s) of
    its own whole plus the mean over the B - 1 other wholes of -log sigmoid(-s). log 2 minus half of
    it is a lower bound of the divergence of pairs that belong together from any others.

    >>> parts, whole, there = jnp.zeros((8, 3, 4)), jnp.ones((8, 4)), jnp.ones((8, 3), bool)
    >>> print(f'{jensen_shannon(parts, whole, there):.4f}, 2 log 2 is {2 * jnp.log(2):.4f}')
    1.3863, 2 log 2 is 1.3863
    """
    parts, every = wide(parts), parallel.gather(wide(whole))  # [b, m, d], [B, d]
    scores = jnp.einsum('bmd,nd->bmn', parts, every)  # [b, m, B]
    own = parallel.positions(len(parts))[:, None, None] == jnp.arange(len(every))
    errors = softplus(jnp.where(own, -scores, scores)) / jnp.where(own, 1, max(len(every) - 1, 1))
    # per shard, so that a mean over shards is right
    count = jnp.maximum(parallel.total(there.sum()), 1) / parallel.size()
    return jnp.where(there[..., None], errors, 0).sum() / count
