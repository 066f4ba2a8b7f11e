"""Cutoff takes what it says, from the sentence and not its padding, row by row."""

import jax
import numpy as np
import pytest

from clr_jax.cutoff import CUTOFFS, cutoff

N, T, D = 300, 10, 8
LENGTH = np.random.default_rng(0).integers(0, T + 1, N)
MASK = np.arange(T) < LENGTH[:, None]
X = np.random.default_rng(1).normal(size=(N, T, D)) + 10
ROWS = np.arange(N)


def cut(kind, ratio=0.3, rows=ROWS, seed=0, of=slice(None)):
    run = jax.jit(lambda x, mask: cutoff(kind, x, mask, jax.random.key(seed), rows, ratio))
    return jax.device_get(run(X[of].astype(np.float32), MASK[of]))


@pytest.mark.parametrize('ratio', [0.0, 0.29, 0.3, 0.9])
@pytest.mark.parametrize('kind', ['token', 'span'])
def test_tokens_become_zero_and_unseen(kind, ratio):
    x, mask = cut(kind, ratio)
    gone = MASK & ~mask
    assert not (mask & ~MASK).any()
    np.testing.assert_array_equal(x == 0, np.repeat(gone[..., None], D, 2))
    np.testing.assert_array_equal(x[~gone], X.astype(np.float32)[~gone])
    numbers = [int(ratio * length) for length in LENGTH]
    for row, number, length in zip(gone, numbers, LENGTH, strict=True):
        places = np.flatnonzero(row)
        if kind == 'span':
            assert len(places) == number
            assert number == 0 or places[-1] - places[0] == number - 1
        else:  # with replacement
            assert min(number, 1) <= len(places) <= number
        assert number < max(length, 1)


def test_places_are_uniform():
    """Of 10 tokens, 2000 times: 5 standard deviations."""
    for kind, expected in (
        ('token', np.full(T, 1 - 0.9**3)),
        ('span', np.array([1, 2, 3, 3, 3, 3, 3, 3, 2, 1]) / 8),
    ):
        n = 2000
        mask = np.ones((n, T), bool)
        key, rows = jax.random.key(1), np.arange(n)
        _, seen = jax.jit(
            lambda x, m, kind=kind, key=key, rows=rows: cutoff(kind, x, m, key, rows, 0.3)
        )(np.ones((n, T, 1), np.float32), mask)
        rate = 1 - np.asarray(seen).mean(0)
        assert (np.abs(rate - expected) < 5 * np.sqrt(expected * (1 - expected) / n)).all()


def test_features_are_cut_in_the_whole_sentence():
    x, mask = cut('feature', 0.3)
    np.testing.assert_array_equal(mask, MASK)
    gone = (x == 0).all(1)  # [n, d]
    assert (gone.sum(1) == 2).all()
    np.testing.assert_array_equal(x == 0, np.repeat(gone[:, None], T, 1))
    assert (gone.mean(0) > 0.1).all()


@pytest.mark.parametrize('kind', CUTOFFS)
def test_it_is_a_function_of_the_row_and_the_key(kind):
    x, mask = cut(kind)
    some = np.array([40, 7, 200])
    again, seen = cut(kind, rows=some, of=some)
    np.testing.assert_array_equal(again, x[some])
    np.testing.assert_array_equal(seen, mask[some])
    assert (cut(kind, seed=1)[0] != x).any()
