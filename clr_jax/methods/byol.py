"""BYOL (Grill et al., 2020; arXiv:2006.07733): predict what a slowly moving copy of the network
says of the other view. There are no negatives."""

from typing import Any, NamedTuple

import jax

from clr_jax import networks
from clr_jax.heads import MLP
from clr_jax.losses.siamese import negative_cosine
from clr_jax.method import Aux, Method, check_views, crossed, ema, features, rising
from clr_jax.networks import Network


class BYOLState(NamedTuple):
    stats: Any  # batch statistics of the online network
    target: Any  # parameters of the target network, an average of past params
    target_stats: Any  # its own batch statistics, not an average


def byol(
    encoder,
    *,
    projector=(4096, 256),
    predictor=(4096, 256),
    momentum=0.996,
    bn_groups=1,
    dtype=None,
) -> Method:
    """predictor: () leaves it out, and the method collapses (table 5). momentum: of the target at
    the start; it rises to 1 by half a cosine. dtype: of the heads' computation.

    The target begins with random parameters of its own, not with a copy, and each view passes
    alone, as in the official code; with multi-crop, each resolution. Then all crops predict the
    target's first two.
    """
    shape = {'bias': True, 'last_norm': None, 'kernel_std': 0.0}
    head = shape | {'bn_groups': bn_groups, 'dtype': dtype}
    predict = MLP(tuple(predictor), **head) if predictor else None
    network = Network(encoder, MLP(tuple(projector), **head), predict)

    def init(key, batch, pretrained=None):
        check_views(batch, 2, more=True)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        other = jax.random.fold_in(key, 1)
        return params, BYOLState(stats, *networks.init(network, other, batch['views'][0]))

    def loss(params, state, batch, *, key, time):
        views = batch['views']
        how = {'key': key, 'joint': len(views) > 2}
        online, stats = networks.apply_views(network, params, state.stats, views, **how)
        targets, target_stats = networks.apply_views(
            network, state.target, state.target_stats, views[:2], **how
        )
        z = [jax.lax.stop_gradient(target.z) for target in targets]  # [b, e] each
        pairs = crossed(len(views))
        distance = sum(2 + 2 * negative_cosine(online[j].p, z[i]) for i, j in pairs)
        value = 2 * distance / len(pairs)  # of two views: of both directions
        out = networks.stack(online[:2])
        state = state._replace(stats=stats, target_stats=target_stats)
        return value, Aux(state, {}, out.h, out.z)

    def update(params, state, *, key, time):
        m = rising(momentum, time.progress)
        return params, state._replace(target=ema(state.target, params, m))

    return Method(init, loss, features(network), update)
