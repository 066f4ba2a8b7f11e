"""InvaSpread (Ye et al., 2019; arXiv:1904.03436): features invariant to augmentation and spread
over instances, by a softmax over the batch."""

from clr_jax import networks
from clr_jax.heads import plain
from clr_jax.losses.contrastive import invariant_spread
from clr_jax.method import Aux, Method, State, check_views, features
from clr_jax.networks import Network


def invaspread(encoder, *, projector=(128,), temperature=0.1, bn_groups=1, dtype=None) -> Method:
    """Both views pass together. The second factor of every similarity has its gradient stopped, as
    in the official code. dtype: of the projector's computation."""
    network = Network(encoder, plain(projector, dtype))

    def init(key, batch, pretrained=None):
        check_views(batch, 2)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        views, stats = networks.apply_views(network, params, state.stats, batch['views'], key=key)
        out = networks.stack(views)  # h [b, 2, d], z [b, 2, e]
        return invariant_spread(out.z, temperature), Aux(State(stats), {}, out.h, out.z)

    return Method(init, loss, features(network))
