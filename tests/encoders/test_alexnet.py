"""AlexNet is DeepCluster's: its sizes, its filters before it, its dropout, and every number in float64."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec as P

from clr_jax import networks, optimizers, parallel
from clr_jax.encoders.alexnet import alexnet
from clr_jax.entry import CONFIG, Problem
from clr_jax.networks import Network
from tests import oracles
from tests.encoders.test_resnet import norm, random, run
from tests.oracles import assert_close

# Krizhevsky et al., 2012, in one column: with biases of convolutions and 1000 classes.
IN_ONE_COLUMN = 62_378_344
CHANNELS = (96, 256, 384, 384, 256)
KERNELS = (11, 5, 3, 3, 3)
PADDING = (2, 2, 1, 1, 1)
CLASSIFIER = 4096 * 1000 + 1000
ROWS = np.arange(4)
SMALL = {'width': 1 / 32, 'hidden': 5, 'conv': 'direct'}  # 3, 8, 12, 12 and 8 channels
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)


@cache
def shapes(size=224, n=2, **options):
    """-> (parameters, statistics, features, what every layer gives), shapes only; training mode."""
    network, x = Network(alexnet(**options)), jax.ShapeDtypeStruct((n, size, size, 3), jnp.uint8)

    def run(x):
        params, stats = networks.init(network, jax.random.key(0), x)
        variables = {'params': params, 'batch_stats': stats}
        kept = {'mutable': ['batch_stats', 'intermediates'], 'capture_intermediates': True}
        out, changed = network.apply(variables, networks.view(x), jnp.arange(n), **kept)
        layers = changed['intermediates']['encoder']
        return params['encoder'], changed['batch_stats']['encoder'], out.h, layers

    return jax.eval_shape(run, x)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def output(layer):
    return layer['__call__'][0]


def test_sizes_are_the_published_ones():
    biases, norms = sum(CHANNELS), 2 * sum(CHANNELS)
    colours = IN_ONE_COLUMN - CLASSIFIER - biases + norms
    assert count(shapes(sobel=False)[0]) == colours
    params, stats, h, layers = shapes()
    assert count(params) == colours - 11 * 11 * 96  # two filters instead of three colours
    assert count(stats) == 2 * sum(CHANNELS)
    kernels = [params[f'conv{n}']['kernel'].shape for n in range(1, 6)]
    channels = zip(KERNELS, KERNELS, (2, *CHANNELS), CHANNELS, strict=False)
    assert kernels == list(channels)
    assert params['fc6']['kernel'].shape == (6 * 6 * 256, 4096)
    assert params['fc7']['kernel'].shape == (4096, 4096)
    assert h.shape == (2, 4096)
    maps = [output(layers[f'conv{n}']).shape[1:3] for n in range(1, 6)]
    assert maps == [(55, 55), (27, 27), (13, 13), (13, 13), (13, 13)]


def test_layers_are_named_as_in_the_literature():
    params, stats, _, _ = shapes()
    norms = {f'bn{n}' for n in range(1, 6)}
    assert params.keys() == norms | {f'conv{n}' for n in range(1, 6)} | {'fc6', 'fc7'}
    assert stats.keys() == norms
    assert {path[-1] for path in flatten_dict(params)} == {'kernel', 'scale', 'bias'}
    assert optimizers.layers({'encoder': params})[1] == 7


def test_width_is_of_convolutions_and_hidden_of_linear_layers():
    params, _, h, _ = shapes(width=0.125, hidden=64)
    assert [params[f'conv{n}']['kernel'].shape[-1] for n in range(1, 6)] == [12, 32, 48, 48, 32]
    assert params['fc6']['kernel'].shape == (6 * 6 * 32, 64)
    assert h.shape == (2, 64)


def test_it_begins_as_the_official_one():
    network = alexnet(width=0.25, hidden=256)
    params = jax.jit(network.init)(jax.random.key(0), np.zeros((1, 16, 16, 3)), None)['params']
    for n, (kernel, channels) in enumerate(zip(KERNELS, CHANNELS, strict=True), 1):
        found = params[f'conv{n}']['kernel'].std()
        assert found == pytest.approx((2 / (kernel**2 * channels / 4)) ** 0.5, rel=0.05)
    for name in ('fc6', 'fc7'):
        assert params[name]['kernel'].std() == pytest.approx(0.01, rel=0.02)
        assert not params[name]['bias'].any()


def test_a_bfloat16_network_keeps_float32_where_it_counts():
    params, stats, h, layers = shapes(dtype='bfloat16')
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype('float32')}
    assert h.dtype == jnp.float32
    computed = {
        leaf.dtype
        for name, layer in layers.items()
        if name[:2] in ('co', 'bn', 'fc')
        for leaf in jax.tree.leaves(layer)
    }
    assert computed == {jnp.dtype('bfloat16')}
    assert output(shapes()[3]['conv5']).dtype == jnp.float32


# Against NumPy


def sobel(x):
    """[n, h, w, 3] -> [n, h, w, 2]"""
    across = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    gray = (x[..., :1] + x[..., 1:2] + x[..., 2:]) / 3
    pads = ((1, 1), (1, 1))
    filters = (kernel[:, :, None, None] for kernel in (across, across.T))
    return np.concatenate([oracles.convolution(gray, w, 1, pads) for w in filters], -1)


def test_the_filters_are_sobels_of_the_mean_over_colours(float64):
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3))
    assert_close(networks.sobel(jnp.asarray(x)), sobel(x), 1e-12)
    left = np.zeros((1, 3, 3, 3))
    left[:, :, 0], left[:, 0] = 1.0, left[:, 0]
    assert networks.sobel(jnp.asarray(left))[0, 1, 1].tolist() == [4, 0]
    assert networks.sobel(jnp.asarray(left.swapaxes(1, 2)))[0, 1, 1].tolist() == [0, 4]


def expected(x, params, stats, rows):
    """The features, layer by layer."""
    x = sobel((x - np.array(MEAN)) / np.array(STD))
    for n, pad in enumerate(PADDING, 1):
        kernel = params[f'conv{n}']['kernel']
        x = oracles.convolution(x, kernel, 4 if n == 1 else 1, ((pad, pad),) * 2)
        x = np.maximum(norm(x, params[f'bn{n}'], stats[f'bn{n}'], rows), 0)
        if n in (1, 2, 5):
            x = oracles.max_pool(x, min(3, x.shape[1]), 2, ((0, 0),) * 2)
    x = x.reshape(len(x), -1) @ params['fc6']['kernel'] + params['fc6']['bias']
    return np.maximum(x, 0) @ params['fc7']['kernel'] + params['fc7']['bias']


# Of 95 pixels the last map is of 2 x 2, of 63 all windows just fit, of fewer some do not.
@pytest.mark.parametrize(('size', 'rows'), [(95, ROWS), (63, None), (32, ROWS), (16, None)])
def test_the_network_is_its_layers(float64, size, rows):
    network = alexnet(mean=MEAN, std=STD, **SMALL)
    x = np.random.default_rng(1).random((4, size, size, 3))
    params, stats = random(network, x)
    places = {95: 4, 63: 1, 32: 1, 16: 1}[size]
    assert params['fc6']['kernel'].shape == (places * 8, 5)
    h = jax.jit(lambda x: run(network, params, stats, x, rows))(x)
    assert (np.asarray(h) < 0).any()  # no ReLU behind it
    assert_close(h, expected(x, params, stats, rows), 1e-11)


def test_it_is_one_on_one_device_and_on_two(float64):
    """Features, statistics and the gradient of every parameter, under dropout."""
    network = alexnet(**SMALL)
    x = np.random.default_rng(1).normal(size=(8, 32, 32, 3))
    params, stats = random(network, x)

    def gradient(params, x):
        def objective(params):
            variables = {'params': params, 'batch_stats': stats}
            rows, dropout = parallel.positions(len(x)), {'dropout': jax.random.key(3)}
            h, changed = network.apply(variables, x, rows, mutable=['batch_stats'], rngs=dropout)
            return parallel.mean(jnp.sin(h).mean()), (h, changed['batch_stats'])

        grads, (h, changed) = jax.grad(objective, has_aux=True)(parallel.vary(params))
        return parallel.reduce(grads), h, changed

    def on(devices):
        mesh = parallel.make_mesh(jax.devices()[:devices])
        sharded = P(parallel.DATA)
        f = parallel.shard(gradient, mesh, (P(), sharded), (P(), sharded, P()))
        return jax.device_get(jax.jit(f)(params, x))

    one, two = on(1), on(2)
    jax.tree.map(partial(assert_close, tolerance=1e-10), two, one)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(one)) > 1e-6


def test_dropout_is_before_both_linear_layers_and_in_training_only(float64):
    x = np.random.default_rng(1).normal(size=(4, 16, 16, 3))
    params, stats = random(alexnet(**SMALL | {'hidden': 64}), x)
    # ones all the way: what a layer gives counts what of its input was kept
    ones = {name: jax.tree.map(np.ones_like, params[name]) for name in ('fc6', 'fc7')}
    ones |= {'bn5': {'scale': np.zeros(8), 'bias': np.ones(8)}}

    def counts(rate, rngs, rows=ROWS):
        network = alexnet(**SMALL | {'hidden': 64}, dropout=rate)
        variables = {'params': params | ones, 'batch_stats': stats}
        kept = {'mutable': ['batch_stats', 'intermediates'], 'capture_intermediates': True}
        h, changed = network.apply(variables, x, rows, rngs=rngs, **kept)
        first = output(changed['intermediates']['fc6'])
        return np.asarray(first[:, 0]) - 1, np.asarray(h[:, 0]) - 1

    of = lambda seed: {'dropout': jax.random.key(seed)}
    first, second = counts(0.75, of(1))
    assert set(np.round(first / 4, 9)) <= set(range(9))  # 8 inputs, those kept times 4
    kept = second / (first + 1) / 4  # of 64, each times 4
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-9)
    assert len({*np.round(first)}) > 1
    assert len({*np.round(kept)}) > 1
    assert 16 - 14 < kept.mean() < 16 + 14
    assert np.any(counts(0.75, of(2))[1] != second)
    for still in (counts(0.75, of(1), None), counts(0.75, {}), counts(0.0, of(1))):
        np.testing.assert_allclose(still[0], 8)
        np.testing.assert_allclose(still[1], 64 * 9)


def test_without_the_filters_it_sees_colours(float64):
    x = np.random.default_rng(1).random((4, 16, 16, 3))
    for filters in (True, False):
        network = alexnet(sobel=filters, **SMALL)
        params, stats = random(network, x)
        one, other = (run(network, params, stats, y, None) for y in (x, x[..., ::-1]))
        assert (np.abs(one - other).max() < 1e-9) == filters


def test_images_too_small_for_the_first_kernel_are_a_problem_of_one_line():
    assert shapes(size=7, **SMALL)[2].shape == (2, 5)
    message = 'config.views: an alexnet needs images of 7 pixels, not 6'
    with pytest.raises(Problem) as problem:
        shapes(size=6, **SMALL)
    assert (str(problem.value), problem.value.code) == (message, CONFIG)
