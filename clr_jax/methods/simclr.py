"""SimCLR (Chen et al., 2020; arXiv:2002.05709): two views of an image agree, against all others of
the batch. v2 (arXiv:2006.10029) has a deeper projector and may remember earlier batches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax import networks, parallel
from clr_jax.entry import Problem, known
from clr_jax.heads import MLP
from clr_jax.losses.contrastive import margin as hinge
from clr_jax.losses.contrastive import mutual_information_bound, nt_logistic, nt_xent
from clr_jax.method import Aux, Method, check_views, crossed, ema, features
from clr_jax.networks import Network, normalize


class SimCLRState(NamedTuple):
    stats: Any  # batch statistics
    target: Any = ()  # with a memory: an average of past params, its statistics,
    target_stats: Any = ()
    queue: Any = ()  # [K, e] its unit embeddings of the last batches,
    cursor: Any = ()  # [] and where the next go


def simclr(
    encoder,
    *,
    projector=(2048, 128),
    projector_std=0.01,
    loss='nt_xent',
    temperature=0.1,
    constant='paper',
    margin=0.4,
    mining='all',
    normalized=True,
    memory=0,
    momentum=0.999,
    bn_groups=1,
    dtype=None,
) -> Method:
    """Both views pass the network together: they share batch statistics, in which methods differ.
    With multi-crop the loss is the mean over the pairs of a large crop and any other.

    projector: widths of its layers, two in v1, three in v2. projector_std: of their initial
    weights; 0.01 is the official code's, for LARS, which steps in proportion to them. loss:
    nt_xent, or of table 2 nt_logistic or margin, with `mining` all or semi_hard; normalized:
    cosines, not dot products. constant: of nt_xent, 'paper' (mean over views) or 'official' (the
    code's sum of both directions). memory: embeddings of earlier batches as further negatives of
    nt_xent, made by a copy of the network that follows with `momentum` (v2's paper; not in its
    code). dtype: of the projector's computation.
    """
    known([loss], ('nt_xent', 'nt_logistic', 'margin'), 'config.method.loss')
    known([constant], ('paper', 'official'), 'config.method.constant')
    known([mining], ('all', 'semi_hard'), 'config.method.mining')
    if not temperature > 0:
        raise Problem(f'config.method.temperature={temperature}: must be above 0')
    if loss != 'nt_xent' and memory:
        raise Problem(f'config.method.memory={memory}: only nt_xent has a memory, not {loss}')
    head = {'kernel_std': projector_std, 'bn_groups': bn_groups, 'dtype': dtype}
    network = Network(encoder, MLP(tuple(projector), **head))

    def init(key, batch, pretrained=None):
        check_views(batch, 2, more=True)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        if not memory:
            return params, SimCLRState(stats)
        queue = jax.random.normal(jax.random.fold_in(key, 1), (memory, projector[-1]))
        zero = jnp.zeros((), jnp.int32)
        return params, SimCLRState(stats, params, stats, normalize(queue), zero)

    def contrast(z, queue):
        if loss == 'nt_xent':
            negatives = queue if memory else None
            options = {'normalized': normalized, 'constant': constant, 'negatives': negatives}
            return nt_xent(z, temperature, **options)
        if loss == 'nt_logistic':
            return nt_logistic(z, temperature, normalized=normalized, mining=mining)
        return hinge(z, margin, normalized=normalized, mining=mining)

    def remember(state, batch, key):
        """`state` with what the slow copy says of the batch at the end of the queue."""
        stats = state.target_stats
        large = batch['views'][:2]
        views, stats = networks.apply_views(network, state.target, stats, large, key=key)
        z = normalize(networks.stack(views).z)  # [b, 2, e]
        z = z.reshape(-1, z.shape[-1])  # [2b, e]
        queue, cursor = parallel.enqueue(state.queue, state.cursor, z)
        return state._replace(target_stats=stats, queue=queue, cursor=cursor)

    def objective(params, state, batch, *, key, time):
        views, stats = networks.apply_views(network, params, state.stats, batch['views'], key=key)
        h, z, _ = networks.stack(views)  # [b, v, d], [b, v, e]
        pairs = [pair for pair in crossed(len(views)) if pair != (1, 0)]  # symmetric
        value = sum(contrast(z[:, np.array(pair)], state.queue) for pair in pairs) / len(pairs)
        metrics = {}
        if loss == 'nt_xent':
            candidates = 2 * len(z) * parallel.size() - 1 + memory
            paper = value / (2 if constant == 'official' else 1)
            metrics['information'] = mutual_information_bound(paper, candidates)
            metrics['information_ceiling'] = jnp.log(candidates)
        state = remember(state, batch, key) if memory else state
        return value, Aux(state._replace(stats=stats), metrics, h[:, :2], z[:, :2])

    def update(params, state, *, key, time):
        target = ema(state.target, params, momentum) if memory else ()
        return params, state._replace(target=target)

    return Method(init, objective, features(network), update)
