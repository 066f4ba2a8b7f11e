"""SimSiam (Chen & He, 2020; arXiv:2011.10566): each view predicts the other, whose gradient is
stopped. There are no negatives and no momentum."""

import jax

from clr_jax import networks
from clr_jax.heads import MLP
from clr_jax.losses.siamese import negative_cosine
from clr_jax.method import Aux, Method, State, check_views, features
from clr_jax.networks import Network


def simsiam(
    encoder,
    *,
    projector=(2048, 2048, 2048),
    predictor=(512, 2048),
    stop_gradient=True,
    bn_groups=1,
    dtype=None,
) -> Method:
    """projector: three layers on ImageNet, two on CIFAR-10. predictor: its bottleneck and output.
    stop_gradient: without it the method collapses (section 4.1). dtype: of the heads' computation.

    The predictor's constant learning rate is a group of the config.
    """
    head = {'kernel_std': 0.0, 'bn_groups': bn_groups, 'dtype': dtype}
    project = MLP(tuple(projector), last_norm='plain', **head)
    predict = MLP(tuple(predictor), last_norm=None, last_bias=True, **head)
    network = Network(encoder, project, predict)

    def init(key, batch, pretrained=None):
        check_views(batch, 2)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        views, stats = networks.apply_views(
            network, params, state.stats, batch['views'], key=key, joint=False
        )
        (_, z1, p1), (_, z2, p2) = views  # [b, e] each
        stop = jax.lax.stop_gradient if stop_gradient else lambda z: z
        value = (negative_cosine(p1, stop(z2)) + negative_cosine(p2, stop(z1))) / 2
        out = networks.stack(views)
        return value, Aux(State(stats), {}, out.h, out.z)

    return Method(init, loss, features(network))
