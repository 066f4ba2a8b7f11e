"""The claims of contrastive multiview coding: each view of an image is a query of every other view's
memory, in which its own example is positive; each view has an encoder of its own."""

import itertools
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import colors, memory, networks
from clr_jax.entry import Problem
from clr_jax.methods.cmc import cmc
from tests import oracles
from tests.methods.tiny import BATCH, batch, outcome, start, train, unit
from tests.oracles import assert_close

EXAMPLES, TEMPERATURE, NOISE = 40, 0.3, 7
TWO, THREE = ('L', 'ab'), ('Y', 'CbCr', 'rgb')


class Seen(nn.Module):
    """[n, 4, 4, c] -> [n, 6]."""

    mean: tuple = ()
    std: tuple = ()

    @nn.compact
    def __call__(self, x, rows):
        x = networks.standardize(x, self.mean, self.std)
        return nn.Dense(6, dtype=x.dtype)(x.reshape(len(x), -1))


@cache
def build(channels=TWO, **settings):
    return cmc(
        Seen(), EXAMPLES, channels=channels, projector=(4,), temperature=TEMPERATURE, **settings
    )


def data(seed=0):
    return batch(1, seed) | {'index': np.int32(2 * np.arange(BATCH) + seed)}


def drawn(noise, step=0):
    """The rows of the memories that `outcome` contrasts, each example's own first; all of them."""
    if not noise:
        return np.tile(np.arange(EXAMPLES), (BATCH, 1))
    key = jax.random.fold_in(jax.random.key(0), step)
    return np.asarray(memory.candidates(key, data()['index'], noise, EXAMPLES))


def scores(z, bank, rows):
    """Of queries z [B, e] with the `rows` [B, n] of a memory, [B, n]."""
    own = zip(unit(z), rows, strict=True)
    return np.array([bank[row] @ query / TEMPERATURE for query, row in own])


def of_pair(z, bank, rows, own, log_z):
    """The loss of one query view; own: where the positive is; log_z: of NCE, or None."""
    s = scores(z, bank, rows)
    if log_z is not None:
        log_noise = np.full(s.shape, np.log((s.shape[1] - 1) / EXAMPLES))
        return oracles.nce(s[:, 0] - log_z, s[:, 1:] - log_z, log_noise)
    return np.mean([oracles.cross_entropy(row, i) for row, i in zip(s, own, strict=True)])


FORMS = {
    'softmax': {'noise': NOISE},
    'all_rows': {'noise': 0},
    'nce': {'noise': NOISE, 'nce': True},
}


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('channels', [TWO, THREE], ids='_'.join)
@pytest.mark.parametrize('form', FORMS)
def test_every_view_is_contrasted_with_the_memory_of_every_other(float64, form, channels, devices):
    method, noise = build(channels, **FORMS[form]), FORMS[form]['noise']
    params, state = start(method, 1)
    out = outcome(method, params, state, data(), devices)
    rows, own = drawn(noise), np.zeros(BATCH, int) if noise else data()['index']
    pairs = list(itertools.permutations(range(len(channels)), 2))
    log_z = {}
    for q, m in pairs:
        s = scores(out.z[:, q], state.memory[channels[m]], rows)
        log_z[q, m] = np.log(np.exp(s).mean() * EXAMPLES) if form == 'nce' else None

    def loss(z):
        banks = [state.memory[view] for view in channels]
        return sum(of_pair(z[:, q], banks[m], rows, own, log_z[q, m]) for q, m in pairs)

    np.testing.assert_allclose(out.loss, loss(out.z), rtol=1e-9)
    (slope,) = oracles.gradient(loss, out.z)  # [B, views, 4]
    for i in range(len(channels)):  # through the last layer of each head
        h = out.h[:, 0, 6 * i : 6 * (i + 1)]
        grads = out.grads['projector'][f'heads_{i}']['dense1']
        assert_close(grads['kernel'], h.T @ slope[:, i], 1e-8)
        assert_close(grads['bias'], slope[:, i].sum(0), 1e-8)
    for (q, m), expected in log_z.items():
        found = out.state.log_z[f'{channels[q]}_{channels[m]}']
        np.testing.assert_allclose(found, 0 if expected is None else expected, rtol=1e-9)


@pytest.mark.parametrize('devices', [1, 8])
def test_without_memories_the_batch_is_contrasted(float64, devices):
    method = build(THREE, memories=False)
    params, state = start(method, 3)
    crops = batch(3, 0)
    out = outcome(method, params, state, crops, devices)
    for i, image in enumerate(crops['views']):  # each group sees its own crop
        seen = method.features(params, state, crops | {'views': (image,)})
        np.testing.assert_allclose(out.z[:, i], seen['z'][:, i], rtol=1e-9, atol=1e-12)
    views, own = np.moveaxis(out.z, 1, 0), np.arange(BATCH)
    pairs = itertools.permutations(views, 2)
    expected = sum(of_pair(q, unit(k), [own] * BATCH, own, None) for q, k in pairs)
    np.testing.assert_allclose(out.loss, expected, rtol=1e-9)
    assert state.memory == out.state.memory == {}


@pytest.mark.parametrize('devices', [1, 8])
def test_each_embedding_moves_its_own_row_of_its_own_memory_halfway_after_the_loss(
    float64, devices
):
    method = build(THREE, noise=NOISE)
    params, state = start(method, 1)
    out = outcome(method, params, state, data(), devices)
    for view, z in zip(THREE, np.moveaxis(out.z, 1, 0), strict=True):
        expected = state.memory[view].copy()
        for i, v in zip(data()['index'], unit(z), strict=True):
            expected[i] = unit(0.5 * expected[i] + 0.5 * v)
        np.testing.assert_allclose(out.state.memory[view], expected, rtol=1e-9)
    first, *others = state.memory.values()
    assert all(np.abs(first - other).max() > 0.1 for other in others)


def test_the_normalisers_are_of_the_first_batch_for_ever():
    method = build(noise=NOISE, nce=True)
    runs = train(method, *start(method, 1), [data(n) for n in (0, 1, 2)])
    kept = [state.log_z for _, state, _ in runs]
    assert kept[0] == kept[1] == kept[2]
    assert set(kept[0]) == {'L_ab', 'ab_L'}
    assert kept[0]['L_ab'] != kept[0]['ab_L']


def test_the_features_are_those_of_all_encoders_side_by_side(float64):
    method = build(THREE, noise=0)
    params, state = start(method, 1)
    images = data()['views'][0]
    parts = []
    for view in THREE:
        seen = colors.channels(jnp.asarray(images), view)
        encoder = Seen(**colors.standard(view))
        parts.append(networks.evaluate(encoder, params['encoder'][view], {}, seen, rows=None))
    out = method.features(params, state, data())
    np.testing.assert_allclose(out['h'], np.concatenate(parts, 1), rtol=1e-12)
    assert out['z'].shape == (BATCH, 3, 4)
    trained = outcome(method, params, state, data())
    np.testing.assert_allclose(trained.h[:, 0], out['h'], rtol=1e-9, atol=1e-12)
    exported = networks.select(method.variables(params, state), ('encoder',))
    assert set(exported['params']['encoder']) == set(THREE)


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        ({'channels': ('L', 'AB')}, 'config.method.channels: no "AB"; did you mean'),
        ({'channels': ('L',)}, 'two groups or more, each once'),
        ({'channels': ('L', 'ab', 'L')}, 'two groups or more, each once'),
        ({'nce': True, 'noise': 0}, 'needs memories and config.method.noise above 0'),
        ({'nce': True, 'memories': False}, 'needs memories and config.method.noise above 0'),
    ],
)
def test_settings_that_contrast_nothing_are_refused(settings, said):
    with pytest.raises(Problem, match=said):
        build(**settings)


def test_the_number_of_views_is_checked():
    with pytest.raises(Problem, match='takes 1 views of an example; config.views makes 2'):
        start(build(), 2)
