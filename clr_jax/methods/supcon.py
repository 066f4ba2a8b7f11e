"""Supervised contrastive learning (Khosla et al., 2020; arXiv:2004.11362): all views of all
examples of a class are positives of each other."""

from clr_jax import networks
from clr_jax.entry import known
from clr_jax.heads import plain
from clr_jax.losses.contrastive import sup_con
from clr_jax.method import Aux, Method, State, check_labels, features
from clr_jax.networks import Network


def supcon(
    encoder,
    classes,
    *,
    projector=(2048, 128),
    temperature=0.1,
    constant='paper',
    bn_groups=1,
    dtype=None,
) -> Method:
    """Stage 1, with the loss's outside form (eq. 2); stage 2 is `--protocol=linear`.

    constant: 'paper', or 'official' (the code's, which multiplies the loss by temperature / 0.07).
    The projector has biases and no norms, as there.
    """
    check_labels('supcon', classes)
    known([constant], ('paper', 'official'), 'config.method.constant')
    base = 0.07 if constant == 'official' else None
    network = Network(encoder, plain(projector, dtype))

    def init(key, batch, pretrained=None):
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        views, stats = networks.apply_views(network, params, state.stats, batch['views'], key=key)
        out = networks.stack(views)  # h [b, v, d], z [b, v, e]
        value = sup_con(out.z, batch['label'], temperature, base_temperature=base)
        return value, Aux(State(stats), {}, out.h, out.z)

    return Method(init, loss, features(network))
