"""Leave-one-out contrastive learning (Xiao et al., 2020; arXiv:2008.05659): one embedding invariant
to all augmentations, and one for each augmentation to which it stays sensitive."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clr_jax import networks, parallel
from clr_jax.heads import Heads, plain
from clr_jax.method import Aux, Method, check_views, ema, features
from clr_jax.networks import Network, normalize


class LooCState(NamedTuple):
    stats: Any  # batch statistics of the query network
    target: Any  # parameters of the key network, an average of past params
    target_stats: Any
    queues: tuple  # of each space: [K, d] unit keys of the last batches
    cursor: jax.Array  # [] where the next keys go


def looc(
    encoder,
    *,
    sensitive=2,
    projector=(2048, 128),
    temperature=0.2,
    momentum=0.999,
    queue_size=65536,
    bn_groups=1,
    dtype=None,
) -> Method:
    """The views of the config, in order: the query; key 0, which shares no augmentation with it;
    for each of the `sensitive` augmentations i = 1, 2, ... the key i, which has the query's draw of
    this augmentation alone (`shared` of the query: all draws; of key i: those of augmentation i).

    There was no official code to check against. The reading here: a shared encoder and 1 +
    `sensitive` heads, momentum keys as in MoCo v2 and a queue of keys i for space i. In space 0 the
    positive is key 0. In space i it is key i, the other keys of the example are negatives, and so
    are the queue's. The loss is the mean of the InfoNCE of all spaces.
    """
    heads = Heads(tuple(plain(projector, dtype) for _ in range(1 + sensitive)))
    network = Network(encoder, heads)

    def init(key, batch, pretrained=None):
        check_views(batch, 2 + sensitive)  # the query and 1 + sensitive keys
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        shape = 1 + sensitive, queue_size, projector[-1]
        queues = tuple(normalize(jax.random.normal(jax.random.fold_in(key, 1), shape)))
        return params, LooCState(stats, params, stats, queues, jnp.zeros((), jnp.int32))

    def loss(params, state, batch, *, key, time):
        one, several = jax.random.split(key)
        first, *others = batch['views']
        query, stats = networks.apply(network, params, state.stats, first, key=one)
        keys, target_stats = networks.apply_views(
            network, state.target, state.target_stats, others, key=several
        )
        q = normalize(query.z)  # [b, spaces, e]
        k = normalize(jax.lax.stop_gradient(networks.stack(keys).z))  # [b, keys, spaces, e]

        def contrast(i):
            own = jnp.einsum('be,bke->bk', q[:, i], k[:, :, i])  # [b, keys]
            own = own[:, :1] if i == 0 else own
            logits = jnp.concatenate([own, parallel.score(state.queues[i], q[:, i])], 1)
            target = jnp.full(len(q), i)  # [b]
            return optax.softmax_cross_entropy_with_integer_labels(logits / temperature, target)

        value = sum(contrast(i).mean() for i in range(1 + sensitive)) / (1 + sensitive)
        filled = [
            parallel.enqueue(queue, state.cursor, k[:, i, i])
            for i, queue in enumerate(state.queues)
        ]
        queues, cursors = zip(*filled, strict=True)
        state = LooCState(stats, state.target, target_stats, queues, cursors[0])
        z = jnp.stack([q[:, 0], k[:, 0, 0]], 1)  # [b, 2, e]
        return value, Aux(state, {}, query.h[:, None], z)

    def update(params, state, *, key, time):
        return params, state._replace(target=ema(state.target, params, momentum))

    def flat(params, state, batch):
        out = features(network)(params, state, batch)
        return out | {'z': out['z'].reshape(len(out['z']), -1)}  # LooC++: all spaces [n, spaces e]

    return Method(init, loss, flat, update)
