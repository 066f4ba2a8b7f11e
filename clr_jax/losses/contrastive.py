"""Losses that tell a positive from the negatives of the global batch.

Each takes this shard's rows and returns their mean; negatives are gathered from every shard, with
their gradients. Outside a mesh the arrays given are the whole batch:

>>> z = jax.random.normal(jax.random.key(0), (8, 2, 16))  # 8 examples, 2 views, 16 dimensions
>>> nt_xent(z, temperature=0.1).shape
()
"""

import jax
import jax.numpy as jnp
import optax

from clr_jax import parallel
from clr_jax.networks import normalize


def nt_xent(z, temperature=0.1, *, normalized=True, constant='paper'):
    """Normalised temperature-scaled cross entropy (Chen et al., 2020, eq. 1). z: [b, 2, d].

    z holds two views of each example. The mean over all 2B views of -log exp(s_ij / t) / sum_{k !=
    i} exp(s_ik / t), s the cosine similarity (`normalized=False`: the dot product), j the other
    view, k over the 2B - 1 other views of the global batch. constant='paper' is that mean;
    'official' is the official code's sum of the two directions, twice as large. It matters where
    the loss's scale does: weight decay against LARS, and the step of biases and norms, which LARS
    does not adapt.
    """
    rows, keys, siblings, itself = _against_all(z, normalized)
    logits = jnp.where(itself, -jnp.inf, rows @ keys.T / temperature)  # [2b, 2B]
    errors = optax.softmax_cross_entropy_with_integer_labels(logits, siblings)  # [2b]
    return _constant(constant) * errors.mean()


def nt_logistic(z, temperature=0.1, *, normalized=True):
    """Logistic loss of positives and negatives (Chen et al., 2020, table 2). z: [b, 2, d].

    -log sigmoid(s+ / t) - mean over the 2B - 2 negatives of log sigmoid(-s- / t), mean over the 2B
    views. The paper does not say how the negatives are weighted; a mean keeps the two terms equally
    heavy at any batch size.
    """
    rows, keys, siblings, itself = _against_all(z, normalized)
    logits = rows @ keys.T / temperature  # [2b, 2B]
    positive = siblings[:, None] == jnp.arange(len(keys))
    attract = jnp.where(positive, -jax.nn.log_sigmoid(logits), 0).sum(1)  # [2b]
    repel = jnp.where(positive | itself, 0, -jax.nn.log_sigmoid(-logits)).sum(1)  # [2b]
    return (attract + repel / (len(keys) - 2)).mean()


def info_nce(query, key, temperature=0.1, *, negatives=None):
    """InfoNCE (van den Oord et al., 2018, eq. 4). query, key: [b, d], row by row a positive pair.

    The candidates of a query are the keys of the global batch, or its own key and the rows of
    `negatives` [K, d]. Rows are used as they are: pass unit vectors for cosine similarities.
    """
    query, key = _wide(query), _wide(key)
    if negatives is None:
        logits, target = query @ parallel.gather(key).T, parallel.positions(len(query))  # [b, B]
    else:
        positive = jnp.sum(query * key, -1, keepdims=True)  # [b, 1]
        logits = jnp.concatenate([positive, query @ negatives.T], -1)  # [b, 1 + K]
        target = jnp.zeros(len(query), jnp.int32)
    return optax.softmax_cross_entropy_with_integer_labels(logits / temperature, target).mean()


def mutual_information_bound(loss, candidates: int):
    """log N - L, in nats: what an InfoNCE loss L over N candidates, one of them positive, shows.

    A lower bound, in expectation, of the mutual information of the two sides (van den Oord et al.,
    2018, eq. 5). It can never exceed its ceiling log N, however much information there is.
    """
    return jnp.log(candidates) - loss


def _against_all(z, normalized):
    """z [b, 2, d] -> its rows [2b, d], all rows [2B, d], each row's sibling [2b], and where a row
    meets itself [2b, 2B]."""
    b, views, d = z.shape
    if views != 2:
        raise ValueError(
            f'this loss is defined on two views of each example, [b, 2, d]; got {z.shape}'
        )
    z = normalize(z) if normalized else _wide(z)
    # example-major: the sibling of row r is r ^ 1
    keys = parallel.gather(z).reshape(-1, d)  # [2B, d]
    numbers = parallel.positions(2 * b)  # [2b]
    return z.reshape(-1, d), keys, numbers ^ 1, numbers[:, None] == jnp.arange(len(keys))


def _wide(x):
    """In float32 at least: similarities enter an exponential."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _constant(name):
    if name not in ('paper', 'official'):
        raise ValueError(
            f'constant={name!r}: "paper" (mean over views) or "official" (sum of both directions)'
        )
    return {'paper': 1.0, 'official': 2.0}[name]
