"""What came before is all a context knows, in every direction; patches overlap and lose colours by
example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import networks
from clr_jax.encoders.convnet import convnet
from clr_jax.patches import grid, one_colour
from clr_jax.predictive import GRU, PixelCNN, Predictive
from tests.encoders import begin

H = np.random.default_rng(0).normal(size=(2, 5, 4, 8))  # [n, t, w, d]


def noisy(module, x=H):
    rng = np.random.default_rng(1)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape), variables)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_gru_is_its_equations(float64):
    """Two of them, one on top of the other, down each column."""
    module = GRU(6, 2, None)
    variables = noisy(module)
    x = H
    for name in ('gru1', 'gru2'):
        p = variables['params'][name]
        of = lambda gate, x, p=p: x @ p[gate]['kernel'] + p[gate].get('bias', 0)
        states = np.zeros((*x.shape[:3], 6))
        for n, w in np.ndindex(2, 4):
            h = np.zeros(6)
            for t in range(5):
                now = x[n, t, w]
                reset = sigmoid(of('ir', now) + of('hr', h))
                keep = sigmoid(of('iz', now) + of('hz', h))
                new = np.tanh(of('in', now) + reset * of('hn', h))
                h = states[n, t, w] = (1 - keep) * new + keep * h
        x = states
    np.testing.assert_allclose(module.apply(variables, H), x, rtol=0, atol=1e-12)


def test_the_pixelcnn_is_its_branches(float64):
    module = PixelCNN(6, 2, None)
    variables = noisy(module)
    p, x = variables['params'], H
    for i in (1, 2):
        w = {name: p[f'block{i}_{name}']['kernel'] for name in ('in', 'beside', 'above', 'out')}
        bias = {name: p[f'block{i}_{name}']['bias'] for name in w}
        y = np.maximum(x @ w['in'][0, 0] + bias['in'], 0)
        y = np.pad(y, ((0, 0), (0, 0), (1, 1), (0, 0)))
        y = sum(y[:, :, j : j + 4] @ w['beside'][0, j] for j in range(3)) + bias['beside']
        y = np.pad(y, ((0, 0), (1, 0), (0, 0), (0, 0)))
        y = sum(y[:, j : j + 5] @ w['above'][j, 0] for j in range(2)) + bias['above']
        x = x + np.maximum(y, 0) @ w['out'][0, 0] + bias['out']
    np.testing.assert_allclose(module.apply(variables, H), np.maximum(x, 0), rtol=0, atol=1e-12)


@pytest.mark.parametrize('module', [GRU(6, 1, None), PixelCNN(6, 5, None)])
def test_a_context_knows_what_came_before_and_nothing_else(module, float64):
    """The gru its own column of it, the pixelcnn rows."""
    variables = noisy(module)
    run = jax.jit(module.apply)
    before = np.asarray(run(variables, H))
    for t in range(5):
        changed = H.copy()
        changed[:, t, 1] += 1
        moved = np.abs(run(variables, changed) - before).max((0, 3)) > 1e-9  # [t, w]
        assert not moved[:t].any()
        assert moved[t:, 1].all()
        others = moved[t:, [0, 2, 3]]
        assert others.all() if isinstance(module, PixelCNN) else not others.any()


@pytest.mark.parametrize('contexts', [(GRU(6, 1, 'bfloat16'),), (PixelCNN(6, 1, 'bfloat16'),)])
def test_contexts_compute_in_bfloat16_and_keep_float32(contexts):
    module, x = contexts[0], jnp.asarray(H, jnp.float32)
    variables = module.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    found = module.apply(variables, x)
    assert found.dtype == jnp.float32
    exact = module.copy(dtype=None).apply(variables, x)
    assert 0 < np.abs(found - exact).max() < 0.1


def network(directions=4, **settings):
    given = {'projector': None, 'steps': 2, 'patch': 4, 'stride': 2, 'drop_colours': 0.0}
    contexts = tuple(PixelCNN(4, 1, None) for _ in range(directions))
    return Predictive(convnet(widths=(3, 5), norm='layer'), contexts=contexts, **given | settings)


IMAGES = np.random.default_rng(2).random((3, 10, 10, 3)).astype(np.float32)


def test_each_direction_sees_the_turned_grid_of_its_patches():
    module = network()
    params = begin(module, IMAGES)['params']
    found = jax.jit(lambda x: networks.evaluate(module, params, {}, x))(IMAGES)
    assert [x.shape for x in found] == [(3, 4, 4, 5), (3, 4, 4, 5), (3, 4, 4, 4, 5), (2, 4, 5, 5)]
    np.testing.assert_array_equal(found.z, found.h)
    cut = np.asarray(grid(IMAGES, 4, 2))
    for t, w in np.ndindex(4, 4):
        alone = module.encoder.apply({'params': params['encoder']}, cut[:, t, w], None)
        np.testing.assert_allclose(found.h[:, t, w], alone, rtol=0, atol=1e-5)
    for r, context in enumerate(module.contexts):
        turned = np.rot90(found.h, r, (1, 2))
        alone = context.apply({'params': params[f'contexts_{r}']}, turned)
        np.testing.assert_allclose(found.c[:, r], alone, rtol=0, atol=1e-5)


def test_patches_are_cut_where_they_begin():
    x = np.random.default_rng(0).random((2, 9, 12, 3)).astype(np.float32)
    found = np.asarray(grid(x, 4, 3))
    assert found.shape == (2, 2, 3, 4, 4, 3)  # what is too small for a patch is left out
    for t, u in np.ndindex(2, 3):
        cut = x[:, 3 * t : 3 * t + 4, 3 * u : 3 * u + 4]
        np.testing.assert_array_equal(found[:, t, u], cut)


def test_a_patch_keeps_one_colour_whichever_device_has_it():
    x = 1 + np.random.default_rng(0).random((64, 3, 3, 2, 2, 3)).astype(np.float32)
    key, rows = jax.random.key(3), jnp.arange(64)
    found = np.asarray(one_colour(x, key, rows, 1.0))
    kept = found[:, :, :, 0, 0] != 0  # [64, 3, 3, 3]
    assert (kept.sum(-1) == 1).all()
    np.testing.assert_allclose(found, x * kept[:, :, :, None, None], rtol=1e-6)
    share = kept.mean((0, 1, 2))  # of 576 patches, within four standard deviations
    assert np.abs(share - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 576)
    np.testing.assert_array_equal(one_colour(x[5:7], key, rows[5:7], 1.0), found[5:7])
    half = np.asarray(one_colour(x, key, rows, 0.5)) != 0
    share = (half.sum((3, 4, 5)) == 4).mean()
    assert abs(share - 0.5) < 4 * np.sqrt(1 / 4 / 576)


def test_colours_are_dropped_in_training_only():
    module = network(1, drop_colours=1.0)
    params, stats = networks.init(module, jax.random.key(0), IMAGES)
    evaluated = networks.evaluate(module, params, stats, IMAGES).h
    np.testing.assert_array_equal(networks.evaluate(network(1), params, stats, IMAGES).h, evaluated)
    train = jax.jit(lambda key: networks.apply(module, params, stats, IMAGES, key=key)[0].h)
    np.testing.assert_allclose(train(None), evaluated, rtol=0, atol=1e-5)
    one, other = (train(jax.random.key(seed)) for seed in (1, 2))
    assert np.abs(one - evaluated).max() > 1e-3
    assert np.abs(one - other).max() > 1e-3
