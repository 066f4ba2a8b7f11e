"""VICReg (Bardes et al., 2022; arXiv:2105.04906): the two views' embeddings agree, each dimension
keeps its variance, and no two covary. There are no negatives and no asymmetry."""

from clr_jax import networks
from clr_jax.heads import MLP
from clr_jax.losses import decorrelation
from clr_jax.method import Aux, Method, State, check_views, features
from clr_jax.networks import Network


def vicreg(
    encoder,
    *,
    projector=(8192, 8192, 8192),
    invariance=25.0,
    variance=25.0,
    covariance=1.0,
    bn_groups=1,
    dtype=None,
) -> Method:
    """projector: the paper's expander. dtype: of its computation.

    invariance, variance, covariance: weights of the three terms, as the official code counts them;
    solo-learn's variance, a sum over the views and not a mean, is `variance`=50.
    """
    head = {'last_norm': None, 'kernel_std': 0.0, 'bn_groups': bn_groups, 'dtype': dtype}
    network = Network(encoder, MLP(tuple(projector), bias=True, **head))

    def init(key, batch, pretrained=None):
        check_views(batch, 2)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        views, stats = networks.apply_views(
            network, params, state.stats, batch['views'], key=key, joint=False
        )
        out = networks.stack(views)  # h [b, 2, d], z [b, 2, e]
        value, terms = decorrelation.vicreg(
            out.z[:, 0], out.z[:, 1], invariance, variance, covariance
        )
        return value, Aux(State(stats), terms, out.h, out.z)

    return Method(init, loss, features(network))
