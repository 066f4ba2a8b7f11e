"""The order and the draws: bijections, well mixed, and the same for ever."""

import math

import numpy as np
import pytest

from clr_jax.data import index

pytestmark = pytest.mark.filterwarnings('error')  # NumPy warns where an integer overflows unmeant
M = 2**64


def mix(z):
    """SplitMix64's finalizer in Python's unbounded integers."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % M
    z = (z ^ z >> 27) * 0x94D049BB133111EB % M
    return z ^ z >> 31


def fold(key, word):
    return mix(key ^ mix((word + 0x9E3779B97F4A7C15) % M))


def permuted(x, n, key):
    half = max(1, math.ceil((n - 1).bit_length() / 2))
    rounds = [fold(fold(key, n), k) for k in range(6)]
    while True:
        left, right = x >> half, x % 2**half
        for k in rounds:
            left, right = right, left ^ mix((right + k) % M) % 2**half
        x = left << half | right
        if x < n:
            return x


def test_keys_and_permutations_equal_the_definition_in_unbounded_integers():
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # SplitMix64's first output for seed 0
    seeds = [0, 1, 2**31, 2**63 + 5, -1]
    for seed in seeds:
        expected = fold(fold(0, seed % M), 7)
        assert int(index.key(seed, 7)) == expected
        np.testing.assert_array_equal(
            index.key(seed, 7, np.arange(3)), [fold(expected, i) for i in range(3)]
        )
    for n in (1, 2, 3, 10, 1000):
        key = index.key(3, n)
        expected = [permuted(x, n, int(key)) for x in range(n)]
        np.testing.assert_array_equal(index.permutation(np.arange(n), n, key), expected)


def test_several_permutations_at_once_are_each_alone():
    place, n = np.array([0, 2, 999, 3, 41]), np.array([1, 3, 1000, 1000, 50000])
    keys = index.key(3, np.arange(5))
    expected = [permuted(int(x), int(m), int(k)) for x, m, k in zip(place, n, keys, strict=True)]
    np.testing.assert_array_equal(index.permutation(place, n, keys), expected)


@pytest.mark.parametrize('n', [1, 2, 3, 5, 7, 16, 17, 1000, 50000, 65537])
def test_a_permutation_takes_every_place_once(n):
    for epoch in range(3):
        p = index.permutation(np.arange(n), n, index.key(0, epoch))
        np.testing.assert_array_equal(np.sort(p), np.arange(n))


def test_a_permutation_is_known_anywhere_at_once():
    n, key = 10**12, index.key(5, 2)
    places = np.array([0, 1, 10**6, n - 1])
    together = index.permutation(places, n, key)
    alone = [index.permutation(place, n, key)[0] for place in places]
    np.testing.assert_array_equal(together, alone)
    assert ((0 <= together) & (together < n)).all()


def mixing(p, per_class, batch):
    """How far examples that lie together stay together, of examples sorted by class."""
    n = len(p)
    lags = [abs(np.corrcoef(p[:-k], p[k:])[0, 1]) * math.sqrt(n) for k in (1, 2, batch)]
    batches = (p // per_class)[: n // batch * batch].reshape(-1, batch)
    return max(lags), np.mean([len(np.unique(row)) for row in batches])


def test_a_permutation_mixes_as_well_as_a_true_one():
    n, batch = 100_000, 256
    truth = [mixing(np.random.default_rng(s).permutation(n), 100, batch)[1] for s in range(4)]
    for epoch in range(4):
        lag, classes = mixing(index.permutation(np.arange(n), n, index.key(9, epoch)), 100, batch)
        assert lag < 4  # standard deviations of a true permutation
        assert abs(classes - np.mean(truth)) < 1.5  # 226.2 on average; 4 sd of the mean are 1.0
    a, b = (index.permutation(np.arange(n), n, index.key(9, epoch)) for epoch in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) * math.sqrt(n) < 4
    assert (a == b).sum() < 10  # one on average


def test_draws_are_uniform_and_independent():
    n = 100_000
    keys = index.key(1, 0, np.arange(n))
    draws = [
        index.uniform(keys, 'flip'),
        index.uniform(keys, 'crop'),
        *index.uniform(keys, 'flip', 2).T,
    ]
    draws += [index.uniform(index.fold(keys, view), 'flip') for view in (0, 1)]
    draws += [index.uniform(index.key(1, 1, np.arange(n)), 'flip')]
    for u in draws:
        assert u.dtype == np.float64
        assert 0 <= u.min() < 1e-3
        assert 1 - 1e-3 < u.max() < 1
        counts = np.histogram(u, 50, (0, 1))[0]
        assert ((counts - n / 50) ** 2 / (n / 50)).sum() < 100  # chi square, 49 degrees: p = 2e-5
        assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) * math.sqrt(n) < 4
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert abs(correlation).max() * math.sqrt(n) < 4.5


def test_a_draw_depends_on_its_key_and_name_alone():
    keys = index.key(0, 0, np.arange(5))
    whole = index.uniform(keys, 'hue', 3)
    np.testing.assert_array_equal(whole[2:4], index.uniform(keys[2:4], 'hue', 3))
    np.testing.assert_array_equal(whole[:, :2], index.uniform(keys, 'hue', 2))
    assert index.key(0, 1) != index.key(1, 0)
    assert index.key(0, 1, 2) == index.fold(index.key(0, 1), 2)


def test_golden_values():
    """A change here is a change of every run that anyone has seeded."""
    assert int(index.key(0, 0)) == 0x3B9D11EB55856BAF
    assert int(index.key(42, 3, 7, 1)) == 0x8D67AD6E1A2E7620
    p = index.permutation(np.arange(8), 50000, index.key(0, 0))
    assert p.tolist() == [8558, 37378, 15049, 24139, 8069, 9766, 28697, 26655]
    flips = index.uniform(index.key(0, 0, np.arange(3)), 'flip')
    assert flips.tolist() == [0.9060934702860141, 0.22626674345408893, 0.25972484379276584]
    seeds = index.uniform(index.key(0, 0, np.arange(1)), 'crop', 2)
    assert seeds.tolist() == [[0.8745825787027786, 0.33354777380266687]]
