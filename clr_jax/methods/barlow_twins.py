"""Barlow Twins (Zbontar et al., 2021; arXiv:2103.03230): the two views' embeddings agree in each
dimension, and no dimension repeats another. There are no negatives and no asymmetry."""

from clr_jax import networks
from clr_jax.entry import Problem
from clr_jax.heads import MLP
from clr_jax.losses import decorrelation
from clr_jax.method import Aux, Method, State, check_views, features
from clr_jax.networks import Network


def barlow_twins(
    encoder,
    *,
    projector=(8192, 8192, 8192),
    weight=0.0051,
    reference_world_size=1,
    bn_groups=1,
    dtype=None,
) -> Method:
    """weight: of the correlations off the diagonal. dtype: of the projector's computation.

    reference_world_size: the loss is divided by it. The official code sums the correlations over
    its W processes, but not their gradients, which are 1 / W of the exact ones. LARS adapts the
    step of weights, but not their decay in proportion to the gradient, nor the step of biases and
    norms: with W here, and any number of devices, both are those of the official run on W.
    """
    if not reference_world_size > 0:
        size = f'config.method.reference_world_size={reference_world_size}'
        raise Problem(f'{size}: must be above 0')
    head = {'last_norm': None, 'kernel_std': 0.0, 'bn_groups': bn_groups, 'dtype': dtype}
    network = Network(encoder, MLP(tuple(projector), **head))

    def init(key, batch, pretrained=None):
        check_views(batch, 2)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        views, stats = networks.apply_views(
            network, params, state.stats, batch['views'], key=key, joint=False
        )
        out = networks.stack(views)  # h [b, 2, d], z [b, 2, e]
        value, terms = decorrelation.barlow_twins(out.z[:, 0], out.z[:, 1], weight)
        return value / reference_world_size, Aux(State(stats), terms, out.h, out.z)

    return Method(init, loss, features(network))
