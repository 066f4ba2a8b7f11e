"""The claims of quick thoughts: by inner products, f of a sentence finds g of the one beside it among
those of all other sentences of the global batch, in both directions."""

import jax
import numpy as np
import pytest

from clr_jax.entry import Problem
from clr_jax.methods.quickthoughts import quickthoughts
from tests import oracles
from tests.methods.tiny import BATCH, Linear, batch, close, outcome, start


def embedded(params, name):
    """-> [B, 2, 6], what an encoder says of both sentences."""
    dense = params[name]['Dense_0']
    views = [view.reshape(BATCH, -1) for view in batch()['views']]
    return np.stack([view @ dense['kernel'] + dense['bias'] for view in views], 1)


def oracle(f, g):
    """One sentence after the other, among 2 B - 1 candidates."""
    every, losses = [(n, v) for n in range(BATCH) for v in (0, 1)], []
    for n, v in every:
        others = [other for other in every if other != (n, v)]
        scores = [np.dot(f[n, v], g[other]) for other in others]
        losses.append(oracles.cross_entropy(scores, others.index((n, 1 - v))))
    return np.mean(losses)


@pytest.mark.parametrize('devices', [1, 8])
def test_a_sentence_finds_its_neighbour_among_all_others(devices):
    method = quickthoughts(Linear())
    params, state = start(method)
    out = outcome(method, params, state, batch(), devices)
    f, g = (embedded(params, name) for name in ('encoder', 'context'))
    assert np.abs(f - g).max() > 0.1
    np.testing.assert_allclose(out.loss, oracle(f, g), rtol=1e-10)
    assert abs(out.loss - oracle(g, f)) > 1e-4
    np.testing.assert_allclose(out.metrics['information'], np.log(31) - out.loss, rtol=1e-6)
    np.testing.assert_allclose(out.h, np.concatenate([f, g], -1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(out.z, np.stack([f[:, 0], g[:, 1]], 1), rtol=1e-9, atol=1e-12)
    if devices == 8:
        assert len(set(out.own)) == 8  # each shard answers for its own rows
        close(out.grads, outcome(method, params, state, batch(), 1).grads)


def test_one_encoder_for_both_is_nt_xent_of_inner_products():
    method = quickthoughts(Linear(), shared=True)
    params, state = start(method)
    out = outcome(method, params, state, batch())
    assert params.keys() == {'encoder'}
    f = embedded(params, 'encoder')
    np.testing.assert_allclose(out.loss, oracles.nt_xent(f, 1.0, normalized=False), rtol=1e-10)
    np.testing.assert_allclose(out.h, f, rtol=1e-9, atol=1e-12)


def test_the_features_are_those_of_both_encoders():
    method = quickthoughts(Linear())
    params, state = start(method)
    with jax.enable_x64(True):
        found = method.features(params, state, batch(1))['h']
    both = [embedded(params, name)[:, 0] for name in ('encoder', 'context')]
    np.testing.assert_allclose(found, np.concatenate(both, -1), rtol=1e-9, atol=1e-12)


def test_other_numbers_of_views_are_refused():
    with pytest.raises(Problem, match='takes 2 views of an example; config.views makes 3'):
        start(quickthoughts(Linear()), 3)
