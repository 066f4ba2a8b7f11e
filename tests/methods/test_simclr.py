"""The claims of SimCLR: negatives are the global batch, both views share their statistics."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import networks, parallel
from clr_jax.entry import CONFIG, Problem
from clr_jax.heads import MLP
from clr_jax.method import load, make_time
from clr_jax.methods.simclr import simclr
from clr_jax.networks import Network
from tests import oracles
from tests.methods import tiny

BATCH = 16
MOMENTUM, EPSILON = 0.9, 1e-5  # of batch statistics


class Linear(nn.Module):
    """The least encoder: [n, 4, 4, 3] -> [n, 6]. How SimCLR treats it is the same for any other."""

    @nn.compact
    def __call__(self, x, rows):
        return nn.Dense(6, dtype=x.dtype)(x.reshape(len(x), -1))


def build(**settings):
    return simclr(Linear(), **{'projector': (8, 4), 'temperature': 0.5} | settings)


def batch() -> dict:
    """Two unlike views, so that statistics of one of them are not those of both."""
    rng = np.random.default_rng(0)
    images = rng.random((BATCH, 4, 4, 3))
    views = images, 0.5 * images**2 + 0.1 * rng.random(images.shape)
    number = np.arange(BATCH, dtype=np.int32)
    return {'views': views, 'label': number, 'index': number}


@cache
def start():
    """Parameters and state, in float64 as everything here."""
    with jax.enable_x64(True):
        params, state = build().init(jax.random.key(1), batch())
        return jax.tree.map(lambda x: x.astype(np.float64), (params, state))


NOW = make_time(jnp.zeros((), jnp.int32), 1, 1)


@cache
def outcome(devices: int, **settings):
    """On a mesh: the mean of the shards' losses, each one's own, all of z and h, state, metrics."""
    method, mesh = build(**settings), parallel.make_mesh(jax.devices()[:devices])

    def on_shard(params, state, batch):
        loss, aux = method.loss(params, state, batch, key=None, time=NOW)
        whole = parallel.gather_state
        metrics = parallel.mean(aux.metrics)
        return (
            parallel.mean(loss),
            whole(loss[None]),
            whole(aux.z),
            whole(aux.h),
            aux.state,
            metrics,
        )

    specs = jax.P(), jax.P(), jax.P(parallel.DATA)
    with jax.enable_x64(True):
        run = jax.jit(parallel.shard(on_shard, mesh, specs, jax.P()))
        return jax.device_get(run(*start(), parallel.spread(batch(), mesh)))


def test_negatives_are_the_whole_global_batch():
    loss, own, z, *_ = outcome(8)
    assert z.shape == (BATCH, 2, 4)
    np.testing.assert_allclose(loss, oracles.nt_xent(z, 0.5), rtol=1e-12)
    alone = [oracles.nt_xent(shard, 0.5) for shard in np.split(z, 8)]
    assert loss > np.mean(alone) + 1  # to be told from 30 others is harder than from 2
    assert len(set(own)) == 8  # each shard answers for its own rows


def test_both_views_share_their_batch_statistics():
    """The projector again in NumPy, from the features h: its norms see all 2B rows at once."""
    _, _, z, h, after, _ = outcome(8)
    p, stats = jax.device_get(start()[0]['projector']), after.stats['projector']

    def norm(x, name):  # x [n, c]
        layer = p[name]
        return oracles.batch_norm(x, 1, layer['scale'], layer.get('bias', 0.0), EPSILON)

    def project(h):  # [n, d] -> [n, e]
        x, mean, variance = norm(h @ p['dense1']['kernel'], 'bn1')
        return norm(np.maximum(x, 0) @ p['dense2']['kernel'], 'bn2')[0], mean, variance

    expected, mean, variance = project(h.reshape(2 * BATCH, -1))
    np.testing.assert_allclose(z.reshape(2 * BATCH, -1), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(stats['bn1']['mean'], (1 - MOMENTUM) * mean, rtol=1e-9)
    np.testing.assert_allclose(stats['bn1']['var'], MOMENTUM + (1 - MOMENTUM) * variance, rtol=1e-9)
    apart = np.stack([project(h[:, view])[0] for view in (0, 1)], 1)
    assert np.abs(z - apart).max() > 0.1  # statistics of each view alone are something else


def test_the_official_constant_doubles_the_gradient(float64):
    params, state = start()

    def loss(params, constant):
        return build(constant=constant).loss(params, state, batch(), key=None, time=NOW)[0]

    paper, official = jax.jit(lambda p: [jax.grad(loss)(p, c) for c in ('paper', 'official')])(
        params
    )
    for a, b in zip(jax.tree.leaves(paper), jax.tree.leaves(official), strict=True):
        np.testing.assert_allclose(b, 2 * a, rtol=1e-9, atol=1e-15)
    assert np.abs(paper['projector']['dense2']['kernel']).max() > 0.1


@pytest.mark.parametrize(('devices', 'constant', 'factor'), [(8, 'paper', 1), (1, 'official', 2)])
def test_information_is_the_bound_of_the_papers_loss(devices, constant, factor):
    loss, _, z, *_, metrics = outcome(devices, **({'constant': constant} if factor > 1 else {}))
    np.testing.assert_allclose(loss, factor * oracles.nt_xent(z, 0.5), rtol=1e-12)
    ceiling = np.log(2 * BATCH - 1)
    np.testing.assert_allclose(metrics['information_ceiling'], ceiling, rtol=1e-12)
    np.testing.assert_allclose(metrics['information'], ceiling - loss / factor, rtol=1e-12)


def test_the_logistic_loss_is_a_setting():
    loss, _, z, *_, metrics = outcome(8, loss='nt_logistic')
    np.testing.assert_allclose(loss, oracles.nt_logistic(z, 0.5), rtol=1e-12)
    assert not metrics  # it bounds no information


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        (
            {'loss': 'nt_logistic', 'mining': 'semi_hard'},
            lambda z: oracles.nt_logistic(z, 0.5, semi_hard=True),
        ),
        ({'loss': 'margin', 'margin': 0.8}, lambda z: oracles.margin(z, 0.8)),
        (
            {'loss': 'margin', 'mining': 'semi_hard'},
            lambda z: oracles.margin(z, 0.4, semi_hard=True),
        ),
        ({'normalized': False}, lambda z: oracles.nt_xent(z, 0.5, normalized=False)),
    ],
)
def test_the_losses_of_the_papers_comparison_are_settings(settings, expected):
    loss, _, z, *_ = outcome(8, **settings)
    np.testing.assert_allclose(loss, expected(z), rtol=1e-10)


def test_the_memory_holds_embeddings_of_a_slow_copy_and_they_are_negatives():
    """SimCLR v2: both views of a batch enter after its loss; the copy is an average of parameters."""
    method = build(memory=40, momentum=0.7)
    params, state = tiny.start(method)
    steps = tiny.train(method, params, state, [tiny.batch(seed=n) for n in range(2)])
    for (params, after, out), queue in zip(steps, (state.queue, steps[0][1].queue), strict=True):
        expected = oracles.nt_xent(out.z, 0.5, negatives=queue)
        np.testing.assert_allclose(out.loss, expected, rtol=1e-10)
        state = state._replace(
            target=jax.tree.map(lambda t, p: 0.7 * t + 0.3 * p, state.target, params)
        )
        tiny.close(after.target, state.target)
        np.testing.assert_allclose(np.linalg.norm(after.queue, axis=1), 1, rtol=1e-6)
    assert steps[1][1].cursor == 2 * 32 % 40
    np.testing.assert_allclose(
        steps[0][1].queue[:32], tiny.unit(steps[0][2].z.reshape(32, -1)), rtol=1e-9
    )
    np.testing.assert_array_equal(steps[1][1].queue[24:32], steps[0][1].queue[24:32])


def test_only_nt_xent_has_a_memory():
    with pytest.raises(Problem, match='only nt_xent has a memory'):
        build(loss='margin', memory=64)


@pytest.mark.parametrize('widths', [(5,), (8, 5), (8, 7, 5)])
def test_the_projector_has_one_to_three_layers(widths):
    method = build(projector=list(widths))
    params, state = jax.eval_shape(lambda: method.init(jax.random.key(0), batch()))
    kernels = [params['projector'][f'dense{i + 1}']['kernel'].shape for i in range(len(widths))]
    assert kernels == list(zip((6, *widths), widths, strict=False))
    assert len(params['projector']) == 2 * len(widths)
    for i in range(len(widths)):
        last = i == len(widths) - 1
        assert params['projector'][f'bn{i + 1}'].keys() == (
            {'scale'} if last else {'scale', 'bias'}
        )
    out = jax.eval_shape(method.features, params, state, batch())
    assert (out['h'].shape, out['z'].shape) == ((BATCH, 6), (BATCH, widths[-1]))


@pytest.mark.parametrize(
    ('settings', 'key', 'hint'),
    [
        ({'loss': 'nt_xnet'}, 'config.method.loss', 'did you mean "nt_xent"?'),
        ({'constant': 'oficial'}, 'config.method.constant', 'did you mean "official"?'),
        ({'temprature': 0.1}, 'config.method.temprature', 'did you mean "temperature"?'),
        ({'temperature': 0.0}, 'config.method.temperature', 'above 0'),
        ({'temperature': -1.0}, 'config.method.temperature', 'above 0'),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_right(settings, key, hint):
    with pytest.raises(Problem) as raised:
        load('clr_jax.methods', {'name': 'simclr', **settings}, encoder=Linear())
    assert raised.value.code == CONFIG
    assert key in str(raised.value)
    assert hint in str(raised.value)


@pytest.mark.parametrize('devices', [1, 8])
def test_with_multi_crop_the_loss_is_the_mean_over_pairs_with_a_large_crop(float64, devices):
    data = tiny.batch(small=2)
    method = simclr(tiny.Linear(), projector=(8, 4), temperature=0.5)
    params, state = tiny.start(method, small=2)
    out = tiny.outcome(method, params, state, data, devices)
    network = Network(tiny.Linear(), MLP((8, 4)))
    views, _ = networks.apply_views(network, params, state.stats, data['views'])
    z = np.stack([view.z for view in views], 1)  # [B, 4, e]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    expected = np.mean([oracles.nt_xent(z[:, list(pair)], 0.5) for pair in pairs])
    np.testing.assert_allclose(out.loss, expected, rtol=1e-10)
    assert out.z.shape[1] == out.h.shape[1] == 2
