"""VGGs have the published sizes, and every number of theirs is right in float64."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clr_jax import networks, optimizers, parallel
from clr_jax.encoders.vgg import vgg
from clr_jax.entry import CONFIG, Problem
from clr_jax.networks import Network
from tests import oracles
from tests.encoders.test_alexnet import CLASSIFIER, MEAN, STD, count, output, sobel
from tests.encoders.test_resnet import norm, random, run
from tests.oracles import assert_close

# Parameters of the models with batch norm of torchvision, classifier and biases included.
TORCHVISION = {11: 132_868_840, 13: 133_053_736, 16: 138_365_992, 19: 143_678_248}
STAGES = {  # Simonyan & Zisserman, 2014, table 1: A, B, D and E
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
ROWS = np.arange(4)
SMALL = {'width': 1 / 32, 'hidden': 5, 'conv': 'direct'}  # 2, 4, 8, 16 and 16 channels


@cache
def shapes(size=224, n=2, **options):
    """-> (parameters, statistics, features, what every layer gives), shapes only; training mode."""
    network, x = Network(vgg(**options)), jax.ShapeDtypeStruct((n, size, size, 3), jnp.uint8)

    def run(x):
        params, stats = networks.init(network, jax.random.key(0), x)
        variables = {'params': params, 'batch_stats': stats}
        kept = {'mutable': ['batch_stats', 'intermediates'], 'capture_intermediates': True}
        out, changed = network.apply(variables, networks.view(x), jnp.arange(n), **kept)
        layers = changed['intermediates']['encoder']
        return params['encoder'], changed['batch_stats']['encoder'], out.h, layers

    return jax.eval_shape(run, x)


def channels(depth):
    """Of each convolution."""
    of = zip(STAGES[depth], (64, 128, 256, 512, 512), strict=True)
    return [c for layers, c in of for _ in range(layers)]


@pytest.mark.parametrize('depth', STAGES)
def test_sizes_are_the_published_ones(depth):
    colours = TORCHVISION[depth] - CLASSIFIER - sum(channels(depth))
    assert count(shapes(depth=depth, sobel=False)[0]) == colours
    params, stats, h, layers = shapes(depth=depth)
    assert count(params) == colours - 3 * 3 * 64  # two filters instead of three colours
    assert count(stats) == 2 * sum(channels(depth))
    assert h.shape == (2, 4096)
    kernels = [params[f'conv{n}']['kernel'].shape for n in range(1, depth - 2)]
    before = [2, *channels(depth)]
    assert kernels == [(3, 3, a, b) for a, b in zip(before, channels(depth), strict=False)]
    assert params[f'fc{depth - 2}']['kernel'].shape == (7 * 7 * 512, 4096)
    assert params[f'fc{depth - 1}']['kernel'].shape == (4096, 4096)
    sides = [
        s for s, n in zip((224, 112, 56, 28, 14), STAGES[depth], strict=True) for _ in range(n)
    ]
    assert [output(layers[f'conv{n}']).shape[1] for n in range(1, depth - 2)] == sides
    assert optimizers.layers({'encoder': params})[1] == depth - 1


def test_width_is_of_convolutions_and_hidden_of_linear_layers():
    params, _, h, _ = shapes(width=0.125, hidden=64)
    assert params['conv1']['kernel'].shape == (3, 3, 2, 8)
    assert params['fc14']['kernel'].shape == (7 * 7 * 64, 64)
    assert h.shape == (2, 64)


def test_it_begins_as_the_official_one():
    network = vgg(depth=11, width=0.25, hidden=256)
    params = jax.jit(network.init)(jax.random.key(0), np.zeros((1, 32, 32, 3)), None)['params']
    for n, c in enumerate(channels(11), 1):
        found = params[f'conv{n}']['kernel'].std()
        assert found == pytest.approx((2 / (9 * c / 4)) ** 0.5, rel=0.1 if n == 1 else 0.03)
    for name in ('fc9', 'fc10'):
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


def expected(x, params, stats, rows, depth):
    """The features, layer by layer."""
    x, n = sobel((x - np.array(MEAN)) / np.array(STD)), 0
    for layers in STAGES[depth]:
        for _ in range(layers):
            n += 1
            x = oracles.convolution(x, params[f'conv{n}']['kernel'], 1, ((1, 1),) * 2)
            x = np.maximum(norm(x, params[f'bn{n}'], stats[f'bn{n}'], rows), 0)
        x = oracles.max_pool(x, min(2, x.shape[1]), 2, ((0, 0),) * 2)
    first, last = params[f'fc{depth - 2}'], params[f'fc{depth - 1}']
    x = np.maximum(x.reshape(len(x), -1) @ first['kernel'] + first['bias'], 0)
    return x @ last['kernel'] + last['bias']


@pytest.mark.parametrize(('depth', 'size', 'rows'), [(11, 35, ROWS), (16, 32, None), (11, 9, None)])
def test_the_network_is_its_layers(float64, depth, size, rows):
    network = vgg(depth=depth, mean=MEAN, std=STD, **SMALL)
    x = np.random.default_rng(1).random((4, size, size, 3))
    params, stats = random(network, x)
    params[f'fc{depth - 1}']['bias'] -= 2
    h = jax.jit(lambda x: run(network, params, stats, x, rows))(x)
    assert (np.asarray(h) < 0).any()  # no ReLU behind it
    assert_close(h, expected(x, params, stats, rows, depth), 1e-11)


def test_it_is_one_on_one_device_and_on_two(float64):
    """Features, statistics and the gradient of every parameter, under dropout."""
    network = vgg(depth=11, **SMALL)
    x = np.random.default_rng(1).normal(size=(8, 16, 16, 3))
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


def test_dropout_is_between_the_linear_layers_and_in_training_only(float64):
    options = SMALL | {'depth': 11, 'hidden': 64}
    x = np.random.default_rng(1).normal(size=(4, 8, 8, 3))
    params, stats = random(vgg(**options), x)
    # ones all the way: what a layer gives counts what of its input was kept
    ones = {name: jax.tree.map(np.ones_like, params[name]) for name in ('fc9', 'fc10')}
    ones |= {'bn8': {'scale': np.zeros(16), 'bias': np.ones(16)}}

    def kept(rngs, rows=ROWS):
        variables = {'params': params | ones, 'batch_stats': stats}
        network = vgg(**options, dropout=0.75)
        h, _ = network.apply(variables, x, rows, rngs=rngs, mutable=['batch_stats'])
        return np.asarray(h[:, 0] - 1) / 17  # the first layer gives 16 + 1

    of = lambda seed: {'dropout': jax.random.key(seed)}
    found = kept(of(1)) / 4  # of 64, each times 4
    np.testing.assert_allclose(found, np.round(found), atol=1e-9)
    assert len({*np.round(found)}) > 1
    assert 16 - 14 < found.mean() < 16 + 14
    assert np.any(kept(of(2)) != kept(of(1)))
    for still in (kept(of(1), None), kept({})):
        np.testing.assert_allclose(still, 64)


def test_a_depth_that_does_not_exist_is_a_problem_of_one_line():
    message = 'encoder.depth=18: a vgg has one of 11, 13, 16, 19'
    with pytest.raises(Problem, match=f'^{re.escape(message)}$') as problem:
        vgg(depth=18)
    assert problem.value.code == CONFIG
