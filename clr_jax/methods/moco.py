"""Momentum Contrast (He et al., 2019; arXiv:1911.05722): a query finds its key among a queue of
keys from a slowly moving copy of the network. v2 (arXiv:2003.04297) differs in its config only."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax import networks, parallel
from clr_jax.heads import plain
from clr_jax.losses.contrastive import info_nce
from clr_jax.method import Aux, Method, check_views, ema, features
from clr_jax.networks import Network, normalize


class MoCoState(NamedTuple):
    stats: Any  # batch statistics of the query network
    target: Any  # parameters of the key network, an average of past params
    target_stats: Any  # its own batch statistics, not an average
    queue: jax.Array  # [K, d] unit keys of the last batches
    cursor: jax.Array  # [] where the next key goes


def moco(
    encoder,
    *,
    projector=(2048, 128),
    temperature=0.2,
    momentum=0.999,
    queue_size=65536,
    symmetric=False,
    bn_groups=1,
    dtype=None,
) -> Method:
    """projector: (128,) is v1's, two layers are v2's; without norms, as the official code.
    symmetric: both views are query and key in turn, the sum of both losses (the authors' CIFAR-10
    notebook).

    The official code normalises each device's rows alone, so that a query can recognise its key by
    the statistics they share; it therefore permutes the keys over the devices (shuffle-BN). Here
    the statistics are of the global batch, the same for whatever is a positive or a negative in it,
    and nothing needs to be permuted. With bn_groups above 1, the keys' rows are, as in the paper.
    """
    network = Network(encoder, plain(projector, dtype))

    def init(key, batch, pretrained=None):
        check_views(batch, 2)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        queue = jax.random.normal(jax.random.fold_in(key, 1), (queue_size, projector[-1]))
        queue = normalize(queue)  # [K, d]
        return params, MoCoState(stats, params, stats, queue, jnp.zeros((), jnp.int32))

    def keys_of(state, x, key):
        """-> unit keys of the views x [b, ...] without a gradient [b, d], new statistics."""
        shuffle = bn_groups > 1
        if shuffle:
            order = jax.random.permutation(key, len(x) * parallel.size())  # [B]
            x = parallel.exchange(x, order)  # [b, ...]
        out, stats = networks.apply(network, state.target, state.target_stats, x, key=key)
        z = jax.lax.stop_gradient(out.z)
        z = parallel.exchange(z, jnp.argsort(order)) if shuffle else z
        return normalize(z), stats  # [b, d]

    def loss(params, state, batch, *, key, time):
        queries, value, keys = [], 0.0, []
        for number, (x, other) in enumerate([(0, 1), (1, 0)] if symmetric else [(0, 1)]):
            own = jax.random.fold_in(key, number)
            query, stats = networks.apply(network, params, state.stats, batch['views'][x], key=own)
            k, target_stats = keys_of(state, batch['views'][other], jax.random.fold_in(own, 1))
            value += info_nce(normalize(query.z), k, temperature, negatives=state.queue)
            state = state._replace(stats=stats, target_stats=target_stats)
            queries.append(query)
            keys.append(k)
        queue, cursor = state.queue, state.cursor
        for k in keys:  # after the loss: no query meets its own key as a negative
            queue, cursor = parallel.enqueue(queue, cursor, k)  # [K, d]
        state = state._replace(queue=queue, cursor=cursor)
        h = networks.stack(queries).h  # [b, 1 or 2, d]
        z = jnp.stack([queries[0].z, keys[0]], 1)  # [b, 2, e]
        return value, Aux(state, {}, h, z)

    def update(params, state, *, key, time):
        return params, state._replace(target=ema(state.target, params, momentum))

    return Method(init, loss, features(network), update)
