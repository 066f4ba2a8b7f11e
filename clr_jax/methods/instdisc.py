"""Instance discrimination (Wu et al., 2018; arXiv:1805.01978): every image is a class of its own,
represented by its row of a memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clr_jax import networks, parallel
from clr_jax.heads import plain
from clr_jax.losses.contrastive import nce
from clr_jax.method import Aux, Method, check_views, features
from clr_jax.networks import Network, normalize


class InstDiscState(NamedTuple):
    stats: Any  # batch statistics
    memory: jax.Array  # [n, d] an average of each example's embeddings, unit rows after the first
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
        reach = (projector[-1] / 3) ** -0.5
        shape = examples, projector[-1]
        memory = jax.random.uniform(jax.random.fold_in(key, 1), shape, minval=-reach, maxval=reach)
        return params, InstDiscState(stats, memory, jnp.zeros(()))

    def loss(params, state, batch, *, key, time):
        out, stats = networks.apply(network, params, state.stats, batch['views'][0], key=key)
        v, index = normalize(out.z), batch['index']  # [b, d], [b]
        mine = parallel.take(state.memory, index)  # [b, d]
        log_z = state.log_z
        if noise:
            rows = parallel.positions(len(v))
            draw = lambda row: jax.random.randint(
                jax.random.fold_in(key, row), (noise,), 0, examples
            )
            others = parallel.score(state.memory, v, jax.vmap(draw)(rows)) / temperature  # [b, m]
            positive = (v * mine).sum(-1) / temperature  # [b]
            every = jnp.concatenate([positive[:, None], others], 1)
            first = parallel.mean(jnp.exp(jax.lax.stop_gradient(every)).mean()) * examples
            log_z = jnp.where(time.step == 0, jnp.log(first), log_z)
            value = nce(positive - log_z, others - log_z, jnp.log(noise / examples))
        else:
            logits = parallel.score(state.memory, v) / temperature  # [b, n]
            value = optax.softmax_cross_entropy_with_integer_labels(logits, index).mean()
        value += proximal * jnp.square(v - mine).sum(-1).mean()
        new = normalize(momentum * mine + (1 - momentum) * v)  # [b, d]
        memory = parallel.put(state.memory, index, new)  # after the loss
        state = InstDiscState(stats, memory, log_z.astype(state.log_z.dtype))
        return value, Aux(state, {}, out.h[:, None], out.z[:, None])

    return Method(init, loss, features(network))
