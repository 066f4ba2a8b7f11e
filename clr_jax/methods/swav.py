"""SwAV (Caron et al., 2020; arXiv:2006.09882): predict from one view how another is assigned to
prototypes, where the rows of a batch share these equally."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax import networks, parallel
from clr_jax.clustering import sinkhorn
from clr_jax.entry import Problem
from clr_jax.heads import MLP
from clr_jax.method import Aux, Method, check_views, features
from clr_jax.networks import Network, normalize


class SwAVState(NamedTuple):
    stats: Any  # batch statistics
    queues: tuple  # of each assigned view: [q, d] unit embeddings of the last batches; or none
    cursor: jax.Array  # [] where the next go


def swav(
    encoder,
    *,
    projector=(2048, 128),
    prototypes=3000,
    temperature=0.1,
    epsilon=0.05,
    iterations=3,
    queue_size=0,
    queue_epoch=15,
    bn_groups=1,
    dtype=None,
) -> Method:
    """The first two views, the large crops, are assigned; each is predicted from all views but
    itself. epsilon, iterations: of `clustering.sinkhorn`. queue_size: embeddings of past batches
    that share the prototypes with the batch, where that is small; from queue_epoch on, once it is
    full. dtype: of the head's computation.

    Prototypes [K, d] are unit rows after every step. A loss that stays at ln K, with `codes_entropy`
    near it too, is a collapse: lower epsilon. The first steps leave the prototypes as they are:
    `freeze_until` of a group in the config.
    """
    for name, value in {'epsilon': epsilon, 'temperature': temperature}.items():
        if not value > 0:
            raise Problem(f'config.method.{name}={value}: must be above 0')
    linear: dict = {'last_norm': None, 'last_bias': True, 'kernel_std': 0.0}
    project = MLP(tuple(projector), bias=True, **linear, bn_groups=bn_groups, dtype=dtype)
    network = Network(encoder, project)

    def init(key, batch, pretrained=None):
        check_views(batch, 2, more=True)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        drawn = jax.random.normal(jax.random.fold_in(key, 1), (prototypes, projector[-1]))
        params = params | {'prototypes': normalize(drawn)}  # [K, d]
        queues = (jnp.zeros((queue_size, projector[-1])),) * (2 if queue_size else 0)
        return params, SwAVState(stats, queues, jnp.zeros((), jnp.int32))

    def loss(params, state, batch, *, key, time):
        views, stats = networks.apply_views(network, params, state.stats, batch['views'], key=key)
        h, z, _ = networks.stack(views)  # [b, v, d], [b, v, e]
        z = normalize(z)
        scores = z @ params['prototypes'].T  # [b, v, K]
        said = jax.nn.log_softmax(scores / temperature)
        full = -(-queue_size // (len(z) * parallel.size()))  # batches until then
        waiting = (time.epoch >= queue_epoch) & (time.step >= full)

        def assigned(i):  # view i -> codes [b, K]
            codes = sinkhorn(scores[:, i], epsilon, iterations)
            if not queue_size:
                return codes
            # with the prototypes of today
            others = parallel.score(state.queues[i], params['prototypes']).T  # [q, K]
            return jnp.where(waiting, sinkhorn(scores[:, i], epsilon, iterations, others), codes)

        codes = jnp.stack([assigned(0), assigned(1)], 1)  # [b, 2, K]
        others = said.sum(1, keepdims=True) - said[:, :2]  # of all views but the one assigned
        value = -(codes * others).sum(-1).mean() / (len(views) - 1)
        entropy = -jax.scipy.special.xlogy(codes, codes).sum(-1).mean()
        state = state._replace(stats=stats)
        if queue_size:  # after the loss: no row shares the prototypes with itself
            filled = [
                parallel.enqueue(queue, state.cursor, z[:, i])
                for i, queue in enumerate(state.queues)
            ]
            queues, cursors = zip(*filled, strict=True)
            state = SwAVState(stats, queues, cursors[0])
        return value, Aux(state, {'codes_entropy': entropy}, h[:, :2], z[:, :2])

    def update(params, state, *, key, time):
        return params | {'prototypes': normalize(params['prototypes'])}, state

    def variables(params, state):
        parts = {name: part for name, part in params.items() if name != 'prototypes'}
        return {'params': parts, 'batch_stats': state.stats}

    return Method(init, loss, features(network), update, variables)
