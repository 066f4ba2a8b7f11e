"""Log-mel against its definition, band by band and window by window."""

import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.data import sources
from clr_jax.evaluate.features import log_mel


@pytest.mark.parametrize(('rate', 'samples'), [(8000, 1000), (16000, 401), (8000, 150)])
def test_log_mel_is_its_definition(rate, samples):
    bands, window, hop = 5, rate // 40, rate // 100
    wave = np.random.default_rng(0).integers(-20000, 20000, (2, samples)).astype(np.int16)
    found = log_mel(rate, bands)({}, {}, {'views': (jnp.asarray(wave),)})['h']

    hz = lambda mel: 700 * (10 ** (mel / 2595) - 1)
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = [hz(top * k / (bands + 1)) for k in range(bands + 2)]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))
    for row, of in zip(np.asarray(found), wave / 2**15, strict=True):
        of = np.pad(of, (0, max(0, window - samples)))
        loud = []
        for begin in range(0, len(of) - window + 1, hop):
            power = np.abs(np.fft.fft(of[begin : begin + window] * hann)) ** 2
            loud.append([])
            for left, middle, right in zip(edges, edges[1:], edges[2:], strict=False):
                total = 0.0
                for k in range(window // 2 + 1):
                    f = k * rate / window
                    if left < f <= middle:
                        total += power[k] * (f - left) / (middle - left)
                    elif middle < f < right:
                        total += power[k] * (right - f) / (right - middle)
                loud[-1].append(np.log(total + 1e-6))
        expected = np.concatenate([np.mean(loud, 0), np.std(loud, 0)])
        np.testing.assert_allclose(row, expected, rtol=2e-3, atol=2e-3)


def test_recordings_know_their_rate():
    assert sources.load({'name': 'tones'}, 'test').rate() == 8000
    assert sources.load({'name': 'digits'}, 'test').rate is None
