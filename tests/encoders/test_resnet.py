"""ResNets are the published ones: their sizes, padding and blocks, plain and of SimCLR v2, and
float32 where it must be."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec as P

from clr_jax import networks, parallel
from clr_jax.encoders.resnet import BLOCKS, AttentionPool, Block, SelectiveKernel, resnet
from clr_jax.encoders.vit import resized
from clr_jax.entry import CONFIG, Problem
from clr_jax.networks import BatchNorm, Conv, Network
from tests import oracles
from tests.encoders import begin
from tests.oracles import assert_close

# Parameters of the models of torchvision, less the classifier's (512 or 2048 x 1000 + 1000).
TORCHVISION = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032, 101: 42_500_160, 152: 58_143_808}
# Millions by depth, width and selective kernels: the table of the official SimCLR v2, which counts
# running averages too, and no classifier.
SIMCLR_V2 = {
    (50, 1, False): 24,
    (50, 1, True): 35,
    (50, 2, False): 94,
    (50, 2, True): 140,
    (101, 1, False): 43,
    (101, 1, True): 65,
    (101, 2, False): 170,
    (101, 2, True): 257,
    (152, 1, False): 58,
    (152, 1, True): 89,
    (152, 2, False): 233,
    (152, 2, True): 354,
    (152, 3, True): 795,
}
V2 = {'sk_ratio': 0.0625, 'resnet_d': True}
STAGES = {  # He et al., 2015, table 1; 200: He et al., 2016 (arXiv:1603.05027), appendix
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def parameters(depth, width=1, sk_ratio=0.0, resnet_d=False):
    """How many there are by the papers' tables: a convolution has k k c f, and its norm 2 f."""
    layer = lambda k, c, f: k * k * c * f + 2 * f
    count, before = layer(7, 3, 64 * width), 64 * width
    if resnet_d:
        half = 32 * width
        count = layer(3, 3, half) + layer(3, half, half) + layer(3, half, 64 * width)
    for stage, blocks in enumerate(STAGES[depth]):
        w = 64 * width * 2**stage
        after = w if depth < 50 else 4 * w
        for block in range(blocks):
            if depth < 50:
                count += layer(3, before, w) + layer(3, w, w)
            else:
                count += layer(1, before, w) + layer(3, w, w) + layer(1, w, after)
                if sk_ratio:
                    hidden = max(w * sk_ratio, 32)
                    count += layer(3, w, w) + layer(1, w, hidden) + hidden * 2 * w
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
            networks.view(x),
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


@pytest.mark.parametrize(('depth', 'width', 'selective'), SIMCLR_V2)
def test_the_sizes_of_simclr_v2_are_the_published_ones(depth, width, selective):
    network = resnet(depth=depth, width=width, **(V2 if selective else {}))
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, None), x)
    assert round(count(variables) / 1e6) == SIMCLR_V2[depth, width, selective]


@pytest.mark.parametrize('options', [{'sk_ratio': 0.0625}, {'sk_ratio': 0.25}, {'resnet_d': True}])
def test_selective_kernels_and_resnet_d_are_separate(options):
    assert count(shapes(depth=50, **options)[0]) == parameters(50, **options)


def test_basic_blocks_have_no_selective_kernels():
    kinds = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert kinds(shapes(depth=18, sk_ratio=0.0625)[0]) == kinds(shapes(depth=18)[0])


LAYERS = ['conv1', 'bn1', 'conv2', 'bn2', 'conv3', 'bn3']
SHORTCUT = ['downsample_conv', 'downsample_bn']


def test_layers_are_named_as_they_always_were():
    """The names are an interface: checkpoints and groups of parameters are by path."""
    for depth, options, stem, inside in [
        (18, {}, LAYERS[:2], LAYERS[:4]),
        (50, {}, LAYERS[:2], LAYERS),
        (50, V2, LAYERS, [*LAYERS, 'sk']),
    ]:
        params, stats, _, _ = shapes(depth=depth, **options)
        blocks = {f'layer{i}_{j}' for i, n in enumerate(STAGES[depth], 1) for j in range(n)}
        assert params.keys() == {*stem, *blocks}
        for name in blocks:
            first = name.endswith('_0') and (depth, name) != (18, 'layer1_0')
            assert params[name].keys() == {*inside, *(SHORTCUT if first else [])}
    assert params['layer1_0']['sk'].keys() == {'conv1', 'bn1', 'conv2'}
    assert {path[-1] for path in flatten_dict(params)} == {'kernel', 'scale', 'bias'}
    assert {path[-1] for path in flatten_dict(stats)} == {'mean', 'var'}


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


def test_the_small_stem_stays_with_resnet_d():
    (plain, _, _, _), (params, _, _, layers) = (
        shapes(size=32, depth=50, small_stem=True, resnet_d=d) for d in (False, True)
    )
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, plain)
    assert output(layers['conv1']).shape == (2, 32, 32, 64)
    assert output(layers['layer1_0']['downsample_conv']).shape[1:3] == (32, 32)
    assert output(layers['layer2_0']['downsample_conv']).shape[1:3] == (16, 16)


def test_the_stride_of_a_bottleneck_is_in_its_3x3_convolution():
    layers = shapes(depth=50)[3]['layer2_0']
    assert [output(layers[f'conv{n}']).shape[1] for n in (1, 2, 3)] == [16, 8, 8]
    assert output(layers['downsample_conv']).shape == (2, 8, 8, 512)


@pytest.mark.parametrize('options', [{'depth': 18}, {'depth': 50, **V2}])
def test_a_bfloat16_network_keeps_float32_where_it_counts(options):
    params, stats, h, layers = shapes(dtype='bfloat16', **options)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype('float32')}
    assert h.dtype == jnp.float32
    computed = {
        leaf.dtype
        for name, layer in layers.items()
        if name != '__call__'
        for leaf in jax.tree.leaves(layer)
    }
    assert computed == {jnp.dtype('bfloat16')}
    assert output(shapes(**options)[3]['layer4_1']).dtype == jnp.float32


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


# SimCLR v2: everything in float64 against NumPy


def norm(x, p, s, rows):
    """Of the batch, or with running averages when there are no rows."""
    if rows is not None:
        return oracles.batch_norm(x, 1, p['scale'], p['bias'])[0]
    return (x - s['mean']) / np.sqrt(s['var'] + 1e-5) * p['scale'] + p['bias']


def selective_kernel(x, p, s, rows):
    """x [n, h, w, 2 c], one image and channel at a time."""
    n, c = len(x), x.shape[-1] // 2
    pooled = np.zeros((n, c))
    for i, k in np.ndindex(n, c):
        pooled[i, k] = np.mean(x[i, :, :, k] + x[i, :, :, c + k])
    hidden = pooled @ p['conv1']['kernel'][0, 0]
    hidden = np.maximum(norm(hidden, p['bn1'], s['bn1'], rows), 0)
    logits = hidden @ p['conv2']['kernel'][0, 0]
    y = np.zeros((*x.shape[:3], c))
    for i, k in np.ndindex(n, c):
        a, b = np.exp(logits[i, k]), np.exp(logits[i, c + k])
        y[i, :, :, k] = (a * x[i, :, :, k] + b * x[i, :, :, c + k]) / (a + b)
    return y


def average_pool(x, stride):
    """2x2: at stride 2 zeros complete an odd size; at stride 1 what is beyond the image is left
    out."""
    n, h, w, c = x.shape
    y = np.zeros((n, -(-h // stride), -(-w // stride), c))
    for i, j in np.ndindex(*y.shape[1:3]):
        window = x[:, i * stride : i * stride + 2, j * stride : j * stride + 2]
        places = window.shape[1] * window.shape[2] if stride == 1 else 4
        y[:, i, j] = window.sum((1, 2)) / places
    return y


def layer(x, p, s, rows, number, stride=1):
    """A convolution padded as torch, and its norm."""
    kernel = p[f'conv{number}']['kernel']
    x = oracles.convolution(x, kernel, stride, ((len(kernel) // 2,) * 2,) * 2)
    return norm(x, p[f'bn{number}'], s[f'bn{number}'], rows)


def bottleneck(x, p, s, rows, stride, resnet_d=True):
    relu = lambda y: np.maximum(y, 0)
    y = relu(layer(relu(layer(x, p, s, rows, 1)), p, s, rows, 2, stride))
    y = layer(selective_kernel(y, p['sk'], s['sk'], rows) if 'sk' in p else y, p, s, rows, 3)
    if 'downsample_conv' in p:
        x = average_pool(x, stride) if resnet_d else x[:, ::stride, ::stride]
        x = x @ p['downsample_conv']['kernel'][0, 0]
        x = norm(x, p['downsample_bn'], s['downsample_bn'], rows)
    return relu(x + y)


def random(module, x):
    """Variables in float64 that leave nothing at zero or one."""
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, None)
    draw = lambda leaf: rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
    params = jax.tree.map(draw, shapes['params'])
    return params, jax.tree.map(lambda leaf: rng.uniform(0.5, 2, leaf.shape), shapes['batch_stats'])


def run(module, params, stats, x, rows):
    variables = {'params': params, 'batch_stats': stats}
    return module.apply(variables, x, rows, mutable=['batch_stats'])[0]


CONV = partial(Conv, padding='torch')
ROWS = np.arange(4)


@pytest.mark.parametrize('rows', [ROWS, None])
def test_selective_kernels_mix_two_streams_by_their_equation(float64, rows):
    module = SelectiveKernel(5, CONV, BatchNorm)
    x = np.random.default_rng(1).normal(size=(4, 3, 2, 6))
    params, stats = random(module, x)
    weights = np.random.default_rng(3).normal(size=(4, 3, 2, 3))

    def objective(x, mixing):
        y = run(module, params | {'conv2': {'kernel': mixing}}, stats, x, rows)
        return (y * weights).sum(), y

    mixing = params['conv2']['kernel']
    grads, y = jax.jit(jax.grad(objective, (0, 1), has_aux=True))(x, mixing)
    assert_close(y, selective_kernel(x, params, stats, rows), 1e-12)
    oracle = lambda x, mixing: (
        selective_kernel(x, params | {'conv2': {'kernel': mixing}}, stats, rows) * weights
    ).sum()
    for grad, slope in zip(grads, oracles.gradient(oracle, x, mixing), strict=True):
        assert_close(grad, slope, 1e-8)  # what central differences are good for


def test_selective_kernels_in_bfloat16_are_those_in_float64_rounded():
    module = SelectiveKernel(5, partial(CONV, dtype='bfloat16'), BatchNorm)
    x = np.random.default_rng(1).normal(size=(4, 3, 2, 6))
    params, stats = random(module, x)
    y = jax.jit(partial(run, module))(params, stats, jnp.bfloat16(x), ROWS)
    assert y.dtype == jnp.bfloat16
    assert_close(y, selective_kernel(x, params, stats, ROWS), 2**-6)


@pytest.mark.parametrize(
    ('stride', 'size', 'ratio', 'resnet_d', 'rows'),
    [
        (2, 4, 0.0625, True, ROWS),
        (2, 5, 0.0625, True, ROWS),
        (1, 3, 0.0625, True, None),
        (2, 5, 0.0, True, None),
        (2, 5, 0.0625, False, ROWS),
    ],
)
def test_a_block_of_simclr_v2_is_its_equation(float64, stride, size, ratio, resnet_d, rows):
    module = Block(3, stride, True, False, CONV, BatchNorm, ratio, resnet_d)
    x = np.random.default_rng(1).normal(size=(4, size, size, 2))
    params, stats = random(module, x)
    y = jax.jit(lambda x: run(module, params, stats, x, rows))(x)
    assert_close(y, bottleneck(x, params, stats, rows, stride, resnet_d), 1e-12)


@pytest.mark.parametrize(('width', 'ratio', 'hidden'), [(64, 0.0625, 32), (70, 0.5, 35)])
def test_the_weights_of_the_streams_pass_through_a_ratio_of_the_width(width, ratio, hidden):
    module = Block(width, 1, True, False, CONV, BatchNorm, ratio)
    params = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 2, 2, 4)), None)['params']
    assert params['conv2']['kernel'].shape == (3, 3, width, 2 * width)
    assert params['sk']['conv1']['kernel'].shape == (1, 1, width, hidden)
    assert params['sk']['conv2']['kernel'].shape == (1, 1, hidden, 2 * width)
    assert params['conv3']['kernel'].shape == (1, 1, width, 4 * width)


@pytest.fixture
def tiny(monkeypatch):
    """A ResNet 50 of two blocks, 2 and 4 channels wide."""
    monkeypatch.setitem(BLOCKS, 50, ((1, 1), True))
    return partial(resnet, depth=50, width=1 / 32, conv='direct')


@pytest.mark.parametrize('rows', [ROWS, None])
def test_the_network_of_simclr_v2_is_its_layers(float64, tiny, rows):
    """A stem of 32, 32 and 64 channels times the width, the max-pool, and two blocks."""
    network = tiny(pool_padding='SAME', **V2)
    x = np.random.default_rng(1).normal(size=(4, 18, 18, 3))
    params, stats = random(network, x)
    h = jax.jit(lambda x: run(network, params, stats, x, rows))(x)
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        x = np.maximum(layer(x, params, stats, rows, number, stride), 0)
    assert x.shape == (4, 9, 9, 2)
    assert params['conv1']['kernel'].shape == (3, 3, 3, 1)
    x = oracles.max_pool(x, 3, 2, (oracles.same_pads(9, 3, 2),) * 2)
    for name, stride in (('layer1_0', 1), ('layer2_0', 2)):
        x = bottleneck(x, params[name], stats[name], rows, stride)
    assert_close(h, x.mean((1, 2)), 1e-11)


def test_the_network_of_simclr_v2_is_one_on_one_device_and_on_two_with_remat(float64, tiny):
    """Features, statistics and the gradient of every parameter."""
    network = tiny(**V2)
    x = np.random.default_rng(1).normal(size=(8, 16, 16, 3))
    params, stats = random(network, x)
    params['bn3']['bias'] -= 2  # were all positive after the max-pool, it would cancel

    def gradient(params, x, network):
        def objective(params):
            variables = {'params': params, 'batch_stats': stats}
            rows = parallel.positions(len(x))
            h, changed = network.apply(variables, x, rows, mutable=['batch_stats'])
            return parallel.mean(jnp.sin(h).mean()), (h, changed['batch_stats'])

        grads, (h, changed) = jax.grad(objective, has_aux=True)(parallel.vary(params))
        return parallel.reduce(grads), h, changed

    def on(devices, network):
        mesh = parallel.make_mesh(jax.devices()[:devices])
        sharded, of = P(parallel.DATA), partial(gradient, network=network)
        f = parallel.shard(of, mesh, (P(), sharded), (P(), sharded, P()))
        return jax.device_get(jax.jit(f)(params, x))

    one, two = on(1, network), on(2, tiny(**V2, remat='full'))
    jax.tree.map(partial(assert_close, tolerance=1e-10), two, one)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(one)) > 1e-6


# Pixels


@pytest.mark.parametrize('rows', [ROWS, None])
def test_pixels_are_standardized_first(float64, tiny, rows):
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.1]
    pixels = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3)) / 255
    params, stats = random(tiny(), pixels)
    features = lambda **options: jax.jit(lambda x: run(tiny(**options), params, stats, x, rows))
    plain, standardized = features(), features(mean=mean, std=std)
    expected = plain((pixels - mean) / std)
    assert_close(standardized(pixels), expected, 1e-12)
    assert np.abs(plain(pixels) - expected).max() > 0.01 * np.abs(expected).max()


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


# Attention instead of the average


def pooled(x, p, heads):
    """One query, the mean of the pixels, attends to itself and them, head by head. x: [n, h, w, c]."""
    c = x.shape[-1]
    found = []
    for image in x:
        pixels = image.reshape(-1, c)
        tokens = np.concatenate([[pixels.mean(0)], pixels]) + p['pos_embed'][0]
        query = tokens[0] @ p['query']['kernel'] + p['query']['bias']
        said = []
        for head in np.split(np.arange(c), heads):
            key, value = (
                tokens @ p[name]['kernel'][:, head] + p[name]['bias'][head]
                for name in ('key', 'value')
            )
            weight = np.exp(key @ query[head] / np.sqrt(len(head)))
            said.append(weight @ value / weight.sum())
        y = np.concatenate(said)
        found.append(y @ p['proj']['kernel'] + p['proj']['bias'] if 'proj' in p else y)
    return np.stack(found)


def attending(width, dtype=None):
    """-> (module, parameters that are noise) for a grid of 3 x 3 pixels of 8 channels."""
    module, rng = AttentionPool(2, width, 3, dtype), np.random.default_rng(0)
    like = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 3, 3, 8))))
    return module, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), like['params'])


PIXELS = np.random.default_rng(1).normal(size=(4, 3, 3, 8))


@pytest.mark.parametrize('width', [0, 5])
def test_attention_pooling_and_its_slopes_are_those_of_the_equations(float64, width):
    module, params = attending(width)
    slope = jax.tree.map(lambda p: p[::-1] / 3, params)
    apply = lambda p: module.apply({'params': p}, PIXELS)
    h, along = jax.jit(lambda p, v: jax.jvp(apply, (p,), (v,)))(params, slope)
    assert h.shape == (4, width or 8)
    assert_close(h, pooled(PIXELS, params, 2), 1e-13)
    moved = lambda e: pooled(PIXELS, jax.tree.map(lambda p, v: p + e * v, params, slope), 2)
    assert_close(along, (moved(1e-5) - moved(-1e-5)) / 2e-5, 1e-7)


def test_attention_pooling_knows_places_and_resizes_them_for_other_grids(float64):
    module, params = attending(0)
    apply = lambda x: module.apply({'params': params}, x)
    assert np.abs(apply(PIXELS[:, ::-1]) - apply(PIXELS)).max() > 1e-2
    wide = np.concatenate([PIXELS, PIXELS[:, :, :1]], 2)  # 3 x 4
    other = params | {'pos_embed': resized(params['pos_embed'], 3, 3, 4)}
    assert other['pos_embed'].shape == (1, 13, 8)
    np.testing.assert_array_equal(other['pos_embed'][:, 0], params['pos_embed'][:, 0])
    assert_close(apply(wide), pooled(wide, other, 2), 1e-13)


def test_attention_pooling_in_bfloat16_is_that_in_float64_rounded():
    module, params = attending(5, jnp.bfloat16)
    h = module.apply({'params': params}, PIXELS.astype(jnp.bfloat16))
    assert h.dtype == jnp.float32
    assert_close(h, pooled(PIXELS, params, 2), 0.05)


def test_a_network_pools_by_attention():
    params, _, h, _ = shapes(depth=50, pool='attention', pool_width=1024, image_size=64)
    assert h.shape == (2, 1024)
    assert h.dtype == jnp.float32
    own = params.pop('pool')
    assert own['pos_embed'].shape == (1, 5, 2048)
    assert count(params) == parameters(50)
    params = shapes(depth=18, pool='attention', small_stem=True, image_size=60)[0]
    assert params['pool']['pos_embed'].shape == (1, 65, 512)
    assert params['pool'].keys() == {'pos_embed', 'query', 'key', 'value'}
    with pytest.raises(Problem) as problem:
        shapes(depth=18, pool='attention', pool_heads=3)
    assert str(problem.value) == 'encoder.pool_heads=3: does not divide 512 channels'


@pytest.mark.parametrize(
    ('option', 'value', 'message'),
    [
        ('depth', 20, 'encoder.depth=20: a resnet has one of 18, 34, 50, 101, 152, 200'),
        ('sk_ratio', -0.1, 'encoder.sk_ratio=-0.1: from 0, no selective kernels, to 1'),
        ('sk_ratio', 16, 'encoder.sk_ratio=16: from 0, no selective kernels, to 1'),
        ('padding', 'VALID', 'encoder.padding=VALID: SAME or torch'),
        ('pool_padding', 'same', 'encoder.pool_padding=same: SAME or torch'),
        ('pool', 'max', 'encoder.pool=max: average or attention'),
        ('pool_heads', 0, 'encoder.pool_heads=0: at least 1'),
        ('pool_width', -1, 'encoder.pool_width=-1: at least 0'),
        ('image_size', 0, 'encoder.image_size=0: at least 1'),
    ],
)
def test_a_wrong_option_is_a_problem_of_one_line(option, value, message):
    with pytest.raises(Problem, match=f'^{re.escape(message)}$') as problem:
        resnet(**{option: value})
    assert problem.value.code == CONFIG
