"""Nearest neighbours against loops in NumPy float64: whom they find, how they vote, and what breaks a tie.

A vote is compared example by example: against labels that are the oracle's guesses, top-1 is 1; against others, 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.evaluate.features import Features
from clr_jax.evaluate.knn import Knn, knn, nearest


def guesses(protocol: Knn, train: Features, h, classes: int) -> np.ndarray:
    """[m] the winning classes, the vote's definition word by word."""
    unit = lambda x: x / max(np.linalg.norm(x), 1e-12)
    result = []
    for x in h.astype(np.float64):
        similarity = [float(unit(x) @ unit(y)) for y in train.h.astype(np.float64)]
        first = sorted(range(len(similarity)), key=lambda i: (-similarity[i], i))[: protocol.k]
        votes = [0.0] * classes
        for i in first:
            votes[train.label[i]] += np.exp(similarity[i] / protocol.temperature)
        result.append(int(np.argmax(votes)))
    return np.array(result, np.int32)


def random_features(n: int, d: int, classes: int, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n).astype(np.int32)
    means = np.random.default_rng(99).normal(size=(classes, d))
    return Features((means[label] + 1.5 * rng.normal(size=(n, d))).astype(np.float32), label)


def agrees(protocol, train, h, expected, classes):
    """Whether every guess is as expected."""
    right = knn(protocol, train, Features(h, expected), classes)['top1']
    wrong = knn(protocol, train, Features(h, (expected + 1) % classes), classes)['top1']
    return (right, wrong) == (1.0, 0.0)


@pytest.mark.parametrize(
    'protocol',
    [
        Knn(),
        Knn(k=1),
        Knn(k=5, temperature=0.01),
        Knn(k=60, temperature=0.07),
        Knn(k=200, temperature=10.0),
    ],
)
def test_every_vote_is_that_of_the_definition(protocol):
    train, test = random_features(300, 12, 4, 0), random_features(150, 12, 4, 1)
    expected = guesses(protocol, train, test.h, 4)
    assert len(set(expected)) == 4
    assert agrees(protocol, train, test.h, expected, 4)
    top1 = knn(protocol, train, test, 4)['top1']
    assert top1 == np.mean(expected == test.label)
    assert 0.25 < top1 < 1


@pytest.mark.parametrize('m', [1, 511, 512, 513])
def test_examples_beyond_a_full_chunk_are_counted_once(m):
    train, test = random_features(40, 6, 3, 0), random_features(m, 6, 3, 1)
    expected = guesses(Knn(), train, test.h, 3)
    assert agrees(Knn(), train, test.h, expected, 3)
    assert knn(Knn(), train, test, 3)['top1'] == np.mean(expected == test.label)


def test_all_vote_when_there_are_fewer_than_k():
    train, test = random_features(7, 5, 3, 0), random_features(50, 5, 3, 1)
    assert agrees(Knn(k=20), train, test.h, guesses(Knn(k=7), train, test.h, 3), 3)


def test_the_length_of_a_feature_does_not_matter():
    train, test = random_features(60, 6, 3, 0), random_features(60, 6, 3, 1)
    scales = np.exp(np.random.default_rng(2).normal(size=(60, 1))).astype(np.float32) * 100
    expected = guesses(Knn(), train, test.h, 3)
    assert agrees(Knn(), train._replace(h=train.h * scales), test.h / scales, expected, 3)


@pytest.mark.parametrize(('temperature', 'winner'), [(0.1, 0), (1.0, 1)])
def test_the_temperature_weighs_one_near_against_two_far(temperature, winner):
    """Similarities 1, 0.9, 0.9: e^10 > 2 e^9, but e^1 < 2 e^0.9."""
    far = np.sqrt(1 - 0.9**2)
    bank = np.array([[1, 0], [0.9, far], [0.9, -far], [-1, 0]], np.float32)
    train = Features(bank, np.array([0, 1, 1, 2], np.int32))
    test = Features(bank[:1], np.array([winner], np.int32))
    assert knn(Knn(k=3, temperature=temperature), train, test, 3)['top1'] == 1.0


def test_ties():
    """Among equal neighbours the first of the training set counts, among equal votes the first class."""
    axes = np.eye(4, dtype=np.float32)
    one = lambda label: np.array([label], np.int32)
    twins = Features(axes[[0, 0, 1]], np.array([2, 1, 0], np.int32))
    assert knn(Knn(k=1), twins, Features(axes[:1], one(2)), 3)['top1'] == 1.0
    assert knn(Knn(k=2), twins, Features(axes[:1], one(1)), 3)['top1'] == 1.0


def test_a_feature_of_zeros_is_no_nan():
    """It is equally unlike everything: the first k vote."""
    train = Features(np.eye(4, dtype=np.float32), np.array([1, 1, 0, 0], np.int32))
    test = Features(np.zeros((1, 4), np.float32), np.array([1], np.int32))
    assert knn(Knn(k=2), train, test, 2)['top1'] == 1.0
    bank = Features(np.zeros((3, 4), np.float32), np.array([1, 0, 0], np.int32))
    assert knn(Knn(k=1), bank, Features(train.h, np.ones(4, np.int32)), 2)['top1'] == 1.0


def test_similar_features_far_from_zero_do_not_overflow():
    """exp(s / temperature) alone would, at a temperature of 0.01."""
    train, test = random_features(40, 6, 3, 0), random_features(40, 6, 3, 1)
    protocol = Knn(temperature=0.01)
    shifted = train._replace(h=train.h + 50), test.h + 50
    assert agrees(protocol, *shifted, guesses(protocol, *shifted, 3), 3)


# The search.


@pytest.mark.parametrize(
    ('n', 'k', 'block'),
    [(103, 3, 4), (25, 3, 4), (24, 3, 4), (257, 1, 8), (130, 5, 8), (640, 4, 64)],
)
def test_nearest_is_top_k_with_all_its_ties(n, k, block):
    """Values among few integers: nearly every place is a tie."""
    find = jax.jit(lambda x: nearest(x, k, block))
    for seed, kinds in enumerate((1, 2, 3, 10, 50)):
        similarity = jnp.asarray(
            np.random.default_rng(seed).integers(-kinds, kinds, (64, n)), jnp.float32
        )
        (values, places), (expected, expected_places) = (
            find(similarity),
            jax.lax.top_k(similarity, k),
        )
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(places, expected_places)


def test_nearest_is_top_k_at_the_size_of_a_data_set():
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(8, 50_000)).astype(np.float32)
    similarity[:, ::3] = 3.5  # a third are equal, and few are above
    similarity[3] = np.sort(similarity[3])  # all of the largest in the last blocks
    similarity[4] = -np.sort(-similarity[4])
    for k in (1, 20, 200):
        values, places = nearest(jnp.asarray(similarity), k)
        expected, expected_places = jax.lax.top_k(similarity, k)
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(places, expected_places)
        np.testing.assert_array_equal(np.take_along_axis(similarity, np.asarray(places), 1), values)


def test_a_long_bank_is_searched_by_blocks_with_the_same_votes():
    rng = np.random.default_rng(0)
    train = random_features(3000, 8, 5, 0)
    copies = rng.integers(0, 3000, 1500)
    h = train.h.copy()
    h[1500:] = h[copies]  # duplicates with labels of their own
    train = train._replace(h=h)
    test = random_features(20, 8, 5, 1)
    assert len(train.h) > 2 * 20 * 64
    assert agrees(Knn(), train, test.h, guesses(Knn(), train, test.h, 5), 5)
