"""NNCLR (Dwibedi et al., 2021; arXiv:2104.14548): the positive is the nearest neighbour of the
other view, from a queue of past embeddings."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax import networks, parallel
from clr_jax.heads import MLP
from clr_jax.losses.contrastive import info_nce
from clr_jax.method import Aux, Method, check_views, features
from clr_jax.networks import Network, normalize


class NNCLRState(NamedTuple):
    stats: Any  # batch statistics
    queue: jax.Array  # [K, d] unit projections of past first views
    cursor: jax.Array  # [] where the next goes


def nnclr(
    encoder,
    *,
    projector=(2048, 2048, 256),
    predictor=(4096, 256),
    temperature=0.1,
    queue_size=98304,
    transposed=False,
    bn_groups=1,
    dtype=None,
) -> Method:
    """Half the sum of both directions; the negatives of a neighbour are the other predictions of
    the batch. transposed: also tell each prediction's neighbour from the other neighbours, as the
    official code is said to do.
    """
    head = {'kernel_std': 0.0, 'bn_groups': bn_groups, 'dtype': dtype}
    project = MLP(tuple(projector), last_norm='full', **head)
    predict = MLP(tuple(predictor), last_norm=None, last_bias=True, **head)
    network = Network(encoder, project, predict)

    def init(key, batch, pretrained=None):
        check_views(batch, 2)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        queue = jax.random.normal(jax.random.fold_in(key, 1), (queue_size, projector[-1]))
        queue = normalize(queue)  # [K, d]
        return params, NNCLRState(stats, queue, jnp.zeros((), jnp.int32))

    def loss(params, state, batch, *, key, time):
        views, stats = networks.apply_views(network, params, state.stats, batch['views'], key=key)
        z1, z2 = (normalize(jax.lax.stop_gradient(view.z)) for view in views)  # [b, d]
        p1, p2 = (normalize(view.p) for view in views)

        def neighbour(z):  # [b, d] -> [b, d]
            return parallel.take(state.queue, parallel.score(state.queue, z).argmax(1))

        def contrast(nn, p):
            value = info_nce(nn, p, temperature)
            return value + info_nce(p, nn, temperature) if transposed else value

        value = (contrast(neighbour(z1), p2) + contrast(neighbour(z2), p1)) / 2
        queue, cursor = parallel.enqueue(state.queue, state.cursor, z1)  # [K, d]
        out = networks.stack(views)
        return value, Aux(NNCLRState(stats, queue, cursor), {}, out.h, out.z)

    return Method(init, loss, features(network))
