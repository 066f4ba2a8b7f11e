"""Fine-tuning: the loss is of labelled examples alone, everything is trained, and of a projector as
many layers as are asked for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax import parallel
from clr_jax.entry import CONFIG, Problem
from clr_jax.method import load, make_time
from clr_jax.methods.finetune import finetune
from clr_jax.mixing import mixed
from clr_jax.train import make_state, make_step
from tests import oracles
from tests.steps import double

B, CLASSES = 16, 3
LABEL = np.array([0, -1, 2, 1, 1, 0, -1, -1, -1, -1, -1, 2, -1, 0, 1, -1])
NOW = make_time(jnp.zeros((), jnp.int32), 1, 1)
PACE = {'seed': 0, 'steps_per_epoch': 4, 'total_steps': 100, 'health_every': 100}
HEAD = {'projector': (5, 5, 4), 'head_layers': 1}


class Linear(nn.Module):
    """The least encoder: [n, 2, 2, 3] -> [n, 4]."""

    @nn.compact
    def __call__(self, x, rows):
        return nn.Dense(4, use_bias=False, dtype=x.dtype)(x.reshape(len(x), -1))


def batch(label=LABEL) -> dict:
    rng = np.random.default_rng(0)
    views = tuple(rng.random((B, 2, 2, 3)) for _ in range(2))
    number = np.arange(B, dtype=np.int32)
    return {'views': views, 'label': np.asarray(label, np.int32), 'index': number}


def start(method):
    """Random parameters, of which none is zero, in float64."""
    params, state = method.init(jax.random.key(1), batch())
    rng = np.random.default_rng(1)
    fresh = lambda x: rng.normal(size=x.shape)
    return jax.tree.map(fresh, params), double(state)


def expected(flat, tree):
    """The loss in NumPy: h, one layer of the projector with the statistics of all rows and views,
    logits, the mean over labelled views."""
    p = jax.tree.unflatten(tree, flat)
    x = np.stack(batch()['views'], 1).reshape(2 * B, -1)
    h = x @ p['encoder']['Dense_0']['kernel']
    layer = p['projector']['bn1']
    y = h @ p['projector']['dense1']['kernel']
    z = oracles.batch_norm(y, 1, layer['scale'], layer['bias'], 1e-5)[0]
    logits = np.maximum(z, 0) @ p['predictor']['kernel'] + p['predictor']['bias']
    pairs = zip(logits, np.repeat(LABEL, 2), strict=True)
    return np.mean([oracles.cross_entropy(row, label) for row, label in pairs if label >= 0])


@pytest.mark.parametrize('devices', [1, 8])
def test_a_step_is_one_of_descent_on_the_labelled_examples(devices, float64):
    method, rate = finetune(Linear(), CLASSES, **HEAD), 0.1
    optimizer, mesh = optax.sgd(rate), parallel.make_mesh(jax.devices()[:devices])
    params, state = start(method)
    ts = make_state(method, optimizer, mesh, batch(), seed=0)
    ts = jax.device_put(ts._replace(params=params, state=state), parallel.replicated(mesh))
    step = make_step(method, optimizer, mesh, **PACE)
    after, metrics = step(ts, parallel.spread(batch(), mesh))
    flat, tree = jax.tree.flatten(jax.device_get(params))
    assert set(params) == {'encoder', 'projector', 'predictor'}
    assert set(params['projector']) == {'dense1', 'bn1'}
    np.testing.assert_allclose(metrics['loss'], expected(flat, tree), rtol=1e-10)
    slopes = oracles.gradient(lambda *flat: expected(flat, tree), *flat)
    for new, old, slope in zip(jax.tree.leaves(after.params), flat, slopes, strict=True):
        oracles.assert_close(np.asarray(new) - old, -rate * slope, 1e-6)
        assert np.abs(slope).max() > 1e-3


def test_mixed_examples_are_trained_on_what_both_are(float64):
    """Where both have the same label nothing but the pictures changes."""
    method = finetune(Linear(), CLASSES, mixup=0.8, cutmix=1.0)
    params, state = start(method)
    of, key = batch(np.repeat([0, 2], B // 2)), jax.random.key(4)
    x, _ = jax.jit(lambda: mixed(of['views'], of['label'], jax.random.fold_in(key, 1), 0.8, 1.0))()
    plain = finetune(Linear(), CLASSES).loss
    loss = lambda loss, of: jax.jit(lambda: loss(params, state, of, key=key, time=NOW)[0])()
    expected = loss(plain, of | {'views': tuple(x)})
    np.testing.assert_allclose(loss(method.loss, of), expected, rtol=1e-6)
    assert abs(loss(plain, of) - expected) > 1e-3


def test_without_labels_nothing_moves(float64):
    method, mesh = finetune(Linear(), CLASSES), parallel.make_mesh()
    optimizer, unlabelled = optax.sgd(1.0), batch(np.full(B, -1))
    ts = double(make_state(method, optimizer, mesh, unlabelled, seed=0))
    before = jax.device_get(ts.params)
    ts, metrics = make_step(method, optimizer, mesh, **PACE)(ts, parallel.spread(unlabelled, mesh))
    assert metrics['loss'] == metrics['top1'] == 0
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(ts.params))


@pytest.mark.parametrize(
    ('layers', 'names', 'width'),
    [
        (0, None, 4),
        (1, {'dense1', 'bn1'}, 5),
        (2, {'dense1', 'bn1', 'dense2', 'bn2'}, 6),
        (3, {'dense1', 'bn1', 'dense2', 'bn2', 'dense3', 'bn3'}, 7),
    ],
)
def test_the_first_layers_of_the_projector_are_kept(layers, names, width):
    method = finetune(Linear(), CLASSES, projector=[5, 6, 7], head_layers=layers)
    params, state = method.init(jax.random.key(0), batch())
    assert params.get('projector', {}).keys() == (names or set())
    assert params['predictor']['kernel'].shape == (width, CLASSES)
    assert not np.any(params['predictor']['kernel'])
    out = method.features(params, state, batch())
    assert {name: x.shape for name, x in out.items()} == {
        'h': (B, 4),
        'z': (B, width),
        'logits': (B, CLASSES),
    }
    if 0 < layers < 3:
        assert np.asarray(out['z']).min() == 0  # it ends with a ReLU
    parts = method.variables(params, state)
    assert parts['params'].keys() == params.keys()
    assert parts['batch_stats'].keys() == ({'projector'} if layers else set())


def test_logits_of_features_are_those_of_evaluation(float64):
    """Running statistics, which training has moved."""
    method = finetune(Linear(), CLASSES, **HEAD)
    params, state = start(method)
    _, aux = method.loss(params, state, batch(), key=None, time=NOW)
    assert aux.h.shape == (B, 2, 4)
    assert aux.z.shape == (B, 2, 5)
    out = method.features(params, aux.state, batch())
    p, stats = params['projector'], aux.state.stats['projector']['bn1']
    y = np.asarray(out['h']) @ p['dense1']['kernel']
    y = (y - stats['mean']) / np.sqrt(np.asarray(stats['var']) + 1e-5)
    z = np.maximum(y * p['bn1']['scale'] + p['bn1']['bias'], 0)
    np.testing.assert_allclose(out['z'], z, rtol=1e-9, atol=1e-12)
    logits = z @ params['predictor']['kernel'] + params['predictor']['bias']
    np.testing.assert_allclose(out['logits'], logits, rtol=1e-9, atol=1e-12)


def test_logits_are_float32_under_bfloat16():
    method = finetune(Linear(), CLASSES, **HEAD, dtype='bfloat16')
    narrow = batch() | {'views': tuple(jnp.asarray(x, jnp.bfloat16) for x in batch()['views'])}
    params, state = method.init(jax.random.key(0), narrow)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    out = jax.eval_shape(method.features, params, state, narrow)
    assert (out['z'].dtype, out['logits'].dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize(
    ('settings', 'classes', 'words'),
    [
        ({}, 0, ('config.method.name=finetune', 'labels')),
        ({'head_layers': 1}, 3, ('config.method.head_layers=1', '0 layers')),
        ({'head_layers': 3, 'projector': (5, 4)}, 3, ('head_layers=3', '2 layers')),
        ({'head_layers': -1}, 3, ('head_layers=-1',)),
        ({'label_smoothing': 1.0}, 3, ('config.method.label_smoothing=1.0',)),
        ({'label_smoothing': -0.1}, 3, ('config.method.label_smoothing=-0.1',)),
    ],
)
def test_a_wrong_setting_is_named(settings, classes, words):
    section = {'name': 'finetune', **settings}
    with pytest.raises(Problem) as raised:
        load('clr_jax.methods', section, encoder=Linear(), classes=classes)
    assert raised.value.code == CONFIG
    assert all(word in str(raised.value) for word in words), raised.value
