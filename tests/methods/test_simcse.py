"""The claims of SimCSE: a sentence finds its positive among those of the global batch and their hard
negatives, in one direction; without a positive it is its own, under another dropout mask."""

import jax
import numpy as np
import pytest

from clr_jax.encoders.bert import bert
from clr_jax.entry import Problem
from clr_jax.methods.simcse import simcse
from tests import oracles
from tests.methods.tiny import BATCH, Linear, batch, outcome, start, unit
from tests.steps import double

TEMPERATURE = 0.3
BERT = {'width': 8, 'depth': 1, 'heads': 2, 'hidden': 8, 'vocabulary': 20, 'length': 6}
TOKENS = np.random.default_rng(0).integers(1, 20, (BATCH, 6)).astype(np.int32)
TOKENS[::3, 4:] = 0
SENTENCES = {'views': (TOKENS,), 'label': np.full(BATCH, -1, np.int32), 'index': np.arange(BATCH)}


def build(**settings):
    return simcse(Linear(), temperature=TEMPERATURE, **settings)


def begin():
    method = simcse(bert(**BERT, dropout=0.4), temperature=TEMPERATURE)
    with jax.enable_x64(True):
        return method, *jax.device_get(double(method.init(jax.random.key(1), SENTENCES)))


def projected(params, view):
    """Linear and its head."""
    first, head = params['encoder']['Dense_0'], params['projector']['dense']
    h = view.reshape(BATCH, -1) @ first['kernel'] + first['bias']
    return h, np.tanh(h @ head['kernel'] + head['bias'])


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('views', [2, 3])
def test_the_loss_is_info_nce_of_cosines_in_one_direction(views, devices):
    method = build(hard_weight=0.6)
    params, state = start(method, views)
    params = jax.tree.map(lambda p: 3 * p, params)
    out = outcome(method, params, state, batch(views), devices)
    query, key, *hard = (unit(projected(params, view)[1]) for view in batch(views)['views'])
    expected = oracles.info_nce(
        query, key, TEMPERATURE, hard=hard[0] if hard else None, hard_weight=0.6
    )
    np.testing.assert_allclose(out.loss, expected, rtol=1e-10)
    back = oracles.info_nce(key, query, TEMPERATURE, hard=hard[0] if hard else None)
    assert abs(out.loss - back) > 1e-4
    assert len(set(out.own)) == devices  # each shard answers for its own rows
    for n, view in enumerate(batch(views)['views'][:2]):
        h, z = projected(params, view)
        np.testing.assert_allclose(out.h[:, n], h, rtol=1e-9)
        np.testing.assert_allclose(out.z[:, n], z, rtol=1e-9, atol=1e-12)


def test_a_sentence_alone_is_its_own_positive_under_another_dropout_mask():
    method, params, state = begin()
    out = outcome(method, params, state, SENTENCES, 1)
    apart = np.abs(out.z[:, 0] - out.z[:, 1]).max(1)
    assert (apart > 1e-6).all()
    expected = oracles.info_nce(unit(out.z[:, 0]), unit(out.z[:, 1]), TEMPERATURE)
    np.testing.assert_allclose(out.loss, expected, rtol=1e-10)
    # the same sentence in another row has another mask, on any number of devices
    same = SENTENCES | {'views': (np.repeat(TOKENS[:1], BATCH, 0),)}
    out = outcome(method, params, state, same, 8)
    assert len(np.unique(out.z.reshape(2 * BATCH, -1), axis=0)) == 2 * BATCH
    one = outcome(method, params, state, same, 1)
    np.testing.assert_allclose(out.z, one.z, rtol=0, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-9), out.grads, one.grads)


def test_the_head_is_in_the_features_if_asked_for():
    params, state = start(build())
    h, z = projected(params, batch()['views'][0])
    with jax.enable_x64(True):
        found = build().features(params, state, batch())
        kept = build(head_in_features=True).features(params, state, batch())
    np.testing.assert_allclose(found['h'], h, rtol=1e-9)
    for of in (found['z'], kept['z'], kept['h']):
        np.testing.assert_allclose(of, z, rtol=1e-9, atol=1e-12)
    out = outcome(build(head_in_features=True), params, state, batch(), 1)
    np.testing.assert_array_equal(out.h, out.z)
    assert 'projector' not in start(build(head=False))[0]


def test_other_numbers_of_views_are_refused():
    with pytest.raises(Problem, match='takes 2 views of an example; config.views makes 4'):
        start(build(), 4)
    with pytest.raises(Problem, match='config.method.temperature=0.0: must be above 0'):
        simcse(Linear(), temperature=0.0)
