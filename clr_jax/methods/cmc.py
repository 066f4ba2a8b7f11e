"""Contrastive multiview coding (Tian et al., 2020; arXiv:1906.05849): what one view of an image says,
such as its lightness, tells that image's other views, such as its colours, from all others'."""

import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax.random import fold_in

from clr_jax import memory, networks
from clr_jax.colors import GROUPS, Encoders
from clr_jax.entry import Problem, known
from clr_jax.heads import Heads, plain
from clr_jax.losses.contrastive import info_nce
from clr_jax.method import Aux, Method, check_views, features
from clr_jax.networks import Network, normalize


class CMCState(NamedTuple):
    stats: Any  # batch statistics
    memory: dict  # of each channel group: [n or more, d], see memory.py
    log_z: dict  # of each pair: [], the normaliser of NCE


def cmc(
    encoder,
    examples,
    *,
    channels=('L', 'ab'),
    projector=(128,),
    temperature=0.07,
    noise=16384,
    nce=False,
    momentum=0.5,
    memories=True,
    bn_groups=1,
    dtype=None,
) -> Method:
    """channels: the views, groups of channels of an image in colors.GROUPS; each has a copy of
    `encoder`, a head and a memory. h is the features of all encoders side by side, and what other
    runs of cmc can start from is all of them.

    Every view's embedding is a query of the memory of every other; its positive is the row of its
    own example. The loss is the sum over these ordered pairs of the cross entropy among the row and
    `noise` others, drawn for the example, or all rows (0). nce: by noise-contrastive estimation
    instead, as in the paper, each pair with the normaliser of its first batch. momentum: of the
    memories. memories=False: there are none, and a query is contrasted with the other view's
    embeddings of the global batch, which short runs need: an epoch ago, both encoders were others.
    As a row of a memory is of another crop than the query, each group of channels is then of a crop
    of its own.
    """
    channels = tuple(channels)
    known(channels, GROUPS, 'config.method.channels')
    if len(set(channels)) < max(2, len(channels)):
        raise Problem(f'config.method.channels={channels}: two groups or more, each once')
    if nce and not (noise and memories):
        raise Problem('config.method.nce=True needs memories and config.method.noise above 0')
    heads = Heads(tuple(plain(projector, dtype) for _ in channels), apart=True)
    network = Network(Encoders(encoder, channels), heads)
    pairs = list(itertools.permutations(channels, 2))  # (query, memory)

    def images(batch):
        check_views(batch, 1 if memories else len(channels))
        crops = batch['views']
        return crops[0] if memories else jnp.stack(crops, 1)  # [b, s, s, 3] or [b, crops, s, s, 3]

    def init(key, batch, pretrained=None):
        params, stats = networks.init(network, key, images(batch), pretrained)
        rows = {
            view: memory.fresh(fold_in(key, i), examples, projector[-1])
            for i, view in enumerate(channels, 1)
            if memories
        }
        return params, CMCState(stats, rows, {'_'.join(pair): jnp.zeros(()) for pair in pairs})

    def loss(params, state, batch, *, key, time):
        out, stats = networks.apply(network, params, state.stats, images(batch), key=key)
        v = {view: normalize(out.z[:, i]) for i, view in enumerate(channels)}  # [b, d] each
        if not memories:
            value = sum(info_nce(v[query], v[other], temperature) for query, other in pairs)
            return value, Aux(state._replace(stats=stats), {}, out.h[:, None], out.z)
        index = batch['index']  # [b]
        rows = memory.candidates(key, index, noise, examples) if noise else None  # [b, 1 + m]
        value, log_z = 0.0, dict(state.log_z)
        for query, other in pairs:
            scores = memory.score(state.memory[other], v[query], examples, rows) / temperature
            if nce:
                name = f'{query}_{other}'
                term, log_z[name] = memory.nce(scores, log_z[name], time.step == 0, examples)
            else:
                own = jnp.zeros_like(index) if noise else index
                term = optax.softmax_cross_entropy_with_integer_labels(scores, own).mean()
            value += term
        moved = {
            view: memory.moved(state.memory[view], index, v[view], momentum) for view in channels
        }  # after the loss
        return value, Aux(CMCState(stats, moved, log_z), {}, out.h[:, None], out.z)

    return Method(init, loss, features(network))
