"""The pixel encoder against NumPy loops, and its size as published."""

import jax
import numpy as np

from clr_jax import networks
from clr_jax.checkpoint import paths
from clr_jax.encoders.pixel import pixel
from clr_jax.networks import Network


def test_the_forward_pass_is_that_of_the_definition(float64):
    network = Network(pixel(widths=(3, 4), features=5, conv='direct'))
    x = np.random.default_rng(0).random((2, 11, 11, 2))
    params, stats = networks.init(network, jax.random.key(0), x)
    params = jax.tree.map(lambda p: np.asarray(p, np.float64) + 0.1, params)
    assert not stats
    found = networks.evaluate(network, params, {}, x).h
    p = params['encoder']

    def conv(x, kernel, bias, stride):
        n, h, w, _ = x.shape
        size = (h - 3) // stride + 1
        y = np.zeros((n, size, size, kernel.shape[-1]))
        for i in range(size):
            for j in range(size):
                window = x[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
                y[:, i, j] = np.einsum('nabc,abcf->nf', window, kernel)
        return np.maximum(y + bias, 0)

    y = conv(x - 0.5, p['conv1']['kernel'], p['bias1'], 2)
    y = conv(y, p['conv2']['kernel'], p['bias2'], 1)
    y = y.reshape(2, -1) @ p['dense']['kernel'] + p['dense']['bias']
    y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, y * p['norm']['scale'] + p['norm']['bias'], rtol=1e-9)


def test_the_encoder_of_curl_has_its_size():
    network = Network(pixel())
    shapes = jax.eval_shape(
        lambda: networks.init(network, jax.random.key(0), np.zeros((1, 84, 84, 9), np.uint8))
    )[0]
    sizes = {path: leaf.shape for path, leaf in paths(shapes).items()}
    assert sizes['encoder/dense/kernel'] == (35 * 35 * 32, 50)  # 84 -> 41 -> 39 -> 37 -> 35
    assert sizes['encoder/conv1/kernel'] == (3, 3, 9, 32)
