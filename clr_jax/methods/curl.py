"""CURL (Laskin et al., 2020; arXiv:2004.04136): two crops of a stack of frames find each other among
the batch by a learned bilinear similarity, the second seen by a slow copy of the encoder."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax import networks
from clr_jax.losses.contrastive import bilinear, info_nce
from clr_jax.method import Aux, Method, check_views, ema
from clr_jax.networks import Network


class CURLState(NamedTuple):
    stats: Any  # batch statistics of the encoder, if it has any
    target: Any  # parameters of the key encoder, an average of past params
    target_stats: Any


def curl(encoder, *, momentum=0.95, update_every=2, scale=1.0, bn_groups=1) -> Method:
    """momentum: of the key encoder, which moves at every `update_every`-th step. scale: of the logits
    (0.1 in the authors' code for Atari). No normalisation, one direction, as in the authors' code;
    there the key encoder is the critic's, which moves likewise. `bn_groups`: every method is given it;
    here only the encoder may have batch norm.
    """
    network = Network(encoder)

    def init(key, batch, pretrained=None):
        check_views(batch, 2)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        params = dict(params)
        d = jax.eval_shape(lambda: networks.evaluate(network, params, stats, batch['views'][0])).h
        similarity = jax.random.uniform(jax.random.fold_in(key, 1), (d.shape[-1],) * 2)
        return params | {'similarity': similarity}, CURLState(stats, params, stats)

    def of_network(params):
        return {name: part for name, part in params.items() if name != 'similarity'}

    def loss(params, state, batch, *, key, time):
        x, positive = batch['views']
        query, stats = networks.apply(network, of_network(params), state.stats, x, key=key)
        own = jax.random.fold_in(key, 1)
        out, target_stats = networks.apply(
            network, state.target, state.target_stats, positive, key=own
        )
        k = jax.lax.stop_gradient(out.z)  # [b, d]
        value = info_nce(query.z, k, 1 / scale, score=bilinear(params['similarity']))
        predicted = jax.lax.stop_gradient(query.z @ params['similarity'])  # [b, d]
        state = state._replace(stats=stats, target_stats=target_stats)
        return value, Aux(state, {}, query.h[:, None], jnp.stack([predicted, k], 1))

    def update(params, state, *, key, time):
        moved = ema(state.target, of_network(params), momentum)
        due = time.step % update_every == 0
        target = jax.tree.map(lambda new, old: jnp.where(due, new, old), moved, state.target)
        return params, state._replace(target=target)

    def features(params, state, batch):
        out = networks.evaluate(network, of_network(params), state.stats, batch['views'][0])
        return {'h': out.h, 'z': out.z}

    def variables(params, state):
        return {'params': of_network(params), 'batch_stats': state.stats}

    return Method(init, loss, features, update, variables)
