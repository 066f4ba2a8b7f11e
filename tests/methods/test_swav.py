"""The claims of SwAV: each large crop is assigned to prototypes that all rows share equally, and
predicted from every other crop; a queue shares them too, when its time has come; prototypes are
unit, and stay where they are while the config freezes them."""

from functools import cache

import jax
import numpy as np
import pytest

from clr_jax import networks, optimizers, parallel, train
from clr_jax.entry import Problem
from clr_jax.heads import MLP
from clr_jax.methods.swav import swav
from clr_jax.networks import Network
from tests.methods import tiny
from tests.methods.tiny import BATCH, Linear, close, outcome, unit

PROTOTYPES, QUEUE, TEMPERATURE, EPSILON = 5, 40, 0.2, 0.1


def build(**settings):
    shape = {'projector': (8, 4), 'prototypes': PROTOTYPES, 'epsilon': EPSILON}
    return swav(Linear(), **shape | {'temperature': TEMPERATURE} | settings)


def batch(seed=0, small=2):
    """Two large crops and `small` small ones, here of the same size: `Linear` knows only one."""
    return tiny.batch(2 + small, seed)


@cache
def begun(**settings):
    with jax.enable_x64(True):
        params, state = tiny.start(build(**settings), 4)
        # float32's unit rows, in float64
        return params | {'prototypes': unit(params['prototypes'])}, state


def shared_equally(scores, iterations=3):
    """The paper's iterations on Q [K, N], from scores [N, K]; -> codes [N, K]."""
    q = np.exp(scores.T / EPSILON)
    q /= q.sum()
    k, n = q.shape
    for _ in range(iterations):
        for row in range(k):
            q[row] /= q[row].sum() * k
        for column in range(n):
            q[:, column] /= q[:, column].sum() * n
    return (q * n).T


def swapped(z, prototypes, codes):
    """1/2 sum_c 1/(V-1) sum_{v != c} mean_b -sum_k q log p, crop by crop, row by row."""
    b, views, _ = z.shape
    value = 0.0
    for c in (0, 1):
        for v in set(range(views)) - {c}:
            for row in range(b):
                logits = [unit(z[row, v]) @ prototype / TEMPERATURE for prototype in prototypes]
                log_p = logits - np.log(np.exp(logits).sum())
                value -= codes[c][row] @ log_p / (2 * (views - 1) * b)
    return value


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('small', [0, 2])
def test_each_large_crop_is_predicted_from_all_others(devices, small, float64):
    """Value, and gradients by central differences with the codes held: they have none."""
    params, state = begun()
    data = batch(small=small)
    out = outcome(build(), params, state, data, devices)
    head = MLP((8, 4), bias=True, last_norm=None, last_bias=True, kernel_std=0.0)
    network = Network(Linear(), head)

    def embedded(params):
        views, _ = networks.apply_views(network, params, state.stats, data['views'])
        return np.asarray(networks.stack(views).z)

    z, prototypes = embedded(params), params['prototypes']
    codes = [shared_equally(unit(z[:, c]) @ prototypes.T) for c in (0, 1)]
    np.testing.assert_allclose(out.loss, swapped(z, prototypes, codes), rtol=1e-10)
    entropy = -np.mean([(q * np.log(q)).sum(1) for q in codes])
    np.testing.assert_allclose(out.metrics['codes_entropy'], entropy, rtol=1e-10)
    np.testing.assert_allclose(out.z, unit(z[:, :2]), rtol=1e-9)

    rng = np.random.default_rng(0)
    for _ in range(3):  # along directions of all parameters at once
        way = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
        moved = lambda t, way=way: jax.tree.map(lambda p, d: p + t * d, params, way)
        at = lambda t: swapped(embedded(moved(t)), moved(t)['prototypes'], codes)
        slope = sum(map(np.vdot, jax.tree.leaves(out.grads), jax.tree.leaves(way)))
        np.testing.assert_allclose(slope, (at(1e-6) - at(-1e-6)) / 2e-6, rtol=1e-6)


def test_prototypes_begin_and_remain_unit(float64):
    params, state = tiny.start(build(), 4)
    np.testing.assert_allclose(np.linalg.norm(params['prototypes'], axis=1), 1, atol=1e-6)
    before = params['prototypes']
    for after, _, _ in tiny.train(build(), params, state, [batch(seed=n) for n in range(3)]):
        np.testing.assert_allclose(np.linalg.norm(after['prototypes'], axis=1), 1, atol=1e-12)
        assert np.abs(after['prototypes'] - before).max() > 1e-4
        before = after['prototypes']


def test_prototypes_stay_while_they_are_frozen_and_the_rest_moves(float64):
    """A whole step, with decay and momentum, and the group of the config."""
    section = {'name': 'lars', 'learning_rate': 4.8, 'ratio': 'larc', 'weight_decay': 0.1}
    groups = {'prototypes': {'pattern': '^prototypes$', 'freeze_until': 3}}
    pace = {'steps_per_epoch': 2, 'total_steps': 6}
    optimizer = optimizers.optimizer(section, groups, batch_size=BATCH, **pace)
    mesh = parallel.make_mesh(jax.devices()[:2])
    step = train.make_step(build(), optimizer, mesh, seed=0, **pace)
    params, state = begun()
    ts = train.TrainState(np.int32(0), params, optimizer.init(params), state)
    ts = jax.device_put(ts, parallel.replicated(mesh))
    for number in range(5):
        ts, _ = step(ts, parallel.spread(batch(), mesh))
        ts = jax.tree.map(np.array, ts)
        away = np.abs(ts.params['prototypes'] - params['prototypes']).max()
        assert away < 1e-15 if number < 3 else away > 1e-4
        kernel = ts.params['encoder']['Dense_0']['kernel']
        assert np.abs(kernel - params['encoder']['Dense_0']['kernel']).max() > 1e-5
        ts = jax.device_put(ts, parallel.replicated(mesh))


@cache
def queued(queue_epoch):
    method = build(queue_size=QUEUE, queue_epoch=queue_epoch)
    batches = [batch(seed=n) for n in range(6)]
    params, state = begun(queue_size=QUEUE)
    return [(params, state, None), *tiny.train(method, params, state, batches)]


@pytest.mark.parametrize(('queue_epoch', 'first'), [(0, 3), (1, 3), (4, 4)])
def test_a_queue_shares_the_prototypes_from_an_epoch_on_once_it_is_full(
    queue_epoch, first, float64
):
    """40 places, 16 rows a step, an epoch each: full after three. Old embeddings meet the
    prototypes of the step."""
    run = queued(queue_epoch)
    for step, ((params, state, _), (_, _, out)) in enumerate(zip(run, run[1:], strict=False)):
        prototypes, codes = params['prototypes'], {}
        for use in (False, True):
            rows = [
                np.concatenate([out.z[:, c], *[state.queues[c]] * use]) @ prototypes.T
                for c in (0, 1)
            ]
            codes[use] = [shared_equally(scores)[:BATCH] for scores in rows]
        entropy = {use: -np.mean([(q * np.log(q)).sum(1) for q in codes[use]]) for use in codes}
        assert abs(entropy[True] - entropy[False]) > 1e-6
        np.testing.assert_allclose(out.metrics['codes_entropy'], entropy[step >= first], rtol=1e-9)


@pytest.mark.parametrize('devices', [1, 8])
def test_the_loss_with_a_queue_is_the_papers_on_any_devices(devices, float64):
    method = build(queue_size=QUEUE, queue_epoch=0)
    params, state, _ = queued(0)[5]
    out = outcome(method, params, state, batch(small=0), devices, step=5)
    prototypes = params['prototypes']
    codes = [
        shared_equally(np.concatenate([out.z[:, c], state.queues[c]]) @ prototypes.T)[:BATCH]
        for c in (0, 1)
    ]
    np.testing.assert_allclose(out.loss, swapped(out.z, prototypes, codes), rtol=1e-10)


def test_the_queues_hold_the_large_crops_of_the_last_batches_in_order():
    run = queued(1)[1:]
    _, state, _ = run[-1]
    assert state.cursor == 6 * BATCH % QUEUE
    for c in (0, 1):
        last = np.concatenate([out.z[:, c] for _, _, out in run])[-QUEUE:]
        np.testing.assert_allclose(np.roll(state.queues[c], -state.cursor, 0), last, rtol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(state.queues[c], axis=1), 1, rtol=1e-9)


def test_without_a_queue_there_is_none_in_the_state():
    assert not jax.tree.leaves(begun()[1].queues)


def test_others_start_from_the_network_without_prototypes():
    params, state = begun()
    variables = build().variables(params, state)
    assert variables['params'].keys() == {'encoder', 'projector'}
    close(variables['params']['projector'], params['projector'])
    assert params['projector']['dense1'].keys() == {'kernel', 'bias'}
    assert params['projector'].keys() == {'dense1', 'bn1', 'dense2'}
    assert params['projector']['dense2'].keys() == {'kernel', 'bias'}


def test_a_loss_of_ln_k_and_codes_of_that_entropy_tell_nothing_apart():
    """What a collapse looks like."""
    params, state = begun()
    same = params | {'prototypes': np.tile(params['prototypes'][:1], (PROTOTYPES, 1))}
    out = outcome(build(), same, state, batch())
    np.testing.assert_allclose(out.loss, np.log(PROTOTYPES), rtol=1e-9)
    np.testing.assert_allclose(out.metrics['codes_entropy'], np.log(PROTOTYPES), rtol=1e-9)


@pytest.mark.parametrize('name', ['epsilon', 'temperature'])
def test_impossible_settings_are_refused(name):
    with pytest.raises(Problem, match=f'config.method.{name}=0: must be above 0'):
        build(**{name: 0})


def test_it_takes_two_views_or_more():
    with pytest.raises(Problem, match='2 views of an example or more; config.views makes 1'):
        tiny.start(build(), 1)
