"""The encoder of recordings has the moments, the sight and the layers it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.encoders.wave import wave
from clr_jax.entry import Problem
from tests.encoders import begin

SMALL = {'widths': (3, 4), 'kernels': (6, 4), 'strides': (3, 2)}
X = np.random.default_rng(0).normal(size=(2, 30))


def sequence(module, variables, x, rows=None):
    changed = ['batch_stats'] if rows is not None else False
    return module.apply(variables, x, rows, method='sequence', mutable=changed)


def test_the_papers_encoder_has_a_moment_for_each_10_milliseconds():
    """128 of them in the windows of 20,480 samples."""
    x = jax.ShapeDtypeStruct((2, 20480), jnp.float32)
    h, variables = jax.eval_shape(
        lambda x: wave().init_with_output(jax.random.key(0), x, None, method='sequence'), x
    )
    assert h.shape == (2, 128, 512)
    kernels = {name: layer['kernel'].shape for name, layer in variables['params'].items()}
    assert kernels == {
        'conv1': (10, 1, 512),
        'conv2': (8, 512, 512),
        'conv3': (4, 512, 512),
        'conv4': (4, 512, 512),
        'conv5': (4, 512, 512),
    }
    assert jax.eval_shape(wave().apply, variables, x, None).shape == (2, 512)


def test_a_moment_hears_465_samples(float64):
    """With weights and samples above zero every sample that can be heard is."""
    module = wave(widths=(1,) * 5)
    x = np.ones((1, 160 * 8))
    variables = jax.tree.map(np.ones_like, begin(module, x))
    heard = jax.jacobian(lambda x: sequence(module, variables, x)[0, :, 0])(x)[:, 0]  # [t, samples]
    assert len(heard) == 8
    for t, slope in enumerate(heard):
        first = 160 * t - 153
        window = (np.arange(x.shape[1]) >= first) & (np.arange(x.shape[1]) < first + 465)
        np.testing.assert_array_equal(slope != 0, window)


@pytest.mark.parametrize('norm', ['none', 'layer'])
def test_it_is_its_layers_one_after_the_other(norm, float64):
    module = wave(**SMALL, norm=norm)
    variables = begin(module, X)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape), variables)
    p, h = variables['params'], X[..., None]
    for i, (kernel, stride, side) in enumerate([(6, 3, 2), (4, 2, 1)], 1):
        h = np.pad(h, ((0, 0), (side, side), (0, 0)))
        starts = range(0, h.shape[1] - kernel + 1, stride)
        w = p[f'conv{i}']['kernel']
        h = np.stack([np.einsum('nkc,kcd->nd', h[:, s : s + kernel], w) for s in starts], 1)
        h = h + p[f'conv{i}'].get('bias', 0)
        if norm == 'layer':
            h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
            h = h * p[f'bn{i}']['scale'] + p[f'bn{i}']['bias']
        h = np.maximum(h, 0)
    assert h.shape == (2, 5, 4)
    np.testing.assert_allclose(sequence(module, variables, X), h, rtol=0, atol=1e-12)
    np.testing.assert_allclose(module.apply(variables, X, None), h.mean(1), rtol=0, atol=1e-12)


def test_batch_statistics_are_of_all_moments_of_the_batch(float64):
    module = wave(**SMALL, norm='batch')
    variables = begin(module, X)
    assert 'bias' not in variables['params']['conv1']
    trained, changed = sequence(module, variables, X, jnp.arange(2))
    assert changed['batch_stats'].keys() == {'bn1', 'bn2'}
    alone, _ = sequence(module, variables, X[:1], jnp.arange(1))
    assert np.abs(trained[:1] - alone).max() > 1e-3
    one, two = sequence(module, variables, X[:1]), sequence(module, variables, X)
    np.testing.assert_allclose(one, two[:1], rtol=0, atol=1e-12)


def test_it_computes_in_bfloat16_and_keeps_float32():
    module = wave(**SMALL, dtype='bfloat16')
    x = X.astype(np.float32)
    variables = module.init(jax.random.key(0), x, None)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    found, exact = (sequence(m, variables, x) for m in (module, wave(**SMALL)))
    assert found.dtype == jnp.float32
    assert 0 < np.abs(found - exact).max() < 0.05


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(Problem, match='one of each for every layer'):
        wave(widths=(8, 8), kernels=(4,), strides=(2, 2))
    with pytest.raises(Problem, match='config.encoder.norm: no "instance"'):
        wave(norm='instance')
