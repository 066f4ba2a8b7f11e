"""The claims of MoCo v3: negatives are the other view's keys, the loss is scaled by 2 temperature, the
predictor is the query's alone, and the momentum rises to 1."""

import jax
import numpy as np

from clr_jax import networks
from clr_jax.heads import MLP
from clr_jax.methods.mocov3 import mocov3
from clr_jax.networks import Network
from tests import oracles
from tests.methods.tiny import Linear, batch, close, outcome, start, train, unit

TEMPERATURE = 0.4


def build(**settings):
    shape = {'projector': (5, 4), 'predictor': (6, 4), 'temperature': TEMPERATURE}
    return mocov3(Linear(), **shape | {'momentum': 0.9} | settings)


def test_the_loss_is_2_t_info_nce_of_predictions_and_the_other_views_keys(float64):
    params, state = start(build())
    out = outcome(build(), params, state, batch())
    head = {'kernel_std': 0.0}
    project, predict = MLP((5, 4), last_norm='plain', **head), MLP((6, 4), last_norm=None, **head)
    online, target = Network(Linear(), project, predict), Network(Linear(), project)
    views = batch()['views']
    q, k = (
        [networks.apply(network, p, s, x)[0] for x in views]
        for network, p, s in (
            (online, params, state.stats),
            (target, state.target, state.target_stats),
        )
    )
    one = lambda i, j: oracles.info_nce(unit(q[i].p), unit(k[j].z), TEMPERATURE)
    expected = 2 * TEMPERATURE * (one(0, 1) + one(1, 0))
    np.testing.assert_allclose(out.loss, expected, rtol=1e-10)


def test_the_target_has_no_predictor_and_its_momentum_rises_to_one():
    params, state = start(build())
    assert params.keys() == {'encoder', 'projector', 'predictor'}
    assert state.target.keys() == {'encoder', 'projector'}
    target = state.target
    close(target, {name: params[name] for name in target})
    steps = train(build(), params, state, [batch(seed=n) for n in range(4)])
    for n, (params, state, _) in enumerate(steps, 1):
        m = 1 - 0.1 * (np.cos(np.pi * n / 4) + 1) / 2
        slow = {name: params[name] for name in target}
        target = jax.tree.map(lambda t, p: m * t + (1 - m) * p, target, slow)
        close(state.target, target)
    close(steps[-1][1].target, steps[-2][1].target)  # momentum 1


def test_last_norms_are_those_of_a_resnet_or_a_vit():
    params, state = start(build(predictor_norm='plain'))
    assert params['projector'].keys() == {'dense1', 'bn1', 'dense2'}  # its last norm learns nothing
    assert state.stats['projector'].keys() == {'bn1', 'bn2'}
    assert state.stats['predictor'].keys() == {'bn1', 'bn2'}
    _, state = start(build())
    assert state.stats['predictor'].keys() == {'bn1'}
