"""ResNets are the published ones: their sizes, padding and blocks, and float32 where it must be."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from clr_jax import networks
from clr_jax.encoders.resnet import Block, resnet
from clr_jax.entry import CONFIG, Problem
from clr_jax.networks import BatchNorm, Conv, Network
from tests import oracles
from tests.encoders import begin
from tests.oracles import assert_close

# Parameters of the models of torchvision, less the classifier's (512 or 2048 x 1000 + 1000).
TORCHVISION = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032, 101: 42_500_160, 152: 58_143_808}
STAGES = {  # He et al., 2015, table 1; 200: He et al., 2016 (arXiv:1603.05027), appendix
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def parameters(depth, width=1):
    """How many there are by the paper's table: a convolution has k k c f, and its norm 2 f."""
    layer = lambda k, c, f: k * k * c * f + 2 * f
    count, before = layer(7, 3, 64 * width), 64 * width
    for stage, blocks in enumerate(STAGES[depth]):
        w = 64 * width * 2**stage
        after = w if depth < 50 else 4 * w
        for block in range(blocks):
            if depth < 50:
                count += layer(3, before, w) + layer(3, w, w)
            else:
                count += layer(1, before, w) + layer(3, w, w) + layer(1, w, after)
            if block == 0 and before != after:
                count += layer(1, before, after)
            before = after
    return count


@cache
def shapes(size=64, n=2, **options):
    """-> (parameters, statistics, features, what every layer gives), shapes only; training mode."""
    network, x = Network(resnet(**options)), jax.ShapeDtypeStruct((n, size, size, 3), jnp.uint8)

    def run(x):
        params, stats = networks.init(network, jax.random.key(0), x)
        variables = {'params': params, 'batch_stats': stats}
        out, changed = network.apply(
            variables,
            networks.image(x),
            jnp.arange(n),
            mutable=['batch_stats', 'intermediates'],
            capture_intermediates=True,
        )
        layers = changed['intermediates']['encoder']
        return params['encoder'], changed['batch_stats']['encoder'], out.h, layers

    return jax.eval_shape(run, x)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def output(layer):
    return layer['__call__'][0]


@pytest.mark.parametrize('depth', STAGES)
def test_sizes_are_the_published_ones(depth):
    params, stats, h, layers = shapes(depth=depth)
    assert count(params) == parameters(depth)
    assert count(params) == TORCHVISION.get(depth, parameters(200))
    channels = 512 if depth < 50 else 2048
    assert h.shape == (2, channels)
    stages = [
        output(layers[f'layer{n + 1}_{blocks - 1}']) for n, blocks in enumerate(STAGES[depth])
    ]
    assert [y.shape for y in stages] == [
        (2, 16 >> n, 16 >> n, channels >> (3 - n)) for n in range(4)
    ]


@pytest.mark.parametrize('depth', [18, 50])
def test_width_multiplies_every_channel(depth):
    params, _, h, _ = shapes(depth=depth, width=2)
    assert count(params) == parameters(depth, width=2)
    assert h.shape == (2, 1024 if depth == 18 else 4096)
    assert params['conv1']['kernel'].shape == (7, 7, 3, 128)


def test_the_small_stem_keeps_the_resolution():
    params, _, h, layers = shapes(size=32, depth=18, small_stem=True)
    assert params['conv1']['kernel'].shape == (3, 3, 3, 64)
    assert count(params) == TORCHVISION[18] - (7 * 7 - 3 * 3) * 3 * 64
    assert [output(layers[f'layer{n}_0']).shape[1:3] for n in (1, 2, 3, 4)] == [
        (32, 32),
        (16, 16),
        (8, 8),
        (4, 4),
    ]
    assert output(shapes(size=32, depth=18)[3]['layer1_0']).shape[1:3] == (8, 8)
    assert h.shape == (2, 512)


def test_the_stride_of_a_bottleneck_is_in_its_3x3_convolution():
    layers = shapes(depth=50)[3]['layer2_0']
    assert [output(layers[f'conv{n}']).shape[1] for n in (1, 2, 3)] == [16, 8, 8]
    assert output(layers['downsample_conv']).shape == (2, 8, 8, 512)


def test_a_bfloat16_network_keeps_float32_where_it_counts():
    params, stats, h, layers = shapes(depth=18, dtype='bfloat16')
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype('float32')}
    assert h.dtype == jnp.float32
    computed = {
        leaf.dtype
        for name, layer in layers.items()
        if name != '__call__'
        for leaf in jax.tree.leaves(layer)
    }
    assert computed == {jnp.dtype('bfloat16')}
    assert output(shapes(depth=18)[3]['layer4_1']).dtype == jnp.float32


# Blocks


def block(zero_init, bottleneck):
    width, channels = (2, 8) if bottleneck else (8, 8)
    made = Block(width, 1, bottleneck, zero_init, partial(Conv, padding='torch'), BatchNorm)
    x = np.random.default_rng(1).normal(size=(4, 4, 4, channels)).astype(np.float32)
    variables = begin(made, x)
    y, _ = jax.jit(lambda x: made.apply(variables, x, np.arange(4), mutable=['batch_stats']))(x)
    return x, y, variables['params']


@pytest.mark.parametrize('bottleneck', [False, True])
def test_a_block_begins_as_the_identity_when_its_last_norm_begins_at_zero(bottleneck):
    x, y, params = block(True, bottleneck)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    last = 'bn3' if bottleneck else 'bn2'
    scales = {
        name: np.unique(layer['scale']).tolist()
        for name, layer in params.items()
        if 'scale' in layer
    }
    assert scales == {
        name: [0.0 if name == last else 1.0] for name in ('bn1', 'bn2', 'bn3')[: len(scales)]
    }
    assert len(scales) == (3 if bottleneck else 2)
    x, y, params = block(False, bottleneck)
    assert np.unique(params[last]['scale']) == 1
    assert np.abs(y - np.maximum(x, 0)).max() > 0.1


def test_zero_init_is_of_every_last_norm_and_of_no_other():
    flags = {}
    for zero_init in (True, False):
        network = resnet(depth=18, width=1 / 32, zero_init=zero_init)
        params = flatten_dict(begin(network, np.zeros((1, 32, 32, 3)))['params'], sep='/')
        scales = {path: leaf for path, leaf in params.items() if path.endswith('scale')}
        flags[zero_init] = {path for path, scale in scales.items() if not scale.any()}
        assert all(
            (scale == 1).all() for path, scale in scales.items() if path not in flags[zero_init]
        )
    assert flags[False] == set()
    assert flags[True] == {f'layer{i}_{j}/bn2/scale' for i in (1, 2, 3, 4) for j in (0, 1)}


# Padding

TORCH, SAME = 'torch', 'SAME'


@cache
def stem(size, padding, pool_padding):
    """Of a tiny network: its input, two kernels and what leaves the layers up to the second."""
    network = resnet(depth=18, width=1 / 32, padding=padding, pool_padding=pool_padding)
    x = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    variables = begin(network, x)

    @jax.jit
    def run(x):
        _, seen = network.apply(
            variables, x, None, capture_intermediates=True, mutable=['intermediates']
        )
        layers = seen['intermediates']
        kernels = (
            variables['params']['conv1']['kernel'],
            variables['params']['layer2_0']['conv1']['kernel'],
        )
        # A block whose last norm is zero passes on what it gets, already positive.
        names = (
            output(layers['conv1']),
            output(layers['bn1']),
            output(layers['layer1_0']),
            output(layers['layer1_1']),
        )
        return kernels, names, output(layers['layer2_0']['conv1'])

    return x, *jax.device_get(run(x))


def pads(style, size, kernel):
    return (
        ((kernel // 2,) * 2,) * 2 if style == TORCH else (oracles.same_pads(size, kernel, 2),) * 2
    )


@pytest.mark.parametrize(('padding', 'pool_padding'), [(TORCH, TORCH), (TORCH, SAME), (SAME, SAME)])
def test_convolutions_and_pooling_pad_as_they_are_told(padding, pool_padding):
    """On an even size torch pads both sides alike and TensorFlow one pixel more at the end."""
    x, (first, strided), (conv1, bn1, pooled, block), conv = stem(32, padding, pool_padding)
    assert_close(conv1, oracles.convolution(x, first, 2, pads(padding, 32, 7)))
    expected = oracles.max_pool(np.maximum(bn1, 0), 3, 2, pads(pool_padding, 16, 3))
    np.testing.assert_array_equal(pooled, expected)
    np.testing.assert_array_equal(block, expected)
    assert_close(conv, oracles.convolution(block, strided, 2, pads(padding, 8, 3)))


def test_the_two_paddings_differ_on_even_sizes_only():
    """32 -> 16 -> 8 -> 4 are even; of 33 -> 17 -> 9 both pad the same."""
    torch, same = stem(32, TORCH, TORCH), stem(32, SAME, SAME)
    for a, b in zip(
        (torch[2][0], torch[2][2], torch[3]), (same[2][0], same[2][2], same[3]), strict=True
    ):
        assert a.shape == b.shape
        assert np.abs(a - b).max() > 0.1 * np.abs(a).max()
    torch, same = stem(33, TORCH, TORCH), stem(33, SAME, SAME)
    assert torch[2][2].shape == (2, 9, 9, 2)
    jax.tree.map(np.testing.assert_array_equal, torch, same)


@pytest.mark.parametrize(
    ('option', 'value', 'message'),
    [
        ('depth', 20, 'encoder.depth=20: a resnet has one of 18, 34, 50, 101, 152, 200'),
        ('padding', 'VALID', 'encoder.padding=VALID: SAME or torch'),
        ('pool_padding', 'same', 'encoder.pool_padding=same: SAME or torch'),
    ],
)
def test_a_wrong_option_is_a_problem_of_one_line(option, value, message):
    with pytest.raises(Problem, match=f'^{re.escape(message)}$') as problem:
        resnet(**{option: value})
    assert problem.value.code == CONFIG
