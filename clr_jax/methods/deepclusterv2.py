"""DeepCluster v2 (Caron et al., 2020; arXiv:2006.09882, section 5.3): classify views as the
clusters of the last epoch's embeddings, which k-means finds before each epoch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax import networks, parallel
from clr_jax.clustering import kmeans
from clr_jax.entry import Problem
from clr_jax.heads import MLP
from clr_jax.losses.classification import cross_entropy
from clr_jax.method import Aux, Method, check_views, features
from clr_jax.networks import Network, normalize


class DeepClusterV2State(NamedTuple):
    stats: Any  # batch statistics
    memory: tuple  # of each assigned view: [n or more, d] unit embeddings, zero until it is seen
    prototypes: jax.Array  # [heads, K, d] unit centroids of this epoch
    label: jax.Array  # [heads, n] each example's cluster in this epoch, -1 if it was not seen
    epoch: jax.Array  # [] of which these are


def deepclusterv2(
    encoder,
    examples,
    *,
    projector=(2048, 128),
    prototypes=3000,
    heads=3,
    temperature=0.1,
    iterations=10,
    bn_groups=1,
    dtype=None,
) -> Method:
    """Every view is classified by each of the `heads`, whose K = `prototypes` are the centroids of
    spherical k-means on a memory of the first view (heads 0, 2, ...) or of the second; they stay for
    the epoch. iterations: of k-means, which starts from random rows of that memory. dtype: of the
    projector's computation.

    The memory has every example's embeddings of the last time it was seen: those of 1.28 million
    in 128 dimensions take 1.3 GB on every device. Epoch 0 only fills it: nothing is assigned, its
    loss is 0 and has no gradient. (The official code passes over the data once before training.)
    """
    if examples < prototypes:
        many = f'config.method.prototypes={prototypes}'
        raise Problem(f'{many}: more than the {examples} training examples')
    if not temperature > 0:
        raise Problem(f'config.method.temperature={temperature}: must be above 0')
    linear: dict = {'last_norm': None, 'last_bias': True, 'kernel_std': 0.0}
    project = MLP(tuple(projector), bias=True, **linear, bn_groups=bn_groups, dtype=dtype)
    network = Network(encoder, project)

    def init(key, batch, pretrained=None):
        check_views(batch, 2, more=True)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        memory = (parallel.padded(jnp.zeros((examples, projector[-1]))),) * 2
        centroids = jnp.zeros((heads, prototypes, projector[-1]))
        label = jnp.full((heads, examples), -1, jnp.int32)
        return params, DeepClusterV2State(stats, memory, centroids, label, jnp.zeros((), jnp.int32))

    def loss(params, state, batch, *, key, time):
        views, stats = networks.apply_views(network, params, state.stats, batch['views'], key=key)
        h, z, _ = networks.stack(views)  # [b, v, d], [b, v, e]
        z = normalize(z)

        def classify(head):  # -> (loss, share classified right)
            logits = z @ state.prototypes[head].T / temperature  # [b, v, K]
            return cross_entropy(logits, parallel.take(state.label[head], batch['index']))

        losses, right = zip(*map(classify, range(heads)), strict=True)
        put = lambda table, view: parallel.put(table, batch['index'], z[:, view])
        memory = tuple(put(table, view) for view, table in enumerate(state.memory))
        state = state._replace(stats=stats, memory=memory)
        metrics = {'cluster_top1': sum(right) / heads}
        return sum(losses) / heads, Aux(state, metrics, h[:, :2], z[:, :2])

    def cluster(memory, key):
        """[n, d] -> (centroids [K, d], label [n])."""
        seen = (memory != 0).any(1)
        drawn = jnp.where(seen, jax.random.uniform(key, seen.shape), -1)
        first = parallel.take(memory, jax.lax.top_k(drawn, prototypes)[1])  # [K, d]
        centroids, label = kmeans(memory, first, iterations, spherical=True)
        return centroids, label[:examples]

    def update(params, state, *, key, time):
        def assign():
            keys = [jax.random.fold_in(key, head) for head in range(heads)]
            found = [cluster(state.memory[head % 2], own) for head, own in enumerate(keys)]
            centroids, label = (jnp.stack(each) for each in zip(*found, strict=True))
            return centroids, label, time.epoch

        kept = state.prototypes, state.label, state.epoch
        new = jax.lax.cond(time.epoch > state.epoch, assign, lambda: kept)
        return params, DeepClusterV2State(state.stats, state.memory, *new)

    return Method(init, loss, features(network), update)
