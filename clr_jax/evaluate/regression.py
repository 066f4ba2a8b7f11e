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
    design = lambda h: np.column_stack([(h - mean) / deviation, np.ones(len(h))])  # [n, d + 1]
    x, asked = design(train.h), design(test.h)
    held = max(1, int(len(x) * protocol.holdout))
    if len(x) <= held:
        raise Problem(f'{len(x)} examples are too few for a regression')
    fits = [weights(x[:-held], targets[:-held], penalty) for penalty in protocol.penalties]
    scores = [explained(x[-held:] @ w, targets[-held:]).mean() for w in fits]
    best = protocol.penalties[int(np.argmax(scores))]
    each = explained(asked @ weights(x, targets, best), truth)
    return {'r2': float(each.mean()), 'each': each.round(5).tolist(), 'penalty': best}


def weights(x, y, penalty: float) -> np.ndarray:
    """The least squares of x w = y with a penalty on all but the last row, the offset: [d + 1, k]."""
    ridge = penalty * len(x) * np.eye(x.shape[1])
    ridge[-1, -1] = 0
    return np.linalg.solve(x.T @ x + ridge, x.T @ y)


def explained(predicted, truth) -> np.ndarray:
    """R^2 of each column: 1 - squared error / variance around the mean of the truth."""
    error, spread = np.square(truth - predicted).sum(0), np.square(truth - truth.mean(0)).sum(0)
    return 1 - error / np.maximum(spread, 1e-12)
