"""The claims of NNCLR: the positive is the nearest row of a queue of past projections."""

from functools import cache

import numpy as np
import pytest

from clr_jax import networks
from clr_jax.heads import MLP
from clr_jax.methods.nnclr import nnclr
from clr_jax.networks import Network
from tests import oracles
from tests.methods.tiny import BATCH, Linear, batch, outcome, start, train, unit

QUEUE, TEMPERATURE = 40, 0.3


def build(**settings):
    shape = {'projector': (5, 4), 'predictor': (6, 4), 'queue_size': QUEUE}
    return nnclr(Linear(), **shape | {'temperature': TEMPERATURE} | settings)


@cache
def run():
    return train(build(), *start(build()), [batch(seed=n) for n in range(4)])


@pytest.mark.parametrize(('devices', 'transposed'), [(1, False), (8, False), (8, True)])
def test_predictions_meet_the_neighbours_of_the_other_view(float64, devices, transposed):
    params, state, _ = run()[-1]  # with a queue of real projections
    out = outcome(build(transposed=transposed), params, state, batch(), devices)
    head = {'kernel_std': 0.0}
    project = MLP((5, 4), last_norm='full', **head)
    predict = MLP((6, 4), last_norm=None, last_bias=True, **head)
    network = Network(Linear(), project, predict)
    views, _ = networks.apply_views(network, params, state.stats, batch()['views'])
    neighbours = [
        np.stack([max(state.queue, key=lambda row: row @ z) for z in unit(view.z)])
        for view in views
    ]
    assert len({tuple(row) for row in neighbours[0]}) > 1
    pairs = [(neighbours[0], unit(views[1].p)), (neighbours[1], unit(views[0].p))]
    pairs += [(p, nn) for nn, p in pairs] if transposed else []
    expected = sum(oracles.info_nce(nn, p, TEMPERATURE) for nn, p in pairs) / 2
    np.testing.assert_allclose(out.loss, expected, rtol=1e-10)


def test_the_queue_holds_the_first_views_of_the_last_batches_in_order():
    last = np.concatenate([unit(out.z[:, 0]) for _, _, out in run()])[-QUEUE:]
    _, state, _ = run()[-1]
    assert state.cursor == 4 * BATCH % QUEUE
    np.testing.assert_allclose(np.roll(state.queue, -state.cursor, 0), last, rtol=1e-9)
