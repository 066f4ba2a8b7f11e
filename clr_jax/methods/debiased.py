"""Debiased contrastive learning (Chuang et al., 2020; arXiv:2007.00224): SimCLR with the share of
false negatives taken out of the denominator."""

from clr_jax import networks
from clr_jax.heads import MLP
from clr_jax.losses import contrastive
from clr_jax.method import Aux, Method, State, check_views, features
from clr_jax.networks import Network


def debiased(
    encoder,
    *,
    projector=(512, 128),
    temperature=0.5,
    tau_plus=0.1,
    bn_groups=1,
    dtype=None,
) -> Method:
    """tau_plus: the probability that a negative is of the anchor's class, 1 / classes. dtype: of
    the projector's computation."""
    head: dict = {'last_norm': None, 'last_bias': True, 'kernel_std': 0.0}
    head |= {'bn_groups': bn_groups, 'dtype': dtype}
    network = Network(encoder, MLP(tuple(projector), **head))

    def init(key, batch, pretrained=None):
        check_views(batch, 2)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        views, stats = networks.apply_views(network, params, state.stats, batch['views'], key=key)
        out = networks.stack(views)  # h [b, 2, d], z [b, 2, e]
        value = contrastive.debiased(out.z, temperature, tau_plus=tau_plus)
        return value, Aux(State(stats), {}, out.h, out.z)

    return Method(init, loss, features(network))
