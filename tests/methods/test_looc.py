"""The claims of LooC: a space for each augmentation, in which only the key that shares the query's draw
of it is positive; and the config's views share exactly that."""

import numpy as np
import pytest

from clr_jax import networks
from clr_jax.data import augment, index
from clr_jax.data.augment import View
from clr_jax.entry import Problem
from clr_jax.heads import Heads, plain
from clr_jax.methods.looc import looc
from clr_jax.networks import Network
from tests import oracles
from tests.conftest import config
from tests.methods.tiny import BATCH, Linear, batch, outcome, start, train, unit

QUEUE, TEMPERATURE = 40, 0.3


def build(**settings):
    shape = {'projector': (5, 4), 'queue_size': QUEUE, 'momentum': 0.7}
    return looc(Linear(), sensitive=2, temperature=TEMPERATURE, **shape | settings)


def spaces(params, stats, x):
    """z [B, 3, e] of a view."""
    network = Network(Linear(), Heads(tuple(plain((5, 4)) for _ in range(3))))
    return unit(networks.apply(network, params, stats, x)[0].z)


@pytest.mark.parametrize('devices', [1, 8])
def test_in_space_i_key_i_is_positive_and_the_other_keys_are_negatives(float64, devices):
    params, state = start(build(), 4)
    out = outcome(build(), params, state, batch(4), devices)
    query, *others = batch(4)['views']
    q = spaces(params, state.stats, query)
    k = [spaces(state.target, state.target_stats, x) for x in others]
    losses = []
    for i in range(3):
        for n in range(BATCH):
            own = [k[0]] if i == 0 else k
            candidates = [q[n, i] @ key[n, i] / TEMPERATURE for key in own]
            candidates += [q[n, i] @ row / TEMPERATURE for row in state.queues[i]]
            losses.append(oracles.cross_entropy(candidates, i))
    np.testing.assert_allclose(out.loss, np.mean(losses), rtol=1e-10)
    for i in range(3):
        np.testing.assert_allclose(out.state.queues[i][:BATCH], k[i][:, i], rtol=1e-9)
        np.testing.assert_array_equal(out.state.queues[i][BATCH:], state.queues[i][BATCH:])


def test_the_target_is_an_average():
    params, state = start(build(), 4)
    (after, new, _), *_ = train(build(), params, state, [batch(4)])
    kernel = lambda tree: tree['encoder']['Dense_0']['kernel']
    expected = 0.7 * kernel(params) + 0.3 * kernel(after)
    np.testing.assert_allclose(kernel(new.target), expected, rtol=1e-9)


def test_the_number_of_views_is_checked():
    with pytest.raises(Problem, match='takes 4 views of an example; config.views makes 2'):
        start(build())


@pytest.mark.parametrize('name', ['looc_imagenet', 'looc_cifar10_small'])
def test_key_i_shares_the_querys_draw_of_augmentation_i_alone(name):
    views = [View(**view) for view in config(name).views.to_dict().values()]
    keys = index.key(0, 0, np.arange(50))
    query, *others = (augment.sample(view, keys, n) for n, view in enumerate(views))
    color = {'jitter', 'order', 'brightness', 'contrast', 'saturation', 'hue', 'grayscale'}
    shared_by = [set(), color, {'rotate'}][: len(others)]  # the small one has no rotation
    assert len(others) == 1 + config(name).method.sensitive
    for made, shared in zip(others, shared_by, strict=True):
        same = {draw for draw in query if np.array_equal(query[draw], made[draw])}
        assert same == shared
