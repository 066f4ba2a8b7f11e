"""The claims of CPC: from the contexts of a recording or of a grid of patches, each step tells what
follows from the rest of the global batch; the equation, from the input on, in value and gradient."""

from functools import cache

import flax.linen as nn
import jax
import numpy as np
import pytest

from clr_jax.encoders.wave import wave
from clr_jax.entry import CONFIG, Problem
from clr_jax.methods.cpc import cpc
from tests import oracles
from tests.methods.tiny import BATCH, outcome
from tests.steps import double


class Flat(nn.Module):
    """Patches [n, 2, 2, 3] -> [n, 3]."""

    @nn.compact
    def __call__(self, x, rows):
        return nn.tanh(nn.Dense(3)(x.reshape(len(x), -1)))


@cache
def build(kind, **settings):
    """Of recordings of 5 moments, or of grids of 3 x 3 patches."""
    if kind == 'sequence':
        encoder = wave(widths=(3,), kernels=(4,), strides=(2,))
        return cpc(encoder, **{'context_width': 2, 'steps': 2} | settings)
    grid = {'context': 'pixelcnn', 'context_width': 2, 'steps': 1, 'skip': 1, 'directions': 4}
    return cpc(
        Flat(), **grid | {'patch': 2, 'stride': 1, 'projector': (2,), 'scale': 0.5} | settings
    )


def batch(kind, seed=0):
    shape = {'sequence': (10,), 'grid': (4, 4, 3)}[kind]
    x = np.random.default_rng(seed).random((BATCH, *shape)) - (kind == 'sequence') * 0.5
    number = np.arange(BATCH, dtype=np.int32)
    return {'views': (x,), 'label': number % 4, 'index': number}


def start(method, kind):
    """In float64, every leaf away from where it begins: biases of zero are a corner of relu."""
    params, state = double(jax.device_get(method.init(jax.random.key(1), batch(kind))))
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape), params), state


def sequence(p, x):
    """-> h [B, 5, 1, 3], what is predicted, c [B, 1, 5, 1, 2]: a convolution and a gru, by loops."""
    conv, cell = p['encoder']['conv1'], p['contexts_0']['gru1']
    x = np.pad(x, ((0, 0), (1, 1)))
    windows = np.stack([x[:, 2 * t : 2 * t + 4] for t in range(5)], 1)  # [B, 5, 4]
    h = np.maximum(windows @ conv['kernel'][:, 0] + conv['bias'], 0)
    of = lambda gate, x: x @ cell[gate]['kernel'] + cell[gate].get('bias', 0)
    state, c = np.zeros((len(x), 2)), []
    for t in range(5):
        reset = 1 / (1 + np.exp(-of('ir', h[:, t]) - of('hr', state)))
        keep = 1 / (1 + np.exp(-of('iz', h[:, t]) - of('hz', state)))
        state = (1 - keep) * np.tanh(of('in', h[:, t]) + reset * of('hn', state)) + keep * state
        c.append(state)
    h = h[:, :, None]
    return h, h, np.stack(c, 1)[:, None, :, None]


def grid(p, x):
    """-> h [B, 3, 3, 3], its projection, c [B, 4, 3, 3, 3]: of patches, and of rows of the turned
    grid."""
    dense = p['encoder']['Dense_0']
    h = np.empty((len(x), 3, 3, 3))
    for t, w in np.ndindex(3, 3):
        patch = x[:, t : t + 2, w : w + 2].reshape(len(x), -1)
        h[:, t, w] = np.tanh(patch @ dense['kernel'] + dense['bias'])
    contexts = []
    for r in range(4):
        q = {name.split('_')[1]: layer for name, layer in p[f'contexts_{r}'].items()}
        turned = np.rot90(h, r, (1, 2))
        y = np.maximum(turned @ q['in']['kernel'][0, 0] + q['in']['bias'], 0)
        y = np.pad(y, ((0, 0), (0, 0), (1, 1), (0, 0)))
        y = sum(y[:, :, j : j + 3] @ q['beside']['kernel'][0, j] for j in range(3))
        y = np.pad(y + q['beside']['bias'], ((0, 0), (1, 0), (0, 0), (0, 0)))
        y = sum(y[:, j : j + 3] @ q['above']['kernel'][j, 0] for j in range(2))
        y = np.maximum(y + q['above']['bias'], 0) @ q['out']['kernel'][0, 0] + q['out']['bias']
        contexts.append(np.maximum(turned + y, 0))
    return h, h @ p['projector']['dense1']['kernel'], np.stack(contexts, 1)


FORWARD = {'sequence': sequence, 'grid': grid}
AHEAD = {'sequence': (1, 2), 'grid': (2,)}
TURNS = {'sequence': 1, 'grid': 4}


def loss(kind, params, drawn=None):
    _, z, c = FORWARD[kind](params, batch(kind)['views'][0])
    number = np.arange(z.shape[1] * z.shape[2]).reshape(z.shape[1:3])
    places = np.stack([np.rot90(number, r) for r in range(TURNS[kind])])
    weights = params['predictor'] * (0.5 if kind == 'grid' else 1)
    z = z.reshape(BATCH, -1, z.shape[-1])
    return oracles.predictive_coding(z, c, weights, places, AHEAD[kind], drawn)


@cache
def expected(kind):
    """The loss and its gradients, by central differences."""
    params, _ = start(build(kind), kind)
    leaves, tree = jax.tree.flatten(params)
    equation = lambda *leaves: loss(kind, jax.tree.unflatten(tree, leaves))
    return equation(*leaves), oracles.gradient(equation, *leaves)


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('kind', FORWARD)
def test_the_step_is_that_of_the_equation(kind, devices):
    method = build(kind)
    params, state = start(method, kind)
    out = outcome(method, params, state, batch(kind), devices)
    value, grads = expected(kind)
    np.testing.assert_allclose(out.loss, value, rtol=1e-11)
    for found, grad in zip(jax.tree.leaves(out.grads), grads, strict=True):
        np.testing.assert_allclose(found, grad, rtol=0, atol=1e-9)
    positions = {'sequence': 5, 'grid': 9}[kind]
    ceiling = np.log(BATCH * positions)
    np.testing.assert_allclose(out.metrics['information_ceiling'], ceiling, rtol=1e-6)
    np.testing.assert_allclose(out.metrics['information'], ceiling - value, rtol=1e-5)


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('kind', FORWARD)
def test_negatives_are_drawn_by_example(kind, devices):
    method = build(kind, negatives=7)
    params, state = start(method, kind)
    out = outcome(method, params, state, batch(kind), devices, step=3)
    positions = {'sequence': 5, 'grid': 9}[kind]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 3), 1)
    drawn = np.empty((len(AHEAD[kind]), BATCH, 7), int)
    for i, row in np.ndindex(drawn.shape[:2]):
        own = jax.random.fold_in(jax.random.fold_in(key, AHEAD[kind][i]), row)
        drawn[i, row] = jax.random.randint(own, (7,), 0, BATCH * positions, np.int32)
    np.testing.assert_allclose(out.loss, loss(kind, params, drawn), rtol=1e-10)
    assert out.metrics['information_ceiling'] == pytest.approx(np.log(8))


@pytest.mark.parametrize('kind', FORWARD)
def test_features_are_means_of_contexts_or_of_patches(kind):
    method = build(kind)
    params, state = start(method, kind)
    h, z, c = FORWARD[kind](params, batch(kind)['views'][0])
    wanted = c.mean((1, 2, 3)) if kind == 'sequence' else h.mean((1, 2))
    out = outcome(method, params, state, batch(kind), 8)
    np.testing.assert_allclose(out.h[:, 0], wanted, rtol=0, atol=1e-12)
    with jax.enable_x64(True):
        found = method.features(params, state, batch(kind))['h']
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    # a row in the middle, as the first step predicts it and as it is
    row, k = {'sequence': (2, 1), 'grid': (0, 2)}[kind]
    predicted = c[:, 0, row] @ params['predictor'][0, 0] * (0.5 if kind == 'grid' else 1)
    pair = [x.reshape(BATCH, -1) for x in (predicted, z[:, row + k])]
    np.testing.assert_allclose(out.z, np.stack(pair, 1), rtol=0, atol=1e-12)


def test_a_recording_may_be_integers():
    method = build('sequence')
    params, state = start(method, 'sequence')
    data = batch('sequence')
    integers = (data['views'][0] * 2**15).astype(np.int16)
    both = [
        outcome(method, params, state, data | {'views': (x,)}, 1).loss
        for x in (integers, integers / 2**15)
    ]
    np.testing.assert_allclose(*both, rtol=1e-6)  # integers become float32


def test_settings_that_mean_nothing_are_refused():
    def refused(f):
        with pytest.raises(Problem) as raised:
            f()
        assert raised.value.code == CONFIG
        return str(raised.value)

    begin = lambda kind, method: method.init(jax.random.key(0), batch(kind))
    assert 'config.method.context' in refused(lambda: build('grid', context='lstm'))
    assert 'config.method.directions=2' in refused(lambda: build('grid', directions=2))
    assert 'steps=0' in refused(lambda: build('grid', steps=0))
    recording, picture = build('sequence'), build('grid')
    assert 'config.encoder.name' in refused(lambda: begin('grid', recording))
    assert 'config.encoder.name' in refused(lambda: begin('sequence', picture))
    assert 'patch=8: larger than views of 4' in refused(
        lambda: begin('grid', build('grid', patch=8))
    )
    long = build('sequence', steps=5)
    assert 'looks 5 rows ahead, and a view has 5' in refused(lambda: begin('sequence', long))
    turned = build('sequence', directions=4)
    assert 'config.method.directions=4' in refused(lambda: begin('sequence', turned))
