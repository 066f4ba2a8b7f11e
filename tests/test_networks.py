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
from clr_jax.entry import Problem
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

ROWS = 24
GROUPS = [1, 2, 3, 4, 6, 8, 12]  # whose parts of 24 rows lie in one device, fill some, or straddle
MESHES = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 4), (8, 1), (8, 2), (8, 4)]
SHAPES = {'images': (ROWS, 2, 1, 3), 'vectors': (ROWS, 3)}


def spread_out(shape):
    return normal(*shape, seed=7) * [1, 2, 0.5] + [0, 1, -3]


def grouped(shape):
    """-> f(x, params) on this shard's rows: {groups: (gradients, (y, statistics))}."""
    weights = normal(*shape, seed=1)

    def objective(groups, x, params):
        mine = parallel.positions(ROWS // parallel.size())
        variables = {'params': params, 'batch_stats': FRESH}
        norm = BatchNorm(groups=groups)
        y, updated = norm.apply(variables, x[mine], mine, mutable=['batch_stats'])
        value = (y * jnp.asarray(weights)[mine]).sum() / len(mine)
        return parallel.mean(value), (parallel.gather_state(y), updated['batch_stats'])

    def f(x, params):
        gradient = jax.grad(objective, (1, 2), has_aux=True)
        found = {groups: gradient(groups, *parallel.vary((x, params))) for groups in GROUPS}
        return {
            groups: (parallel.reduce(grads) if parallel.inside() else grads, aux)
            for groups, (grads, aux) in found.items()
        }

    return f


@pytest.fixture(scope='module')
def outside():
    """What `grouped` finds without a mesh."""
    with jax.enable_x64(True):
        params = {'scale': SCALE, 'bias': BIAS}
        return {
            name: jax.device_get(jax.jit(grouped(shape))(spread_out(shape), params))
            for name, shape in SHAPES.items()
        }


@pytest.mark.parametrize('kind', SHAPES)
def test_batch_norm_is_over_the_batch_or_contiguous_parts_of_it(outside, kind):
    """Output, statistics and the exact gradient, through the statistics of all rows."""
    x = spread_out(SHAPES[kind])
    weights = normal(*x.shape, seed=1)
    for groups, (grads, (y, stats)) in outside[kind].items():
        true_y, mean, variance = oracles.batch_norm(x, groups, SCALE, BIAS)
        assert_close(y, true_y, 1e-11)
        assert_close(stats['mean'], 0.1 * mean, 1e-12)
        assert_close(stats['var'], 0.9 + 0.1 * variance, 1e-12)
        weighted = lambda x, scale, bias: (
            (oracles.batch_norm(x, groups, scale, bias)[0] * weights).sum() / ROWS
        )
        slopes = oracles.gradient(weighted, x, SCALE, BIAS)
        found = grads[0], grads[1]['scale'], grads[1]['bias']
        for grad, slope in zip(found, slopes, strict=True):
            assert_close(grad, slope, 1e-6)  # what central differences are good for


CASES = [('images', *mesh) for mesh in MESHES] + [('vectors', 2, 1), ('vectors', 8, 2)]


@pytest.mark.parametrize(('kind', 'devices', 'mesh_groups'), CASES)
def test_batch_norm_is_the_same_on_any_devices(float64, outside, kind, devices, mesh_groups):
    """Whatever the mesh, and wherever the parts begin and end on it."""
    shape = SHAPES[kind]
    f = on_devices(devices, grouped(shape), (P(), P()), P(), mesh_groups)
    found = f(spread_out(shape), {'scale': SCALE, 'bias': BIAS})
    for groups in GROUPS:
        jax.tree.map(
            lambda one, other: assert_close(one, other, 1e-11), found[groups], outside[kind][groups]
        )


@pytest.mark.parametrize('devices', [None, 2, 8])
@pytest.mark.parametrize('groups', [5, 16, 0])
def test_parts_that_cannot_be_equal_are_refused(devices, groups):
    norm, variables = BatchNorm(groups=groups), {'params': {}, 'batch_stats': FRESH}
    f = lambda x: norm.apply(variables, x, parallel.positions(len(x)), mutable=['batch_stats'])[0]
    if devices is not None:
        f = on_devices(devices, f, P(parallel.DATA), P(parallel.DATA), groups)
    with pytest.raises(Problem, match=f'bn_groups={groups} does not divide a batch of 24 rows'):
        f(np.zeros((ROWS, 3), np.float32))


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


@pytest.mark.parametrize(('devices', 'groups'), [(None, 1), (None, 3), (2, 3), (8, 4), (8, 6)])
def test_bfloat16_rows_have_float32_statistics(devices, groups):
    """Nothing is rounded but the output, by half a unit of its last digit of 8: 2^-8 of a value."""
    x = jnp.asarray(spread_out(SHAPES['images']), jnp.bfloat16)
    params = {'scale': jnp.asarray(SCALE, jnp.float32), 'bias': jnp.asarray(BIAS, jnp.float32)}
    variables = {'params': params, 'batch_stats': jax.tree.map(jnp.float32, FRESH)}
    norm = BatchNorm(groups=groups)
    f = lambda x: norm.apply(variables, x, parallel.positions(len(x)), mutable=['batch_stats'])
    if devices is not None:
        f = on_devices(devices, f, P(parallel.DATA), (P(parallel.DATA), P()), groups)
    y, updated = f(x)
    stats = updated['batch_stats']
    true_y, mean, variance = oracles.batch_norm(np.asarray(x, np.float64), groups, SCALE, BIAS)
    assert y.dtype == jnp.bfloat16
    assert stats['mean'].dtype == stats['var'].dtype == jnp.float32
    assert_close(stats['mean'], 0.1 * mean)
    assert_close(stats['var'], 0.9 + 0.1 * variance)
    np.testing.assert_allclose(np.asarray(y, np.float64), true_y, rtol=2**-8, atol=1e-4)


# Convolution

IMAGES = normal(2, 7, 6, 3)
KERNELS = {k: normal(k, k, 3, 4, seed=k) for k in (1, 3, 7)}
CONVOLUTIONS = list(itertools.product(KERNELS, (1, 2), ('SAME', 'torch')))


def test_both_forms_of_the_convolution_are_its_sum(float64):
    def f(x, kernels):
        of = lambda k, s, p, form: Conv(4, k, s, p, form).apply(
            {'params': {'kernel': kernels[k]}}, x
        )
        forms = ('direct', 'patches', 'auto')
        return {case: [of(*case, form) for form in forms] for case in CONVOLUTIONS}

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
@pytest.mark.parametrize('joint', [True, False])
def test_views_pass_by_size_or_one_by_one_and_example_major(float64, devices, joint):
    """Row `example * v + view` of a pass of v views, whichever device holds the example."""
    f = lambda views: networks.apply_views(
        Network(Witness()), {}, {'encoder': {'passes': 0.0}}, views, joint=joint
    )
    if devices is not None:
        f = on_devices(devices, f, P(parallel.DATA), (P(parallel.DATA), P()))
    outputs, stats = f(VIEWS)
    places = {  # of each view: among those that pass with it, their count, the number of the pass
        True: [(0, 2, 1), (0, 3, 2), (1, 2, 1), (1, 3, 2), (2, 3, 2)],  # by size, as sizes come
        False: [(0, 1, number) for number in (1, 2, 3, 4, 5)],
    }[joint]
    assert stats['encoder']['passes'] == places[-1][2]
    for view, output, (place, count, number) in zip(VIEWS, outputs, places, strict=True):
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


@pytest.mark.parametrize('joint', [True, False])
def test_views_that_pass_alone_are_as_applied_one_after_the_other(float64, joint):
    """Each normalised by itself; the running averages have seen the first view first. A view that
    is alone in its size has nothing to share."""
    views = (VIEWS[0], 3 * VIEWS[2] + 1) if not joint else (VIEWS[0], VIEWS[1] + 2)
    network = Network(Normed())
    params, stats = networks.init(network, jax.random.key(0), views[0])
    outputs, new = networks.apply_views(network, params, stats, views, joint=joint)
    mean, variance = np.zeros(3), np.ones(3)
    for view, output in zip(views, outputs, strict=True):
        expected, of_mean, of_variance = oracles.batch_norm(view.mean((1, 2)), 1, 1, 0)
        assert_close(output.h, expected, 1e-12)
        mean, variance = 0.9 * mean + 0.1 * of_mean, 0.9 * variance + 0.1 * of_variance
        alone, stats = networks.apply(network, params, stats, view)
        jax.tree.map(np.testing.assert_array_equal, output, alone)
    assert_close(new['encoder']['bn']['mean'], mean, 1e-12)
    assert_close(new['encoder']['bn']['var'], variance, 1e-12)
    jax.tree.map(np.testing.assert_array_equal, new, stats)


@pytest.mark.parametrize('devices', [1, 8])
def test_heads_see_the_crops_of_all_sizes_in_one_pass(float64, devices):
    """Whose statistics are then of all of them (SwAV), while the encoder's are of one size each."""
    network = Network(Normed(), MLP((3,), last_norm='plain'))
    params, stats = networks.init(network, jax.random.key(0), VIEWS[0])
    f = lambda views: networks.apply_views(network, params, stats, views)[0]
    outputs = on_devices(devices, f, P(parallel.DATA), P(parallel.DATA))(VIEWS)
    h = np.stack([output.h for output in outputs], 1)  # [B, v, 3]
    dense = h.reshape(-1, 3) @ np.asarray(params['projector']['dense1']['kernel'])
    expected, *_ = oracles.batch_norm(dense, 1, 1, 0)
    assert_close(np.stack([output.z for output in outputs], 1).reshape(-1, 3), expected, 1e-12)


def test_without_a_key_nothing_is_random():
    """In training mode too, as a teacher passes."""

    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, rows):
            return Dropout(0.5)(x.mean((1, 2)), rows)

    out, _ = networks.apply(Network(Dropped()), {}, {}, np.ones((B, 2, 2, 64)))
    np.testing.assert_array_equal(out.h, np.ones((B, 64)))


@pytest.mark.parametrize('joint', [True, False])
def test_dropout_in_a_network_is_by_example_and_pass_by_key(joint):
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, rows):
            return Dropout(0.5)(x.mean((1, 2)), rows)

    network = Network(Dropped())
    x, small = np.ones((B, 2, 2, 64), np.float32), np.ones((B, 1, 1, 64), np.float32)
    f = lambda views: networks.apply_views(
        network, {}, {}, views, key=jax.random.key(3), joint=joint
    )[0]
    views = [x, x, small, small]
    alone = [np.asarray(view.h) for view in f(views)]
    for one, other in itertools.combinations(alone, 2):
        assert (one != other).any(1).all()  # every view of an example has its own mask
    for devices in DEVICES if joint else [8]:
        spread = on_devices(devices, f, P(parallel.DATA), P(parallel.DATA))(views)
        for view, expected in zip(spread, alone, strict=True):
            np.testing.assert_array_equal(view.h, expected)
    np.testing.assert_array_equal(networks.evaluate(network, {}, {}, x).h, np.ones((B, 64)))


def test_stacked_outputs_have_the_views_second():
    """[b, v, ...], as in `Aux`: examples first."""
    views = [
        networks.Outputs(*(normal(4, n, seed=10 * v + n) for n in (5, 3, 2))) for v in range(3)
    ]
    stacked = networks.stack(views)
    assert isinstance(stacked, networks.Outputs)
    for n, part in enumerate(stacked):
        assert part.shape == (4, 3, (5, 3, 2)[n])
        for v, example in itertools.product(range(3), range(4)):
            np.testing.assert_array_equal(part[example, v], np.float32(views[v][n][example]))


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
    np.testing.assert_array_equal(networks.view(pixels), np.float32([0, 0.2, 1]))
    assert networks.view(pixels).dtype == jnp.float32
    np.testing.assert_array_equal(networks.view(np.float32([0, 51, 255])), [0, 51, 255])


def test_recordings_are_integers_of_16_bits():
    samples = np.array([-(2**15), 0, 2**14, 2**15 - 1], np.int16)
    np.testing.assert_array_equal(networks.view(samples), np.float32([-1, 0, 0.5, 1 - 2**-15]))
    assert networks.view(samples).dtype == jnp.float32


def test_layer_norm_is_of_the_channels_at_each_place(float64):
    x = 3 + 2 * np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    p = {'scale': np.arange(1.0, 6.0), 'bias': np.arange(5.0)}
    found = networks.LayerNorm().apply({'params': p}, x, None)
    expected = np.empty_like(x)
    for place in np.ndindex(x.shape[:3]):
        v = x[place]
        expected[place] = (v - v.mean()) / np.sqrt(v.var() + 1e-5) * p['scale'] + p['bias']
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    begun = networks.LayerNorm().init(jax.random.key(0), jnp.asarray(x, jnp.bfloat16), None)
    assert networks.LayerNorm().apply(begun, jnp.asarray(x, jnp.bfloat16), None).dtype == 'bfloat16'


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


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32', 'float64'])
def test_pixels_are_standardized_channel_by_channel_in_their_dtype(float64, dtype):
    """bfloat16 has 8 digits: each of the two operations and three numbers is off by 2^-8 or less."""
    x = jnp.asarray(normal(2, 4, 3, 3), dtype)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    y = networks.standardize(x, mean, std)
    assert y.dtype == dtype
    wide = np.asarray(x, np.float64)
    expected = np.stack([(wide[..., c] - mean[c]) / std[c] for c in range(3)], -1)
    assert_close(y, expected, {'bfloat16': 2**-6, 'float32': 1e-6, 'float64': 1e-14}[dtype])


# Another run's parts


def start(seed, pretrained=None):
    """-> (params, statistics) of an encoder and a projector."""
    network = Network(Normed(), MLP((4, 2)))
    return networks.init(network, jax.random.key(seed), np.float32(VIEWS[0]), pretrained)


def another(params, stats):
    """The variables of a run that has gone on from there."""
    return jax.tree.map(lambda leaf: leaf + 7, {'params': params, 'batch_stats': stats})


def test_parts_are_selected_of_parameters_and_statistics_alike():
    params, stats = start(0)
    params = params | {'predictor': {'kernel': 1}}  # a part without statistics
    variables = {'params': params, 'batch_stats': stats}
    select = partial(networks.select, variables)
    assert select(['encoder']) == {
        'params': {'encoder': params['encoder']},
        'batch_stats': {'encoder': stats['encoder']},
    }
    assert select(('predictor', 'encoder')) == {
        'params': {n: params[n] for n in ('encoder', 'predictor')},
        'batch_stats': {'encoder': stats['encoder']},
    }
    assert select(('absent',)) == select(()) == {'params': {}, 'batch_stats': {}}
    assert select(('encoder', 'projector', 'predictor')) == variables


@pytest.mark.parametrize('parts', [('encoder',), ('projector',), ('encoder', 'projector')])
def test_pretrained_parts_replace_the_fresh_ones_and_nothing_else(parts):
    ours, other = start(0), another(*start(1))
    pretrained = networks.select(other, parts) | {'teacher': (object(), object())}
    theirs_of = other['params'], other['batch_stats']
    for new, fresh, theirs in zip(start(0, pretrained), ours, theirs_of, strict=True):
        assert new.keys() == {'encoder', 'projector'}
        for part, tree in new.items():
            expected = theirs if part in parts else fresh
            jax.tree.map(np.testing.assert_array_equal, tree, expected[part])
            assert jax.tree.leaves(tree)


def test_an_encoder_without_statistics_is_taken_without_any():
    """The state keeps the structure that a fresh run's has, so that checkpoints of it restore."""

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, rows):
            return nn.Dense(3)(x.mean((1, 2)))

    begin = partial(networks.init, Network(Linear(), MLP((4, 2))), jax.random.key(0), VIEWS[0])
    params, stats = begin()
    assert stats.keys() == {'projector'}
    other = networks.select(another(params, stats), ['encoder'])
    new_params, new_stats = begin(other)
    assert jax.tree.structure((new_params, new_stats)) == jax.tree.structure((params, stats))
    assert new_params['encoder'] is other['params']['encoder']
