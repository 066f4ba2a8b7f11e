"""DeepCluster (Caron et al., 2018; arXiv:1807.05520): before every epoch k-means of the features of
all examples, whose clusters are the classes to learn in that epoch."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clr_jax import networks, parallel
from clr_jax.clustering import kmeans, pca_whiten
from clr_jax.entry import Problem
from clr_jax.method import Aux, Method, check_views, features
from clr_jax.networks import Network


class DeepClusterState(NamedTuple):
    stats: Any  # batch statistics
    label: jax.Array  # [n] int32, each example's cluster; arbitrary until the first refresh
    weight: jax.Array  # [clusters] of the examples of each; 1 until the first refresh
    nmi: jax.Array  # [] how much the last two clusterings say of each other, in 0..1


def deepcluster(
    encoder,
    examples,
    *,
    clusters=10000,
    iterations=20,
    dimensions=256,
    bn_groups=1,
) -> Method:
    """clusters: of k-means, which begins with as many random examples and takes `iterations`.
    dimensions: principal components that it sees, whitened, as unit rows.

    The classifier (the part `predictor`) is linear on relu(h) and begins anew, N(0, 0.01), with the
    clusters, whose numbers have no meaning from one epoch to the next; the official code makes a new
    optimizer for it, so give it one without momentum. The paper draws as many examples of each
    cluster (section 3.3); here every example is seen once, and its loss has a weight in inverse
    proportion to the size of its cluster, 1 in the mean over all examples.
    """
    if not 2 <= clusters <= examples:
        raise Problem(
            f'config.method.clusters={clusters}: from 2 to the {examples} training examples'
        )
    network = Network(encoder)
    cluster = jax.jit(partial(kmeans, iterations=iterations))

    def head(key, width):
        kernel = 0.01 * jax.random.normal(key, (width, clusters))
        return {'kernel': kernel, 'bias': jnp.zeros_like(kernel[0])}

    def init(key, batch, pretrained=None):
        check_views(batch, 1)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        evaluated = partial(networks.evaluate, network, params, stats)
        width = jax.eval_shape(evaluated, batch['views'][0]).h.shape[-1]
        label = jnp.arange(examples, dtype=jnp.int32) % clusters
        state = DeepClusterState(stats, label, jnp.ones(clusters), jnp.zeros(()))
        return params | {'predictor': head(jax.random.fold_in(key, 1), width)}, state

    def loss(params, state, batch, *, key, time):
        out, stats = networks.apply(network, params, state.stats, batch['views'][0], key=key)
        last = params['predictor']
        logits = jax.nn.relu(out.h) @ last['kernel'] + last['bias']  # [b, clusters]
        label = parallel.take(state.label, batch['index'])  # [b]
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, label)  # [b]
        value = (parallel.take(state.weight, label) * errors).mean()
        state = state._replace(stats=stats)
        return value, Aux(state, {'nmi': state.nmi}, out.h[:, None], out.z[:, None])

    def refresh(params, state, h, *, key, time):
        x = pca_whiten(h, dimensions)  # [n, dimensions]
        start = jax.random.choice(key, len(x), (clusters,), replace=False)
        _, label = jax.device_get(cluster(x, x[np.asarray(start)]))
        size = np.bincount(label, minlength=clusters)
        weight = len(x) / (np.count_nonzero(size) * np.maximum(size, 1))
        agreed = mutual_information(label, np.asarray(state.label))
        fresh: Any = state.stats, label, weight, agreed
        like = lambda new, old: np.asarray(new, old.dtype)
        state = DeepClusterState(*jax.tree.map(like, fresh, tuple(state)))
        return params | {'predictor': head(jax.random.fold_in(key, 1), h.shape[1])}, state

    return Method(init, loss, features(network), refresh=refresh)


def mutual_information(a, b):
    """The mutual information of two clusterings [n], of the geometric mean of their entropies; 1 for
    the same up to numbers (section 4.1)."""

    def entropy(label):
        share = np.unique(label, return_counts=True)[1] / len(label)
        return -(share * np.log(share)).sum()

    both = a.astype(np.int64) * (b.max() + 1) + b
    of_each = entropy(a) * entropy(b)
    return (entropy(a) + entropy(b) - entropy(both)) / max(of_each, 1e-12) ** 0.5
