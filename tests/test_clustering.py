"""Clusters: equal shares by Sinkhorn's iterations on any number of devices, Lloyd's k-means as
scikit-learn has it, whitening likewise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from clr_jax import parallel
from clr_jax.clustering import kmeans, pca_whiten, sinkhorn
from clr_jax.entry import Problem
from tests.methods.tiny import unit

B, K = 24, 5


def on_shards(f, mesh, *args):
    """f of the first argument's rows, spread over the mesh, and of the others, whole; its rows."""
    specs = P(parallel.DATA), *(P() for _ in args[1:])
    return jax.jit(parallel.shard(f, mesh, specs, P(parallel.DATA)))(*args)


def codes(scores, *others, devices=None, **settings):
    f = lambda scores, *others: sinkhorn(scores, **settings, others=others[0] if others else None)
    if devices is None:
        return np.asarray(f(scores, *others))
    mesh = parallel.make_mesh(jax.devices()[:devices], 2)
    return np.asarray(on_shards(f, mesh, scores, *others))


def scores_of(rows, seed=0, reach=0.3):
    return np.random.default_rng(seed).uniform(-reach, reach, (rows, K))


def paper(scores, epsilon, iterations):
    """Sinkhorn's iterations on Q [K, N], from uniform row sums 1 / K and column sums 1 / N."""
    k, n = scores.T.shape
    q = np.exp(scores.T / epsilon)
    q /= q.sum()
    for _ in range(iterations):
        for row in range(k):
            q[row] /= q[row].sum() * k
        for column in range(n):
            q[:, column] /= q[:, column].sum() * n
    return (q * n).T


# Sinkhorn


@pytest.mark.parametrize('devices', [None, 1, 2, 8])
@pytest.mark.parametrize('waiting', [0, 10])
@pytest.mark.parametrize(('epsilon', 'iterations'), [(0.05, 3), (0.2, 1)])
def test_codes_are_the_papers_on_any_number_of_devices(
    devices, waiting, epsilon, iterations, float64
):
    """With and without a queue, which every shard has whole and which counts once."""
    scores, others = scores_of(B), [scores_of(waiting, 1)] if waiting else []
    expected = paper(np.concatenate([scores, *others]), epsilon, iterations)[:B]
    found = codes(scores, *others, devices=devices, epsilon=epsilon, iterations=iterations)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize('x64', [False, True])
def test_codes_of_a_row_sum_to_one_and_prototypes_share_the_rows(x64):
    with jax.enable_x64(x64):
        after = {n: codes(scores_of(B), devices=8, iterations=n) for n in (3, 50)}
    assert after[3].dtype == (np.float64 if x64 else np.float32)
    np.testing.assert_allclose(after[3].sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(after[50].sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(after[50].sum(0) / (B / K), 1, atol=1e-4)
    assert np.abs(after[3].sum(0) / (B / K) - 1).max() > 1e-4  # three do not suffice


def test_scores_of_any_level_stay_finite():
    """exp(100 / 0.05) is not a number of any format."""
    scores = np.float32(scores_of(B))
    others = scores[:10]
    for above in (scores + 100, others + 100), (scores, others + 3), (scores + 3, others):
        assert np.isfinite(codes(*above, devices=8)).all()
    np.testing.assert_allclose(codes(scores + 1, devices=8), codes(scores), atol=1e-4)


def test_codes_of_bfloat16_are_wider_and_have_no_gradient():
    scores = jnp.asarray(scores_of(B), jnp.bfloat16)
    assert sinkhorn(scores).dtype == jnp.float32
    slope = jax.grad(lambda x: jnp.square(sinkhorn(x, others=2 * x)).sum())(jnp.float32(scores))
    np.testing.assert_array_equal(slope, 0)


# k-means


def blobs(n=203, d=3, k=K, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(k, d))[rng.integers(0, k, n)] + 0.6 * rng.normal(size=(n, d))
    return x, rng.permutation(x)[:k]


run = jax.jit(kmeans, static_argnames=('iterations', 'spherical', 'chunk'))


@pytest.mark.parametrize('chunk', [1, 7, 64, 203, 4096])
@pytest.mark.parametrize('iterations', [1, 5, 300])
def test_euclidean_clusters_are_scikit_learns(chunk, iterations, float64):
    x, start = blobs()
    same = {'init': start, 'n_init': 1, 'max_iter': iterations, 'tol': 0, 'algorithm': 'lloyd'}
    expected = KMeans(K, **same).fit(x)
    centroids, label = run(x, start, iterations, chunk=chunk)
    assert label.dtype == jnp.int32
    np.testing.assert_allclose(centroids, expected.cluster_centers_, atol=1e-10)
    np.testing.assert_array_equal(label, expected.labels_)


def test_euclidean_clusters_are_scikit_learns_in_float32():
    x, start = np.float32(blobs()[0]), np.float32(blobs()[1])
    same = {'init': start, 'n_init': 1, 'max_iter': 8, 'tol': 0, 'algorithm': 'lloyd'}
    centroids, label = run(x, start, 8)
    assert centroids.dtype == jnp.float32
    expected = KMeans(K, **same).fit(x)
    np.testing.assert_allclose(centroids, expected.cluster_centers_, atol=1e-6)
    np.testing.assert_array_equal(label, expected.labels_)


def spherically(x, start, iterations):
    """Lloyd's iterations with dot products; -> centroids, labels, rows of zeros -1."""
    centroids, seen = start.copy(), [i for i in range(len(x)) if x[i].any()]
    nearest = lambda row: int(np.argmax([row @ c for c in centroids]))
    for _ in range(iterations):
        label = {i: nearest(x[i]) for i in seen}
        for c in range(len(centroids)):
            members = [x[i] for i in seen if label[i] == c]
            if members:
                mean = np.mean(members, 0)
                centroids[c] = mean / np.linalg.norm(mean)
    return centroids, [nearest(x[i]) if i in seen else -1 for i in range(len(x))]


@pytest.mark.parametrize('chunk', [7, 64, 4096])
@pytest.mark.parametrize('iterations', [0, 1, 6])
def test_spherical_clusters_are_of_directions_that_were_seen(chunk, iterations, float64):
    """Unseen rows are zero; of two equal starts the second has nothing, and stays."""
    x, start = (unit(rows) for rows in blobs())
    x[[0, 5, 150, 202]] = 0
    start[3] = start[1]
    expected, nearest = spherically(x, start, iterations)
    centroids, label = run(x, start, iterations, spherical=True, chunk=chunk)
    np.testing.assert_allclose(centroids, expected, atol=1e-12)
    np.testing.assert_array_equal(label, nearest)
    assert iterations > 1 or np.array_equal(centroids[3], start[3])
    assert [i for i, c in enumerate(np.asarray(label)) if c < 0] == [0, 5, 150, 202]


def test_an_empty_cluster_takes_half_of_the_largest(float64):
    """Two of four centroids are too far away for any row: the first takes half of 20 rows, then the
    second half of 12."""
    x = np.concatenate([np.full((12, 2), [1.0, 1.0]), np.full((20, 2), [-1.0, -2.0])])
    start = np.array([[1.0, 1.0], [90.0, 90.0], [-1.0, -2.0], [91.0, 90.0]])
    centroids, _ = run(x, start, 1)
    up, down = 1 + 1 / 1024, 1 - 1 / 1024
    expected = [[down, up], [-1 * up, -2 * down], [-1 * down, -2 * up], [up, down]]
    np.testing.assert_allclose(centroids, expected, atol=1e-12)


def test_no_cluster_stays_empty_that_can_be_filled():
    x, start = np.float32(blobs()[0]), np.full((K, 3), 50, np.float32) + np.eye(K, 3)
    _, label = run(x, start, 30)
    assert np.bincount(label, minlength=K).min() > 0
    centroids, _ = run(x[:2], x[:K], 5)  # fewer rows than clusters
    assert np.isfinite(centroids).all()


def test_distances_of_millions_of_rows_are_never_there_at_once():
    """DeepCluster's 10,000 clusters of ImageNet: all distances would take 51 GB."""
    described = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    program = run.lower(described(1281167, 8), described(10000, 8), 2).compile()
    assert program.memory_analysis().temp_size_in_bytes < 1e9


# Whitening


@pytest.mark.parametrize('chunk', [50, 64, 4096])
@pytest.mark.parametrize('dimensions', [1, 4, 6])
def test_whitened_rows_are_scikit_learns(chunk, dimensions):
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(150, 6)) @ rng.normal(size=(6, 6)) + 3)
    expected = PCA(dimensions, whiten=True, svd_solver='full').fit_transform(x.astype(np.float64))
    found = pca_whiten(x, dimensions, chunk)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found), np.abs(unit(expected)), atol=1e-6)
    # up to the sign of a whole component
    np.testing.assert_allclose(found @ found.T, unit(expected) @ unit(expected).T, atol=1e-5)


def test_directions_that_are_not_there_are_left_out():
    rng = np.random.default_rng(0)
    thin = np.float32(rng.normal(size=(50, 3)))
    x = np.concatenate([thin, thin[:, :2], np.zeros((50, 2), np.float32)], 1)  # 7 of rank 3
    found = pca_whiten(x, 5)
    assert found.shape == (50, 3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    assert pca_whiten(x[:3], 5).shape == (3, 2)
    with pytest.raises(Problem, match='the same'):
        pca_whiten(np.ones((5, 3), np.float32), 2)
