"""Linear regression on frozen features: how much of what is measured beside an example, such as the
state of an environment, a linear map reads out."""

from typing import NamedTuple

import numpy as np

from clr_jax.entry import Problem
from clr_jax.evaluate.features import Features


class Regression(NamedTuple):
    """Ridge regression on features standardised by the training set's mean and deviation; its penalty
    is the one that does best on the last tenth of the training set."""

    version: int = 1
    penalties: tuple = (1e-6, 1e-4, 1e-2, 1.0)  # of the squared weights, relative to the examples
    holdout: float = 0.1


def regression(protocol: Regression, train: Features, test: Features, targets, truth) -> dict:
    """-> {'r2': the mean over targets of the share of the test set's variance that is explained, 'each':
    of each}. targets: [n, k] of the training examples, truth: [m, k] of the test examples."""
    mean, deviation = train.h.mean(0, dtype=np.float64), train.h.std(0, dtype=np.float64) + 1e-6
    mean, deviation = mean.astype(train.h.dtype), deviation.astype(train.h.dtype)
    x, asked = ((of.h - mean) / deviation for of in (train, test))  # [n, d], [m, d]
    held = max(1, int(len(x) * protocol.holdout))
    if len(x) <= held:
        raise Problem(f'{len(x)} examples are too few for a regression')
    tried = ridge(x[:-held], targets[:-held], x[-held:], protocol.penalties)
    scores = [explained(predicted, targets[-held:]).mean() for predicted in tried]
    best = protocol.penalties[int(np.argmax(scores))]
    (predicted,) = ridge(x, targets, asked, [best])
    each = explained(predicted, truth)
    return {'r2': float(each.mean()), 'each': each.round(5).tolist(), 'penalty': best}


def ridge(x, y, asked, penalties) -> list:
    """What the least squares of x w + offset = y, with each penalty on w, say of `asked`: [m, k] each.

    x: [n, d]. Where d is larger, as it is of pixels, the equations are of the examples instead, in
    memory of the order of x, not of d^2.
    """
    middle, offset = x.mean(0), y.mean(0)
    x, y, asked = x - middle, y - offset, asked - middle
    n, d = x.shape
    if d <= n:
        features = x.T
        gram, right, by = product(features, features), product(features, y.T), asked
    else:
        gram, right, by = product(x, x), y, product(asked, x)
    solve = lambda penalty: np.linalg.solve(gram + penalty * n * np.eye(len(gram)), right)
    return [by @ solve(penalty) + offset for penalty in penalties]


def product(a, b, columns: int = 1024) -> np.ndarray:
    """a [n, d] times the transpose of b [m, d], in float64: [n, m]."""
    total = np.zeros((len(a), len(b)))
    for first in range(0, a.shape[1], columns):
        left = a[:, first : first + columns].astype(np.float64)
        # of an array with itself, BLAS computes one half
        total += left @ (left if b is a else b[:, first : first + columns]).T
    return total


def explained(predicted, truth) -> np.ndarray:
    """R^2 of each column: 1 - squared error / variance around the mean of the truth."""
    error, spread = np.square(truth - predicted).sum(0), np.square(truth - truth.mean(0)).sum(0)
    return 1 - error / np.maximum(spread, 1e-12)
