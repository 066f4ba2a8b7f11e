"""The linear read-out against scikit-learn's ridge regression, and on frames of known states."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from clr_jax.entry import Problem
from clr_jax.evaluate.features import Features
from clr_jax.evaluate.regression import Regression, regression


def data(n=400, d=12, k=3, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    h = (3 + rng.normal(size=(n, d)) * np.logspace(-1, 1, d)).astype(np.float32)
    map_ = np.random.default_rng(1).normal(size=(d, k))
    targets = h @ map_ + noise * rng.normal(size=(n, k))
    return Features(h, np.zeros(n, np.int32)), targets


@pytest.mark.parametrize('d', [12, 1500])  # the latter more than examples
@pytest.mark.parametrize('penalty', [1e-6, 1e-2, 1.0])
def test_it_is_ridge_regression_on_standardised_features(penalty, d):
    (train, targets), (test, truth) = data(d=d), data(seed=2, noise=2.0, d=d)
    found = regression(Regression(penalties=(penalty,)), train, test, targets, truth)
    mean, deviation = train.h.mean(0), train.h.std(0)
    model = Ridge(alpha=penalty * len(train.h)).fit((train.h - mean) / deviation, targets)
    predicted = model.predict((test.h - mean) / deviation)
    each = r2_score(truth, predicted, multioutput='raw_values')
    np.testing.assert_allclose(found['each'], each, atol=2e-5)
    assert found['r2'] == pytest.approx(each.mean(), abs=1e-5)


def test_the_penalty_is_chosen_on_held_out_training_data():
    train, targets = data(n=40, d=30, noise=20.0)
    test, truth = data(n=200, d=30, noise=20.0, seed=5)
    found = regression(Regression(), train, test, targets, truth)
    scores = {
        penalty: regression(Regression(penalties=(penalty,)), train, test, targets, truth)['r2']
        for penalty in Regression().penalties
    }
    assert found['penalty'] in scores
    assert found['r2'] == scores[found['penalty']]
    assert found['penalty'] > 1e-6  # so few and so noisy: the least one overfits


def test_too_few_examples_are_refused():
    train, targets = data(n=1)
    with pytest.raises(Problem, match='too few'):
        regression(Regression(), train, train, targets, targets)
