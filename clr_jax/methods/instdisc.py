"""Instance discrimination (Wu et al., 2018; arXiv:1805.01978): every image is a class of its own,
represented by its row of a memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clr_jax import memory, networks, parallel
from clr_jax.heads import plain
from clr_jax.method import Aux, Method, check_views, features
from clr_jax.networks import Network, normalize


class InstDiscState(NamedTuple):
    stats: Any  # batch statistics
    memory: jax.Array  # [n or more, d] averages of the examples' embeddings, unit after the first
    log_z: jax.Array  # [] the normaliser of NCE, from the first batch


def instdisc(
    encoder,
    examples,
    *,
    projector=(128,),
    temperature=0.07,
    noise=4096,
    momentum=0.5,
    proximal=0.0,
    bn_groups=1,
    dtype=None,
) -> Method:
    """noise: rows drawn for each example to estimate the loss by NCE (ImageNet); 0: the full softmax
    over all examples (CIFAR-10). momentum: of the memory. proximal: weight of the
    squared distance to the memory (the paper has 30, the official code none).
    """
    network = Network(encoder, plain(projector, dtype))

    def init(key, batch, pretrained=None):
        check_views(batch, 1)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        rows = memory.fresh(jax.random.fold_in(key, 1), examples, projector[-1])
        return params, InstDiscState(stats, rows, jnp.zeros(()))

    def loss(params, state, batch, *, key, time):
        out, stats = networks.apply(network, params, state.stats, batch['views'][0], key=key)
        v, index = normalize(out.z), batch['index']  # [b, d], [b]
        log_z = state.log_z
        if noise:
            rows = memory.candidates(key, index, noise, examples)  # [b, 1 + m]
            scores = memory.score(state.memory, v, examples, rows) / temperature
            value, log_z = memory.nce(scores, log_z, time.step == 0, examples)
        else:
            logits = memory.score(state.memory, v, examples) / temperature  # [b, n]
            value = optax.softmax_cross_entropy_with_integer_labels(logits, index).mean()
        away = v - parallel.take(state.memory, index)  # [b, d]
        value += proximal * jnp.square(away).sum(-1).mean()
        rows = memory.moved(state.memory, index, v, momentum)  # after the loss
        state = InstDiscState(stats, rows, log_z)
        return value, Aux(state, {}, out.h[:, None], out.z[:, None])

    return Method(init, loss, features(network))
