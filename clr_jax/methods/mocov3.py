"""MoCo v3 (Chen et al., 2021; arXiv:2104.02057): momentum contrast without a queue, its negatives
the keys of the batch, with a predictor on the query's side."""

from typing import Any, NamedTuple

import jax

from clr_jax import networks
from clr_jax.heads import MLP
from clr_jax.losses.contrastive import info_nce
from clr_jax.method import Aux, Method, check_views, ema, features, rising
from clr_jax.networks import Network, normalize


class MoCoV3State(NamedTuple):
    stats: Any  # batch statistics of encoder, projector and predictor
    target: Any  # parameters of the key encoder and projector, an average of past params
    target_stats: Any


def mocov3(
    encoder,
    *,
    projector=(4096, 256),
    predictor=(4096, 256),
    predictor_norm=None,
    temperature=1.0,
    momentum=0.99,
    bn_groups=1,
    dtype=None,
) -> Method:
    """projector: two layers for a ResNet, three for a ViT. predictor_norm: of its last layer, None
    for a ResNet, 'plain' for a ViT. momentum: at the start; it rises to 1 by half a cosine.

    The loss is the paper's, 2 temperature InfoNCE, summed over both directions. A ViT's patch
    projection stays at its random initialisation: a group with `frozen` in the config.
    """
    head = {'kernel_std': 0.0, 'bn_groups': bn_groups, 'dtype': dtype}
    project = MLP(tuple(projector), last_norm='plain', **head)
    predict = MLP(tuple(predictor), last_norm=predictor_norm, **head)
    network, target = Network(encoder, project, predict), Network(encoder, project)

    def init(key, batch, pretrained=None):
        check_views(batch, 2)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        slow = ({n: tree[n] for n in tree if n != 'predictor'} for tree in (params, stats))
        return params, MoCoV3State(stats, *slow)

    def loss(params, state, batch, *, key, time):
        views, apart = batch['views'], {'key': key, 'joint': False}
        queries, stats = networks.apply_views(network, params, state.stats, views, **apart)
        keys, target_stats = networks.apply_views(
            target, state.target, state.target_stats, views, **apart
        )
        q = [normalize(query.p) for query in queries]  # [b, d] each
        k = [normalize(jax.lax.stop_gradient(key.z)) for key in keys]
        contrast = lambda q, k: 2 * temperature * info_nce(q, k, temperature)
        value = contrast(q[0], k[1]) + contrast(q[1], k[0])
        out = networks.stack(queries)
        state = state._replace(stats=stats, target_stats=target_stats)
        return value, Aux(state, {}, out.h, out.z)

    def update(params, state, *, key, time):
        slow = {name: params[name] for name in state.target}
        m = rising(momentum, time.progress)
        return params, state._replace(target=ema(state.target, slow, m))

    return Method(init, loss, features(network), update)
