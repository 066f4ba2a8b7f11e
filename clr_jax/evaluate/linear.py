"""Linear evaluation: multinomial logistic regression on frozen features, its learning rate chosen
on held-out training data."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clr_jax.data import index


class Linear(NamedTuple):
    """Nesterov SGD with a cosine to zero on features standardised by the training set's mean and
    deviation.

    Features are of the central crop (no augmentation), so that they are computed once; the
    published protocols train on random crops and come out slightly higher on large images. One
    classifier per learning rate, all at once.
    """

    version: int = 1
    learning_rates: tuple = (0.003, 0.01, 0.03, 0.1, 0.3)
    epochs: int = 30
    batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 0.0
    normalisation: str = 'standardise'
    holdout: float = 0.1  # of the training examples, to choose the rate; then trained on all


def linear(protocol: Linear, train, test, classes: int, seed: int = 0) -> dict:
    """-> {'top1', 'learning_rate'} of the classifier whose rate did best on the held-out part of
    the training set."""
    mean, deviation = train.h.mean(0), train.h.std(0) + 1e-6
    train_h, test_h = ((h - mean) / deviation for h in (train.h, test.h))
    order = index.permutation(np.arange(len(train_h)), len(train_h), index.key(seed, 'holdout'))
    held = order[: max(1, int(len(order) * protocol.holdout))]
    rest = order[len(held) :] if len(order) > len(held) else order
    rates = jnp.asarray(protocol.learning_rates)

    tried = _train(protocol, rates, train_h[rest], train.label[rest], classes, seed)
    scores = _accuracy(tried, train_h[held], train.label[held])
    best = int(np.argmax(scores))
    chosen = _train(protocol, rates[best : best + 1], train_h, train.label, classes, seed)
    top1 = float(_accuracy(chosen, test_h, test.label)[0])
    return {'top1': top1, 'learning_rate': protocol.learning_rates[best]}


def _train(protocol, rates, h, label, classes, seed):
    """-> weights [rates, d, classes] and biases [rates, classes]."""
    batch = min(protocol.batch_size, len(h))
    steps = len(h) // batch
    place = np.arange(steps * batch)
    keys = [index.key(seed, epoch) for epoch in range(protocol.epochs)]
    orders = [index.permutation(place, len(h), key) for key in keys]
    rows = np.stack(orders).reshape(-1, batch).astype(np.int32)  # [epochs * steps, batch]
    data = (jnp.asarray(x) for x in (h, label, rows))
    return _descend(protocol, classes, rates, *data)


@partial(jax.jit, static_argnums=(0, 1))
def _descend(protocol, classes, rates, h, label, rows):
    shape = optax.cosine_decay_schedule(1.0, len(rows))
    descent = optax.chain(
        optax.add_decayed_weights(protocol.weight_decay),
        optax.trace(protocol.momentum, nesterov=True),
    )

    def one(rate):
        w, b = jnp.zeros((h.shape[1], classes), h.dtype), jnp.zeros((classes,), h.dtype)
        params = {'w': w, 'b': b}

        def step(carry, row):
            params, opt, n = carry
            x, y = h[row], label[row]

            def loss(p):
                logits = x @ p['w'] + p['b']
                return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

            update, opt = descent.update(jax.grad(loss)(params), opt, params)
            params = jax.tree.map(lambda p, u: p - rate * shape(n) * u, params, update)
            return (params, opt, n + 1), None

        start = params, descent.init(params), jnp.zeros((), jnp.int32)
        return jax.lax.scan(step, start, rows)[0][0]

    return jax.vmap(one)(rates)


def _accuracy(params, h, label):
    """-> [rates] fraction of rows classified right."""
    logits = jnp.einsum('nd,rdc->rnc', h, params['w']) + params['b'][:, None]
    return (np.asarray(logits.argmax(-1)) == label).mean(1)
