"""The layers are their definitions, by example and not by device; rows keep their numbers."""

import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clr_jax import networks, parallel
from clr_jax.heads import MLP
from clr_jax.networks import BatchNorm, Conv, Dropout, Network
from tests import oracles
from tests.oracles import assert_close

B = 8
DEVICES = [1, 2, 8]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def on_devices(devices, f, in_specs, out_specs, groups=1):
    mesh = parallel.make_mesh(jax.devices()[:devices], groups=groups)
    return jax.jit(parallel.shard(f, mesh, in_specs, out_specs))


# Batch normalisation

X = normal(B, 2, 3) * [1, 2, 0.5] + [0, 1, -3]  # [B, n, c]: channels of different mean and spread
SCALE, BIAS = np.array([0.5, 1, 2]), np.array([1.0, 0, -1])
FRESH = {'mean': np.zeros(3), 'var': np.ones(3)}


@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('devices', DEVICES)
def test_batch_norm_is_over_the_global_batch_or_its_parts(float64, devices, groups):
    """Output, statistics and the exact gradient, through the statistics of all rows."""
    norm, weights = BatchNorm(groups=groups), normal(*X.shape, seed=1)

    def objective(x, params):
        mine = parallel.positions(B // parallel.size())
        variables = {'params': params, 'batch_stats': FRESH}
        y, updated = norm.apply(variables, x[mine], mine, mutable=['batch_stats'])
        value = (y * jnp.asarray(weights)[mine]).sum() / len(mine)
        return parallel.mean(value), (parallel.gather_state(y), updated['batch_stats'])

    def f(x, params):
        gradient = jax.grad(objective, (0, 1), has_aux=True)
        grads, aux = gradient(*parallel.vary((x, params)))
        return parallel.reduce(grads), aux

    params = {'scale': SCALE, 'bias': BIAS}
    grads, (y, stats) = on_devices(devices, f, (P(), P()), P(), groups)(X, params)
    true_y, mean, variance = oracles.batch_norm(X, groups, SCALE, BIAS)
    assert_close(y, true_y, 1e-12)
    assert_close(stats['mean'], 0.1 * mean, 1e-12)
    assert_close(stats['var'], 0.9 + 0.1 * variance, 1e-12)
    weighted = lambda x, scale, bias: (
        (oracles.batch_norm(x, groups, scale, bias)[0] * weights).sum() / B
    )
    slopes = oracles.gradient(weighted, X, SCALE, BIAS)
    for grad, slope in zip((grads[0], grads[1]['scale'], grads[1]['bias']), slopes, strict=True):
        assert_close(grad, slope, 1e-8)  # what central differences are good for


@pytest.mark.parametrize('groups', [1, 2])
def test_running_statistics_are_averages_with_the_biased_variance(float64, groups):
    norm = BatchNorm(groups=groups, momentum=0.7)
    params, stats, rows = {'scale': SCALE, 'bias': BIAS}, FRESH, np.arange(B)
    mean, variance = np.zeros(3), np.ones(3)
    for step in range(3):
        x = X * (1 + step) + step
        variables = {'params': params, 'batch_stats': stats}
        stats = norm.apply(variables, x, rows, mutable=['batch_stats'])[1]['batch_stats']
        of_parts = [part.reshape(-1, 3) for part in np.split(x, groups)]
        mean = 0.7 * mean + 0.3 * np.mean([part.sum(0) / len(part) for part in of_parts], 0)
        squares = [((part - part.sum(0) / len(part)) ** 2).sum(0) / len(part) for part in of_parts]
        variance = 0.7 * variance + 0.3 * np.mean(squares, 0)
        assert_close(stats['mean'], mean, 1e-13)
        assert_close(stats['var'], variance, 1e-13)

    variables = {'params': params, 'batch_stats': stats}
    y, updated = norm.apply(variables, X, None, mutable=['batch_stats'])  # evaluation
    assert_close(y, (X - mean) / np.sqrt(variance + 1e-5) * SCALE + BIAS, 1e-13)
    np.testing.assert_array_equal(updated['batch_stats']['mean'], stats['mean'])
    np.testing.assert_array_equal(updated['batch_stats']['var'], stats['var'])


def test_batch_norm_without_scale_or_bias_has_no_such_parameter():
    x, rows = np.float32(X), np.arange(B)
    plain = BatchNorm(use_scale=False, use_bias=False)
    variables = plain.init(jax.random.key(0), x, rows)
    assert variables.keys() == {'batch_stats'}
    y, _ = plain.apply(variables, x, rows, mutable=['batch_stats'])
    assert_close(y, oracles.batch_norm(X, 1, 1, 0)[0])


def test_bfloat16_rows_have_float32_statistics():
    """Nothing is rounded but the output, by half a unit of its last digit of 8: 2^-8 of a value."""
    x = jnp.asarray(X, jnp.bfloat16)
    params = {'scale': jnp.asarray(SCALE, jnp.float32), 'bias': jnp.asarray(BIAS, jnp.float32)}
    stats = jax.tree.map(jnp.float32, FRESH)
    variables = {'params': params, 'batch_stats': stats}
    y, updated = BatchNorm().apply(variables, x, np.arange(B), mutable=['batch_stats'])
    stats = updated['batch_stats']
    true_y, mean, variance = oracles.batch_norm(np.asarray(x, np.float64), 1, SCALE, BIAS)
    assert y.dtype == jnp.bfloat16
    assert stats['mean'].dtype == stats['var'].dtype == jnp.float32
    assert_close(stats['mean'], 0.1 * mean)
    assert_close(stats['var'], 0.9 + 0.1 * variance)
    np.testing.assert_allclose(np.asarray(y, np.float64), true_y, rtol=2**-8, atol=1e-5)


# Convolution

IMAGES = normal(2, 7, 6, 3)
KERNELS = {k: normal(k, k, 3, 4, seed=k) for k in (1, 3, 7)}
CASES = list(itertools.product(KERNELS, (1, 2), ('SAME', 'torch')))


def test_both_forms_of_the_convolution_are_its_sum(float64):
    def f(x, kernels):
        of = lambda k, s, p, form: Conv(4, k, s, p, form).apply(
            {'params': {'kernel': kernels[k]}}, x
        )
        forms = ('direct', 'patches', 'auto')
        return {case: [of(*case, form) for form in forms] for case in CASES}

    for (k, s, padding), results in jax.jit(f)(IMAGES, KERNELS).items():
        torch = ((k // 2, k // 2),) * 2
        same = tuple(oracles.same_pads(size, k, s) for size in IMAGES.shape[1:3])
        pads = torch if padding == 'torch' else same
        expected = oracles.convolution(IMAGES, KERNELS[k], s, pads)
        assert expected.shape == (2, -(-7 // s), -(-6 // s), 4)
        for result in results:
            assert_close(result, expected, 1e-12)


def test_both_forms_have_one_gradient(float64):
    weights = normal(2, 4, 3, 4, seed=1)

    def f(x, w, form):
        conv = Conv(4, 3, 2, form=form)
        return (conv.apply({'params': {'kernel': w}}, x) * weights).sum()

    expected = oracles.gradient(
        lambda w: (oracles.convolution(IMAGES, w, 2, ((1, 1), (0, 1))) * weights).sum(),
        KERNELS[3],
        step=1e-2,
    )[0]  # linear in w: any step is exact
    grads = [
        jax.jit(jax.grad(f, (0, 1)), static_argnums=2)(IMAGES, KERNELS[3], form)
        for form in ('direct', 'patches', 'auto')
    ]
    for of_x, of_w in grads:
        assert_close(of_w, expected, 1e-12)
        assert_close(of_x, grads[0][0], 1e-12)


@pytest.mark.parametrize(
    ('form', 'platform', 'convolves'),
    [
        ('auto', 'tpu', True),
        ('auto', 'cuda', True),
        ('auto', 'cpu', False),
        ('direct', 'cpu', True),
        ('patches', 'tpu', False),
    ],
)
def test_the_form_is_chosen_by_the_device_that_will_run_it(form, platform, convolves):
    """A CPU machine compiles for TPUs what TPUs are fast at; forward and backward."""
    f = lambda w: Conv(4, form=form).apply({'params': {'kernel': w}}, np.float32(IMAGES)).sum()
    for function in (f, jax.grad(f)):
        text = (
            jax.jit(function)
            .trace(np.float32(KERNELS[3]))
            .lower(lowering_platforms=(platform,))
            .as_text()
        )
        assert ('stablehlo.convolution' in text) == convolves
        assert ('stablehlo.dot_general' in text) != convolves or function is not f


def test_a_convolution_starts_as_he_says_and_computes_as_told():
    """Fan-out, normal: a variance of 2 / (k k features), within five standard errors."""
    x = jnp.zeros((1, 8, 8, 16))
    conv = Conv(64, dtype=jnp.bfloat16)
    kernel = conv.init(jax.random.key(0), x)['params']['kernel']
    assert (kernel.shape, kernel.dtype) == ((3, 3, 16, 64), jnp.float32)
    std = np.sqrt(2 / (3 * 3 * 64))
    assert abs(np.std(kernel) / std - 1) < 5 / np.sqrt(2 * kernel.size)
    y = jax.eval_shape(conv.apply, {'params': {'kernel': kernel}}, x)
    assert (y.shape, y.dtype) == ((1, 8, 8, 64), jnp.bfloat16)


# Dropout


def dropped(devices, x, rate, seed=0):
    f = lambda x: Dropout(rate).apply(
        {}, x, parallel.positions(len(x)), rngs={'dropout': jax.random.key(seed)}
    )
    return np.asarray(
        f(x) if devices is None else on_devices(devices, f, P(parallel.DATA), P(parallel.DATA))(x)
    )


def test_a_mask_belongs_to_the_example_and_not_to_the_device():
    x = np.ones((B, 50), np.float32)
    alone = dropped(None, x, 0.5)
    assert len(np.unique(alone, axis=0)) == B  # each row its own
    for devices in DEVICES:
        np.testing.assert_array_equal(dropped(devices, x, 0.5), alone)
    assert (dropped(None, x, 0.5, seed=1) != alone).any()


def test_dropout_keeps_the_mean():
    x = np.full((1000, 10), 3, np.float32)
    y = dropped(None, x, 0.2)
    assert set(np.unique(y)) == {np.float32(0), np.float32(3 / (1 - 0.2))}
    share = (y == 0).mean()
    assert abs(share - 0.2) < 5 * np.sqrt(0.2 * 0.8 / x.size)  # five standard errors


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero():
    x = np.ones((B, 50), np.float32)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, None), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, np.arange(B)), x)


# Passes through a network


class Witness(nn.Module):
    """An encoder that tells the numbers of its rows, what it saw and the number of its pass."""

    @nn.compact
    def __call__(self, x, rows):
        passes = self.variable('batch_stats', 'passes', jnp.zeros, ())
        if rows is None:
            return x.mean((1, 2, 3))[:, None]
        passes.value += 1
        return jnp.stack([rows, x.mean((1, 2, 3)), jnp.full(len(x), passes.value)], -1)


class Normed(nn.Module):
    """The mean over pixels, normalised over the batch."""

    @nn.compact
    def __call__(self, x, rows):
        return BatchNorm(name='bn')(x.mean((1, 2)), rows)


VIEWS = [normal(B, size, size, 3, seed=n) for n, size in enumerate((4, 2, 4, 2, 2))]


@pytest.mark.parametrize('devices', [None, *DEVICES])
def test_views_of_one_size_pass_together_and_example_major(float64, devices):
    """Row `example * v + view` of the pass of that size, whichever device holds the example."""
    f = lambda views: networks.apply_views(
        Network(Witness()), {}, {'encoder': {'passes': 0.0}}, views
    )
    if devices is not None:
        f = on_devices(devices, f, P(parallel.DATA), (P(parallel.DATA), P()))
    outputs, stats = f(VIEWS)
    assert stats['encoder']['passes'] == 2  # one for each size, in the order they come
    for n, (view, output) in enumerate(zip(VIEWS, outputs, strict=True)):
        place, count, number = {
            0: (0, 2, 1),
            2: (1, 2, 1),
            1: (0, 3, 2),
            3: (1, 3, 2),
            4: (2, 3, 2),
        }[n]
        rows, means, passes = np.asarray(output.h).T
        np.testing.assert_array_equal(rows, np.arange(B) * count + place)
        assert_close(means, view.mean((1, 2, 3)), 1e-12)
        np.testing.assert_array_equal(passes, number)


def test_views_that_pass_together_share_their_statistics(float64):
    views = VIEWS[0], 3 * VIEWS[2] + 1
    network = Network(Normed())
    params, stats = networks.init(network, jax.random.key(0), views[0])
    outputs, new = networks.apply_views(network, params, stats, views)
    both = np.stack(views, 1).mean((2, 3)).reshape(-1, 3)
    expected, mean, variance = oracles.batch_norm(both, 1, 1, 0)
    for n, output in enumerate(outputs):
        assert_close(output.h, expected.reshape(B, 2, 3)[:, n], 1e-12)
    assert_close(new['encoder']['bn']['mean'], 0.1 * mean, 1e-12)
    assert_close(new['encoder']['bn']['var'], 0.9 + 0.1 * variance, 1e-12)


def test_dropout_in_a_network_is_by_example_and_pass_by_key():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, rows):
            return Dropout(0.5)(x.mean((1, 2)), rows)

    network = Network(Dropped())
    x, small = np.ones((B, 2, 2, 64), np.float32), np.ones((B, 1, 1, 64), np.float32)
    f = lambda views: networks.apply_views(network, {}, {}, views, key=jax.random.key(3))[0]
    views = [x, x, small, small]
    alone = [np.asarray(view.h) for view in f(views)]
    for one, other in itertools.combinations(alone, 2):
        assert (one != other).any(1).all()  # every view of an example has its own mask
    for devices in DEVICES:
        spread = on_devices(devices, f, P(parallel.DATA), P(parallel.DATA))(views)
        for view, expected in zip(spread, alone, strict=True):
            np.testing.assert_array_equal(view.h, expected)
    np.testing.assert_array_equal(networks.evaluate(network, {}, {}, x).h, np.ones((B, 64)))


def test_a_network_is_h_then_z_then_p():
    class Times(nn.Module):
        factor: float

        def __call__(self, x, rows):
            return x * self.factor

    x = np.ones((2, 3), np.float32)
    parts = [Times(2.0), Times(3.0), Times(5.0)]
    for count, expected in ((1, (2, 2, 2)), (2, (2, 6, 6)), (3, (2, 6, 30))):
        out = networks.evaluate(Network(*parts[:count]), {}, {}, x)
        assert tuple(y[0, 0] for y in out) == expected


@pytest.mark.parametrize('rows', [True, False, np.int32(3), np.zeros((2, 2), np.int32)])
def test_rows_that_are_no_numbers_of_rows_are_refused(rows):
    """A training flag left over from other libraries would number every example alike."""
    with pytest.raises(
        TypeError, match='global numbers of the examples in training, None in evaluation'
    ):
        Network(Witness()).apply({}, VIEWS[0], rows)


def test_init_needs_shapes_only():
    """Bytes or floats, zeros or noise, traced or not: the same parameters."""
    network = Network(Normed(), MLP((4, 2)))
    x = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 3), dtype=np.uint8)
    params, stats = networks.init(network, jax.random.key(0), x)
    again = networks.init(network, jax.random.key(0), np.zeros((5, 4, 4, 3), np.float32))
    jax.tree.map(np.testing.assert_array_equal, (params, stats), again)
    assert params.keys() == stats.keys() == {'encoder', 'projector'}
    shapes = jax.eval_shape(partial(networks.init, network), jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, (params, stats)) == jax.tree.map(jnp.shape, shapes)


def test_pixels_are_bytes_of_0_to_255_or_floats_as_they_are():
    pixels = np.array([0, 51, 255], np.uint8)
    np.testing.assert_array_equal(networks.image(pixels), np.float32([0, 0.2, 1]))
    assert networks.image(pixels).dtype == jnp.float32
    np.testing.assert_array_equal(networks.image(np.float32([0, 51, 255])), [0, 51, 255])


def test_pooling_and_normalising_are_in_float32_at_least():
    x = jnp.asarray(normal(2, 5, 7, 3), jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    assert networks.pool(x).dtype == networks.normalize(x).dtype == jnp.float32
    assert_close(networks.pool(x), wide.mean((1, 2)), 1e-6)
    assert_close(networks.normalize(x), wide / np.linalg.norm(wide, axis=-1, keepdims=True), 1e-6)
    assert_close(
        networks.normalize(x, axis=1), wide / np.linalg.norm(wide, axis=1, keepdims=True), 1e-6
    )
    np.testing.assert_array_equal(networks.normalize(jnp.zeros((2, 3))), np.zeros((2, 3)))


# Another run's encoder


def test_an_adopted_encoder_replaces_the_fresh_one_and_nothing_else():
    x = np.float32(VIEWS[0])
    init = lambda seed: networks.init(Network(Normed(), MLP((4, 2))), jax.random.key(seed), x)
    params, stats = init(0)
    other = jax.tree.map(
        lambda leaf: leaf + 7,
        {'params': init(1)[0]['encoder'], 'batch_stats': init(1)[1]['encoder']},
    )
    assert networks.adopt(params, stats, None) == (params, stats)
    new_params, new_stats = networks.adopt(params, stats, other)
    assert new_params == {'encoder': other['params'], 'projector': params['projector']}
    assert new_stats == {'encoder': other['batch_stats'], 'projector': stats['projector']}
    jax.tree.map(
        np.testing.assert_array_equal, (params, stats), init(0)
    )  # the fresh ones stay as they were


def test_an_encoder_without_statistics_is_adopted_without_any():
    """The state keeps the structure that a fresh run's has, so that checkpoints of it restore."""

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, rows):
            return nn.Dense(3)(x.mean((1, 2)))

    params, stats = networks.init(Network(Linear(), MLP((4, 2))), jax.random.key(0), VIEWS[0])
    pretrained = {'params': params['encoder'], 'batch_stats': {}}
    _, new_stats = networks.adopt(params, stats, pretrained)
    assert jax.tree.structure(new_stats) == jax.tree.structure(stats)
