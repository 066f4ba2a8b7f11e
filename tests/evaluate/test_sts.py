"""The correlation of sentence similarities is SciPy's."""

import math

import numpy as np
import pytest
from scipy import stats

from clr_jax.evaluate.sts import ranks, spearman, sts

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('ties', [2, 7, 1000])
def test_spearman_is_that_of_scipy(ties):
    x, y = RNG.integers(0, ties, 200) / 3, RNG.normal(size=200)
    y += 0.5 * x
    np.testing.assert_allclose(spearman(x, y), stats.spearmanr(x, y).statistic, rtol=1e-12)
    np.testing.assert_array_equal(ranks(x), stats.rankdata(x))


def test_a_constant_has_no_correlation():
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_sentences_are_compared_by_their_cosines():
    first, second = RNG.normal(size=(2, 50, 6))
    score = RNG.integers(0, 6, 50) / 1
    cosine = [
        np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(first, second, strict=True)
    ]
    expected = stats.spearmanr(cosine, score).statistic
    longer = first * RNG.uniform(1, 9, (50, 1))
    np.testing.assert_allclose(sts(longer, second, score)['spearman'], expected, rtol=1e-12)
