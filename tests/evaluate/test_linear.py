"""The linear protocol: the descent of its definition, as good as scikit-learn's optimum, its rate chosen without a look
at the test set."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from clr_jax.data import index
from clr_jax.evaluate.features import Features
from clr_jax.evaluate.linear import Linear, linear


def blobs(n: int, seed: int, classes: int = 4, d: int = 8, spread: float = 1.3) -> Features:
    """Overlapping classes, of features with very different scales."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(7).normal(size=(classes, d))
    label = rng.integers(0, classes, n).astype(np.int32)
    h = means[label] + spread * rng.normal(size=(n, d))
    return Features((h * np.logspace(-2, 2, d) + 3).astype(np.float32), label)


def held_out(n: int, seed: int, share: float) -> np.ndarray:
    """Which training examples choose the rate."""
    return index.permutation(np.arange(n), n, index.key(seed, 'holdout'))[: int(n * share)]


def descent(protocol: Linear, rate: float, train: Features, h, classes: int, seed: int):
    """[m, classes] logits after Nesterov's method in float64, one step at a time."""
    mean, deviation = train.h.mean(0, np.float64), train.h.std(0, dtype=np.float64)
    x, n = (train.h - mean) / deviation, len(train.h)
    batch = min(protocol.batch_size, n)
    total = protocol.epochs * (n // batch)
    w, b = np.zeros((x.shape[1], classes)), np.zeros(classes)
    velocity = [np.zeros_like(w), np.zeros_like(b)]
    for step in range(total):
        epoch, place = divmod(step, n // batch)
        rows = index.permutation(place * batch + np.arange(batch), n, index.key(seed, epoch))
        logits = x[rows] @ w + b
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(batch), train.label[rows]] -= 1
        grads = [
            x[rows].T @ p / batch + protocol.weight_decay * w,
            p.mean(0) + protocol.weight_decay * b,
        ]
        now = rate * (1 + np.cos(np.pi * step / total)) / 2
        for value, v, g in zip((w, b), velocity, grads, strict=True):
            v[...] = protocol.momentum * v + g
            value -= now * (protocol.momentum * v + g)
    return (h - mean) / deviation @ w + b


@pytest.mark.parametrize(
    'protocol',
    [
        Linear(learning_rates=(0.1,), epochs=3, batch_size=32),
        Linear(learning_rates=(0.02,), epochs=4, batch_size=50, momentum=0.5, weight_decay=0.1),
        Linear(learning_rates=(0.05,), epochs=6),  # one batch larger than the data
    ],
)
@pytest.mark.parametrize('seed', [0, 3])
def test_the_classifier_is_that_of_the_definition(protocol, seed):
    """Its guesses: against the oracle's as labels top-1 is 1, against others 0."""
    train, test = blobs(150, 0), blobs(300, 1)
    logits = descent(protocol, protocol.learning_rates[0], train, test.h, 4, seed)
    best = np.sort(logits, 1)
    clear = best[:, -1] - best[:, -2] > 1e-3  # float32 may decide otherwise between the rest
    assert clear.mean() > 0.98
    guess = logits.argmax(1).astype(np.int32)
    assert len(set(guess)) == 4
    for shift, expected in ((0, 1.0), (1, 0.0)):
        asked = Features(test.h[clear], (guess[clear] + shift) % 4)
        assert linear(protocol, train, asked, 4, seed)['top1'] == expected


def test_it_reaches_the_optimum_of_scikit_learn_within_a_point():
    train, test = blobs(2000, 0), blobs(2000, 1)
    mean, deviation = train.h.mean(0), train.h.std(0)
    best = LogisticRegression(C=np.inf, max_iter=5000).fit(
        (train.h - mean) / deviation, train.label
    )
    expected = best.score((test.h - mean) / deviation, test.label)
    assert 0.5 < expected < 0.95  # there is something to miss
    assert abs(linear(Linear(), train, test, 4)['top1'] - expected) <= 0.01


def test_features_of_any_scale_give_the_same():
    train, test = blobs(500, 0), blobs(500, 1)
    moved = [f._replace(h=f.h * 1000 - 7) for f in (train, test)]
    guess = linear(Linear(epochs=5), train, test, 4)
    assert linear(Linear(epochs=5), *moved, 4) == guess


def test_a_constant_feature_is_no_nan():
    train, test = blobs(200, 0), blobs(200, 1)
    padded = [
        Features(np.pad(f.h, ((0, 0), (0, 1)), constant_values=2.0), f.label) for f in (train, test)
    ]
    assert (
        linear(Linear(epochs=5), *padded, 4)['top1']
        == linear(Linear(epochs=5), train, test, 4)['top1']
        > 0.5
    )


def test_the_rate_is_not_chosen_on_the_test_set():
    """A rate of zero always says class 0, which is always right on this test set, and wrong on the training set."""
    train, test = blobs(400, 0), blobs(200, 1)
    protocol = Linear(learning_rates=(0.0, 0.1), epochs=5)
    zeros = linear(protocol, train, test._replace(label=np.zeros(200, np.int32)), 4)
    assert zeros['learning_rate'] == 0.1
    assert zeros['top1'] < 0.5
    assert linear(protocol, train, test, 4)['learning_rate'] == 0.1


@pytest.mark.parametrize('seed', [0, 1])
def test_the_rate_is_chosen_on_training_examples_that_did_not_train(seed):
    """Those held out are all of class 0, whatever their features: a rate of zero is right there and nowhere else."""
    train, test = blobs(400, 0), blobs(200, 1)
    label = train.label.copy()
    label[held_out(400, seed, 0.1)] = 0
    protocol = Linear(learning_rates=(0.0, 0.1), epochs=5)
    result = linear(protocol, train._replace(label=label), test, 4, seed)
    assert result == {'top1': np.mean(test.label == 0), 'learning_rate': 0.0}
    assert linear(protocol, train._replace(label=label), test, 4, seed + 2)['learning_rate'] == 0.1


def test_with_the_chosen_rate_all_training_examples_train():
    """Class 4 is among those held out only, and is found in the test set none the less."""
    train = blobs(400, 0)
    held = held_out(400, 0, 0.1)
    rng = np.random.default_rng(0)
    far = lambda n: (20 + rng.normal(size=(n, 8))) * np.logspace(-2, 2, 8)
    h, label = train.h.copy(), train.label.copy()
    h[held], label[held] = far(len(held)), 4
    asked = Features(far(50).astype(np.float32), np.full(50, 4, np.int32))
    protocol = Linear(learning_rates=(0.1,), epochs=10)
    assert linear(protocol, Features(h, label), asked, 5)['top1'] == 1.0


def test_the_seed_decides():
    train, test = blobs(150, 0), blobs(400, 1)
    protocol = Linear(epochs=2, batch_size=16)
    scores = [linear(protocol, train, test, 4, seed)['top1'] for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize('n', [1, 4, 9])
def test_few_examples_are_enough(n):
    """Fewer than there are rates, folds or rows of a batch."""
    h = 10 * np.eye(4, dtype=np.float32)[np.arange(n) % 4]
    train = Features(h, (np.arange(n) % 4).astype(np.int32))
    result = linear(Linear(epochs=10), train, train, 4)
    assert result['top1'] == 1.0
    assert result['learning_rate'] in Linear().learning_rates
