"""SimCLR (Chen et al., 2020; arXiv:2002.05709): two views of an image agree, against all others of
the batch."""

import jax.numpy as jnp

from clr_jax import networks, parallel
from clr_jax.entry import Problem, nearest
from clr_jax.heads import MLP
from clr_jax.losses.contrastive import mutual_information_bound, nt_logistic, nt_xent
from clr_jax.method import Aux, Method, State, features
from clr_jax.networks import Network


def simclr(
    encoder,
    *,
    projector=(2048, 128),
    projector_std=0.01,
    loss='nt_xent',
    temperature=0.1,
    constant='paper',
    bn_groups=1,
    dtype=None,
) -> Method:
    """Both views pass the network together: they share batch statistics, in which methods differ.

    projector: widths of its layers, 1 to 3 of them. projector_std: of their initial weights; 0.01
    is the official code's, for LARS, which steps in proportion to them. loss: nt_xent (the paper's)
    or nt_logistic. constant: of nt_xent, 'paper' (mean over views) or 'official' (the code's sum of
    both directions). dtype: of the projector's computation.
    """
    losses = {
        'nt_xent': lambda z: nt_xent(z, temperature, constant=constant),
        'nt_logistic': lambda z: nt_logistic(z, temperature),
    }
    if loss not in losses:
        raise Problem(
            f'config.method.loss={loss!r} is not a loss of SimCLR: {nearest(loss, losses)}'
        )
    if constant not in ('paper', 'official'):
        raise Problem(
            f'config.method.constant={constant!r}: {nearest(constant, ("paper", "official"))}'
        )
    if not temperature > 0:
        raise Problem(f'config.method.temperature={temperature}: must be above 0')
    contrast, bounded = losses[loss], loss == 'nt_xent'
    head = {'kernel_std': projector_std, 'bn_groups': bn_groups, 'dtype': dtype}
    network = Network(encoder, MLP(tuple(projector), **head))

    def init(key, batch, pretrained=None):
        params, stats = networks.init(network, key, batch['views'][0])
        params, stats = networks.adopt(params, stats, pretrained)
        return params, State(stats)

    def objective(params, state, batch, *, key, time):
        views, stats = networks.apply_views(network, params, state.stats, batch['views'], key=key)
        h, z, _ = networks.stack(views)  # [b, 2, d], [b, 2, e]
        value = contrast(z)
        metrics = {}
        if bounded:
            candidates = 2 * len(z) * parallel.size() - 1
            paper = value / (2 if constant == 'official' else 1)
            metrics['information'] = mutual_information_bound(paper, candidates)
            metrics['information_ceiling'] = jnp.log(candidates)
        return value, Aux(State(stats), metrics, h, z)

    return Method(init, objective, features(network))
