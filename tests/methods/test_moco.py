"""The claims of MoCo: the queue holds the last keys in order, and no query meets a key of its own
batch in it; the key network is an average; with grouped statistics the keys are shuffled."""

from functools import cache

import jax
import numpy as np
import pytest

from clr_jax.entry import Problem
from clr_jax.methods.moco import moco
from tests import oracles
from tests.methods.tiny import BATCH, Linear, batch, close, outcome, start, train, unit

QUEUE, MOMENTUM, TEMPERATURE = 40, 0.7, 0.3


def build(groups=0, **settings):
    settings = {'projector': (5, 4), 'queue_size': QUEUE, 'bn_groups': max(groups, 1)} | settings
    return moco(Linear(groups), temperature=TEMPERATURE, momentum=MOMENTUM, **settings)


@cache
def run():
    return train(build(), *start(build()), [batch(seed=n) for n in range(4)])


@pytest.mark.parametrize('devices', [1, 8])
def test_the_loss_is_info_nce_against_the_queue_of_earlier_batches(devices):
    params, state = start(build())
    out = outcome(build(), params, state, batch(), devices)
    query, key = unit(out.z[:, 0]), unit(out.z[:, 1])
    expected = oracles.info_nce(query, key, TEMPERATURE, negatives=state.queue)
    np.testing.assert_allclose(out.loss, expected, rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(state.queue, axis=1), 1, rtol=1e-6)


def test_the_queue_holds_the_last_keys_in_order():
    keys = [unit(out.z[:, 1]) for _, _, out in run()]
    last = np.concatenate(keys)[-QUEUE:]  # [K, d], the oldest first
    _, state, _ = run()[-1]
    assert state.cursor == 4 * BATCH % QUEUE
    np.testing.assert_allclose(np.roll(state.queue, -state.cursor, 0), last, rtol=1e-9)


def test_the_key_network_is_an_average_of_parameters_with_statistics_of_its_own():
    params, state = start(build())
    close(state.target, params)
    target = state.target
    for params, state, _ in run():
        target = jax.tree.map(lambda t, p: MOMENTUM * t + (1 - MOMENTUM) * p, target, params)
        close(state.target, target)
    method = build(groups=1)
    params, state = start(method)
    (_, state, out), *_ = train(method, params, state, [batch()])
    h = [
        view.reshape(BATCH, -1) @ params['encoder']['Dense_0']['kernel']
        for view in batch()['views']
    ]
    fresh = lambda stats: stats['encoder']['BatchNorm_0']['mean']
    np.testing.assert_allclose(fresh(state.stats), 0.1 * h[0].mean(0), rtol=1e-9)
    np.testing.assert_allclose(fresh(state.target_stats), 0.1 * h[1].mean(0), rtol=1e-9)


def keys(groups: int, devices: int = 1):
    method = build(groups)
    params, state = start(method)
    return unit(outcome(method, params, state, batch(), devices, groups=groups).z[:, 1])


def test_keys_of_grouped_statistics_are_computed_in_another_order():
    """In their own order, a group's keys would be those of its queries' images alone."""
    method = build(2)
    params, state = start(method)
    x = batch()['views'][1].reshape(BATCH, -1) @ params['encoder']['Dense_0']['kernel']
    x = x + params['encoder']['Dense_0']['bias']

    def project(h):
        p = params['projector']
        h = np.maximum(h @ p['dense1']['kernel'] + p['dense1']['bias'], 0)
        return unit(h @ p['dense2']['kernel'] + p['dense2']['bias'])

    unshuffled = project(oracles.batch_norm(x, 2, 1.0, 0.0)[0])
    found = keys(2)
    assert np.abs(found - unshuffled).max() > 1e-3
    # whatever the order, each key is its row's, normalised with one of two halves of the batch
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0), 1)
    with jax.enable_x64(True):
        order = np.asarray(jax.random.permutation(key, BATCH))
    shuffled = np.empty_like(x)
    shuffled[order] = oracles.batch_norm(x[order], 2, 1.0, 0.0)[0]
    np.testing.assert_allclose(found, project(shuffled), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('devices', [2, 8])
def test_the_shuffle_does_not_depend_on_the_devices(devices):
    np.testing.assert_allclose(keys(2, devices), keys(2), rtol=1e-9, atol=1e-12)


def test_symmetric_is_the_sum_of_both_directions_and_queues_both():
    method = build(symmetric=True)
    params, state = start(method)
    both = outcome(method, params, state, batch())
    swapped = batch() | {'views': batch()['views'][::-1]}
    one, other = (outcome(build(), params, state, data) for data in (batch(), swapped))
    np.testing.assert_allclose(both.loss, one.loss + other.loss, rtol=1e-12)
    filled = both.state.queue[: 2 * BATCH]
    np.testing.assert_allclose(filled, np.concatenate([unit(o.z[:, 1]) for o in (one, other)]))
    assert both.state.cursor == 2 * BATCH


def test_a_queue_shorter_than_a_batch_is_refused():
    method = build(queue_size=8)
    with pytest.raises(Problem, match='a queue of 8 does not hold a batch of 16'):
        outcome(method, *start(method), batch())


def test_v1_has_one_layer_and_no_norms():
    params, _ = start(build(projector=(4,)))
    assert params['projector'].keys() == {'dense1'}
    assert params['projector']['dense1'].keys() == {'kernel', 'bias'}
