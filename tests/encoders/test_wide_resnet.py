"""The wide residual network against NumPy loops, and its size as published."""

import jax
import numpy as np
import pytest

from clr_jax import networks
from clr_jax.encoders.wide_resnet import wide_resnet
from clr_jax.entry import Problem
from clr_jax.networks import Network


def conv(x, kernel, stride=1):
    """TensorFlow's SAME."""
    k, n = len(kernel), x.shape[1]
    size = -(-n // stride)
    pad = max(0, (size - 1) * stride + k - n)
    sides = (pad // 2, pad - pad // 2)
    x = np.pad(x, ((0, 0), sides, sides, (0, 0)))
    y = np.zeros((len(x), size, size, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            y[:, i, j] = np.einsum('nabc,abcf->nf', window, kernel)
    return y


def test_the_forward_pass_is_that_of_the_paper(float64):
    slope = 0.1
    network = Network(wide_resnet(depth=10, width=1, slope=slope, conv='direct'))
    rng = np.random.default_rng(0)
    x = rng.random((2, 8, 8, 3))
    params, stats = networks.init(network, jax.random.key(0), x)
    jitter = lambda tree: jax.tree.map(lambda p: np.abs(p + 0.3 * rng.random(p.shape)), tree)
    params, stats = jitter(params), jitter(stats)
    found = networks.evaluate(network, params, stats, x).h
    p, s = params['encoder'], stats['encoder']

    def norm(x, scale, running):
        y = (x - running['mean']) / np.sqrt(running['var'] + 1e-5) * scale['scale'] + scale['bias']
        return np.where(y > 0, y, slope * y)

    y = conv(x, p['conv1']['kernel'])
    for name, stride in (('layer1_0', 1), ('layer2_0', 2), ('layer3_0', 2)):
        block, of = p[name], s[name]
        z = norm(y, block['bn1'], of['bn1'])
        shortcut = conv(z, block['shortcut']['kernel'], stride) if stride > 1 else y
        z = norm(conv(z, block['conv1']['kernel'], stride), block['bn2'], of['bn2'])
        y = shortcut + conv(z, block['conv2']['kernel'])
    expected = norm(y, p['bn'], s['bn']).mean((1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ('depth', 'width', 'millions'), [(28, 2, 1.5), (28, 10, 36.5), (40, 4, 8.9)]
)
def test_sizes_are_those_of_the_paper(depth, width, millions):
    """Table 5 and its text, of networks with a classifier of ten classes."""
    network = Network(wide_resnet(depth=depth, width=width))
    shapes, _ = jax.eval_shape(
        lambda: networks.init(network, jax.random.key(0), np.zeros((1, 32, 32, 3)))
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes)) + 10 * (64 * width + 1)
    assert round(count / 1e6, 1) == millions


def test_other_depths_are_refused():
    with pytest.raises(Problem, match='encoder.depth=18'):
        wide_resnet(depth=18)
