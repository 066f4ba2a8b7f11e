"""The claims of DeepCluster: the clusters of an epoch are those of scikit-learn, each counts the same
however large it is, and the classifier of the last ones is forgotten."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score

from clr_jax.entry import CONFIG, Problem
from clr_jax.methods.deepcluster import deepcluster, mutual_information
from tests import oracles
from tests.methods.tiny import BATCH, Linear, batch, now, outcome, start
from tests.steps import kinds

EXAMPLES, CLUSTERS, WIDTH = 40, 5, 6


def build(examples=EXAMPLES, **settings):
    return deepcluster(Linear(), examples, **{'clusters': CLUSTERS, 'dimensions': 4} | settings)


def data(seed=0):
    return batch(1, seed) | {'index': np.int32(2 * np.arange(BATCH) + seed)}


def labelled(state, seed=1):
    """With labels and weights of no order."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLUSTERS, EXAMPLES, np.int32)
    return state._replace(label=label, weight=rng.uniform(0.5, 2, CLUSTERS))


def refreshed(method, params, state, h, seed=0):
    return method.refresh(params, state, h, key=jax.random.key(seed), time=now())


def groups(n, means=CLUSTERS, seed=0):
    """Well separated features [n, 6] of unequal groups, not in the order of these."""
    rng = np.random.default_rng(seed)
    places = 10 * rng.normal(size=(means, WIDTH))
    group = np.minimum(rng.geometric(0.4, n) - 1, means - 1)
    h = places[group] + 0.1 * rng.normal(size=(n, WIDTH))
    return h.astype(np.float32), group


@pytest.mark.parametrize('devices', [1, 8])
def test_the_loss_is_the_weighted_cross_entropy_of_the_clusters(devices):
    """In value and in every gradient; the classifier sees relu(h)."""
    method = build()
    params, state = start(method, 1)
    state, rng = labelled(state), np.random.default_rng(2)
    params['predictor'] = jax.tree.map(lambda x: rng.normal(size=x.shape), params['predictor'])
    out = outcome(method, params, state, data(), devices)
    x, index = data()['views'][0].reshape(BATCH, -1), data()['index']

    def expected(kernel, bias, last_kernel, last_bias):
        h, losses = x @ kernel + bias, []
        for row, i in zip(h, index, strict=True):
            label = state.label[i]
            logits = np.maximum(row, 0) @ last_kernel + last_bias
            losses.append(state.weight[label] * oracles.cross_entropy(logits, label))
        return np.mean(losses)

    encoder, last = params['encoder']['Dense_0'], params['predictor']
    leaves = encoder['kernel'], encoder['bias'], last['kernel'], last['bias']
    np.testing.assert_allclose(out.loss, expected(*leaves), rtol=1e-12)
    encoder, last = out.grads['encoder']['Dense_0'], out.grads['predictor']
    found = encoder['kernel'], encoder['bias'], last['kernel'], last['bias']
    for one, other in zip(found, oracles.gradient(expected, *leaves), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-8)
    np.testing.assert_allclose(out.h[:, 0], x @ leaves[0] + leaves[1], rtol=1e-12)
    np.testing.assert_array_equal(out.h, out.z)


def test_a_step_changes_no_label():
    method = build()
    params, state = start(method, 1)
    state = labelled(state)._replace(nmi=np.float64(0.3))
    out = outcome(method, params, state, data())
    for name in ('label', 'weight', 'nmi'):
        np.testing.assert_array_equal(getattr(out.state, name), getattr(state, name))
    assert out.metrics == {'nmi': 0.3}


# Seeds with which no cluster runs empty on the way: scikit-learn fills it otherwise.
@pytest.mark.parametrize('seed', [0, 1, 3])
def test_clusters_are_those_of_scikit_learn_from_the_same_rows(seed):
    """Principal components, whitened, as unit rows; then Lloyd's iterations, to their end."""
    h, _ = groups(300, means=12, seed=seed)
    method = build(300, clusters=9, dimensions=4)
    _, state = refreshed(method, *start(method, 1), h, seed)
    x = PCA(4, whiten=True, svd_solver='full').fit_transform(h.astype(np.float64))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    chosen = jax.random.choice(jax.random.key(seed), 300, (9,), replace=False)
    lloyd = KMeans(9, init=x[np.asarray(chosen)], n_init=1, max_iter=20, tol=0).fit(x)
    assert len(set(lloyd.labels_)) == 9
    np.testing.assert_array_equal(state.label, lloyd.labels_)


def test_the_whole_of_the_iterations_is_used():
    h = np.random.default_rng(0).normal(size=(200, WIDTH)).astype(np.float32)
    label = {}
    for iterations in (1, 20):
        method = build(200, clusters=8, iterations=iterations)
        label[iterations] = refreshed(method, *start(method, 1), h)[1].label
    assert np.mean(label[1] != label[20]) > 0.1


# Of three places five clusters find three.
@pytest.mark.parametrize(('places', 'filled'), [(5, None), (3, 3)])
def test_each_cluster_counts_the_same_however_large_it_is(places, filled):
    """The weighted mean over all examples is what examples drawn of clusters drawn uniformly have in
    the mean (section 3.3); weights are 1 in the mean."""
    h, group = groups(200, places)
    h = h if filled is None else groups(places, places)[0][group]
    method = build(200)
    _, state = refreshed(method, *start(method, 1), h)
    size = np.bincount(state.label, minlength=CLUSTERS)
    assert len(set(size[size > 0])) > 1
    assert filled is None or (size > 0).sum() == filled
    value = np.random.default_rng(1).normal(size=200)
    each = [value[state.label == cluster].mean() for cluster in range(CLUSTERS) if size[cluster]]
    weight = state.weight[state.label]
    np.testing.assert_allclose((weight * value).mean(), np.mean(each), rtol=1e-12)
    np.testing.assert_allclose(weight.mean(), 1, rtol=1e-12)


def test_the_classifier_begins_anew_and_nothing_else_moves():
    method = build(2000, clusters=200)
    params, state = method.init(jax.random.key(1), batch(1))
    params['predictor'] = jax.tree.map(jnp.ones_like, params['predictor'])
    state = state._replace(stats={'bn': jnp.arange(3.0)})
    h = np.random.default_rng(0).normal(size=(2000, WIDTH)).astype(np.float32)
    new, after = refreshed(method, params, state, h)
    other, _ = refreshed(method, params, state, h, seed=1)
    assert kinds((new, after)) == kinds((params, state))
    assert new['encoder'] is params['encoder']
    np.testing.assert_array_equal(after.stats['bn'], state.stats['bn'])
    kernel = np.asarray(new['predictor']['kernel'])
    assert kernel.shape == (WIDTH, 200)
    assert abs(kernel.mean()) < 0.002
    assert kernel.std() == pytest.approx(0.01, rel=0.1)
    assert not np.any(new['predictor']['bias'])
    assert np.abs(kernel - other['predictor']['kernel']).min() > 0  # by key
    assert (after.label != state.label).mean() > 0.9


def test_until_the_first_refresh_labels_are_arbitrary_and_all_weigh_the_same():
    params, state = start(build(), 1)
    assert set(state.label) == set(range(CLUSTERS))
    np.testing.assert_array_equal(state.weight, 1)
    assert params['predictor']['kernel'].std() == pytest.approx(0.01, rel=0.5)
    assert not params['predictor']['bias'].any()


def test_what_two_clusterings_say_of_each_other_is_their_normalised_mutual_information():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 7, 500), rng.integers(0, 4, 500)
    b = np.where(rng.random(500) < 0.6, a % 4, b).astype(np.int32)
    expected = normalized_mutual_info_score(a, b, average_method='geometric')
    assert 0.1 < expected < 0.9
    assert mutual_information(a, b) == pytest.approx(expected, abs=1e-12)
    assert mutual_information(b, a) == pytest.approx(expected, abs=1e-12)
    assert mutual_information(a, (3 * a + 2) % 7) == pytest.approx(1, abs=1e-12)
    assert mutual_information(a, np.zeros(500, int)) == pytest.approx(0, abs=1e-9)


def test_a_refresh_compares_its_clusters_with_the_last():
    method = build(200)
    params, state = start(method, 1)
    h, _ = groups(200)
    _, first = refreshed(method, params, state, h)
    _, second = refreshed(method, params, first, h, seed=3)
    for before, after in ((state, first), (first, second)):
        expected = normalized_mutual_info_score(
            before.label, after.label, average_method='geometric'
        )
        assert after.nmi == pytest.approx(expected, abs=1e-12)
    assert first.nmi < 0.2 < 0.5 < second.nmi


@pytest.mark.parametrize('clusters', [1, 41])
def test_an_impossible_number_of_clusters_is_a_problem_of_one_line(clusters):
    message = f'config.method.clusters={clusters}: from 2 to the 40 training examples'
    with pytest.raises(Problem, match=f'^{re.escape(message)}$') as problem:
        build(clusters=clusters)
    assert problem.value.code == CONFIG


def test_it_takes_one_view():
    with pytest.raises(Problem, match='the method takes 1 views of an example'):
        start(build(), 2)
