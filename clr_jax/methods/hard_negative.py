"""Hard negative sampling (Robinson et al., 2021; arXiv:2010.04592): debiased contrastive learning
that gives near negatives more weight."""

from clr_jax import networks
from clr_jax.heads import MLP
from clr_jax.losses import contrastive
from clr_jax.method import Aux, Method, State, check_views, features
from clr_jax.networks import Network


def hard_negative(
    encoder,
    *,
    projector=(512, 128),
    temperature=0.5,
    tau_plus=0.1,
    beta=1.0,
    bn_groups=1,
    dtype=None,
) -> Method:
    """beta: concentration of the weights exp(beta s / temperature) of negatives at similarity s; 0
    is the debiased loss. tau_plus: the probability that a negative is of the anchor's class."""
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
        value = contrastive.hard_negative(out.z, temperature, tau_plus=tau_plus, beta=beta)
        return value, Aux(State(stats), {}, out.h, out.z)

    return Method(init, loss, features(network))
