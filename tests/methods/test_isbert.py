"""The claims of IS-BERT: local features are convolutions over the tokens that are there, a sentence is
their mean, and the loss knows all pairs of the global batch."""

import jax
import numpy as np
import pytest

from clr_jax import networks
from clr_jax.encoders.bert import bert
from clr_jax.entry import Problem
from clr_jax.methods.isbert import isbert
from tests import oracles
from tests.methods.tiny import BATCH, Linear, close, outcome
from tests.steps import double

T, FILTERS, WINDOWS = 6, 3, (1, 3, 5)
LENGTH = np.random.default_rng(0).integers(2, T + 1, BATCH)
SEEN = np.arange(T) < LENGTH[:, None]
TOKENS = np.where(SEEN, np.random.default_rng(1).integers(1, 20, (BATCH, T)), 0).astype(np.int32)
SENTENCES = {'views': (TOKENS,), 'label': np.full(BATCH, -1, np.int32), 'index': np.arange(BATCH)}
SIZES = {'width': 8, 'depth': 1, 'heads': 2, 'hidden': 8, 'vocabulary': 20, 'length': 2 * T}
ENCODER = bert(**SIZES, dropout=0.0)
METHOD = isbert(ENCODER, windows=WINDOWS, filters=FILTERS)


@pytest.fixture(scope='module')
def begun():
    """-> params, state, and by the oracle local features [B, T, d] and sentences [B, d]."""

    def states(params):
        given = params['encoder'], {}, TOKENS
        return networks.evaluate(ENCODER, *given, rows=None, method='states')[1]

    with jax.enable_x64(True):
        start = jax.jit(lambda: METHOD.init(jax.random.key(1), SENTENCES))
        params, state = jax.device_get(double(start()))
        return params, state, *oracle(params, jax.device_get(jax.jit(states)(params)))


def oracle(params, states):
    """One token after the other."""
    local = np.zeros((BATCH, T, FILTERS * len(WINDOWS)))
    for n, i in zip(*np.nonzero(SEEN), strict=True):
        found = []
        for k in WINDOWS:
            layer = params[f'window{k}']
            value = layer['bias'].copy()
            for j in range(k):
                place = i + j - k // 2
                if 0 <= place < LENGTH[n]:
                    value += states[n, place] @ layer['kernel'][j]
            found.append(np.maximum(value, 0))
        local[n, i] = np.concatenate(found)
    return local, np.array([x[:length].mean(0) for x, length in zip(local, LENGTH, strict=True)])


@pytest.mark.parametrize('devices', [1, 8])
def test_every_token_tells_its_sentence_from_all_others(begun, devices):
    params, state, local, whole = begun
    out = outcome(METHOD, params, state, SENTENCES, devices)
    np.testing.assert_allclose(out.h[:, 0], whole, rtol=1e-9, atol=1e-12)
    expected = oracles.jensen_shannon(local, whole, SEEN)
    np.testing.assert_allclose(out.loss, expected, rtol=1e-10)
    np.testing.assert_allclose(out.metrics['divergence'], np.log(2) - expected / 2, atol=1e-9)
    if devices == 8:
        close(out.grads, outcome(METHOD, params, state, SENTENCES, 1).grads)


def test_padding_is_no_part_of_a_sentence(begun):
    params, state, _, whole = begun
    longer = {'views': (np.pad(TOKENS, ((0, 0), (0, T))),)}
    with jax.enable_x64(True):
        found = jax.jit(METHOD.features)(params, state, longer)['h']
    np.testing.assert_allclose(found, whole, rtol=1e-9, atol=1e-12)


def test_what_cannot_be_is_refused():
    with pytest.raises(Problem, match='needs the tokens of a bert'):
        isbert(Linear())
    for windows in ((), (0, 1), (3, 3)):
        with pytest.raises(Problem, match=r'config\.method\.windows'):
            isbert(ENCODER, windows=windows)
    with pytest.raises(Problem, match='takes 1 views'):
        METHOD.init(jax.random.key(0), SENTENCES | {'views': (TOKENS, TOKENS)})
