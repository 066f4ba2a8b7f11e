"""The claims of BYOL: it regresses the target's projection of the other view; the target begins on its
own and is an average; without a predictor the method collapses, and the health metrics say so."""

import jax
import numpy as np
import pytest

from clr_jax import networks
from clr_jax.heads import MLP
from clr_jax.health import health
from clr_jax.methods.byol import byol
from clr_jax.networks import Network
from tests.methods.tiny import Linear, batch, close, outcome, start, train, unit


def build(**settings):
    shape = {'projector': (5, 4), 'predictor': (6, 4), 'momentum': 0.9}
    return byol(Linear(), **shape | settings)


@pytest.mark.parametrize('devices', [1, 8])
def test_the_loss_is_the_squared_distance_of_units_in_both_directions(float64, devices):
    params, state = start(build())
    out = outcome(build(), params, state, batch(), devices)
    head = {'bias': True, 'last_norm': None, 'kernel_std': 0.0}
    network = Network(Linear(), MLP((5, 4), **head), MLP((6, 4), **head))
    views = batch()['views']
    p = [unit(networks.apply(network, params, state.stats, x)[0].p) for x in views]
    z = [unit(networks.apply(network, state.target, state.target_stats, x)[0].z) for x in views]
    expected = sum(((p[i] - z[1 - i]) ** 2).sum(1).mean() for i in (0, 1))
    np.testing.assert_allclose(out.loss, expected, rtol=1e-10)


@pytest.mark.parametrize('devices', [1, 8])
def test_with_multi_crop_all_crops_predict_the_large_ones(float64, devices):
    """The encoder passes each size once, so that batch statistics are of a size."""
    data = batch(2, small=2)
    params, state = start(build(), small=2)
    out = outcome(build(), params, state, data, devices)
    head = {'bias': True, 'last_norm': None, 'kernel_std': 0.0}
    network = Network(Linear(), MLP((5, 4), **head), MLP((6, 4), **head))
    of = lambda p, s, views: networks.apply_views(network, p, s, views)[0]
    p = [unit(view.p) for view in of(params, state.stats, data['views'])]
    z = [unit(view.z) for view in of(state.target, state.target_stats, data['views'][:2])]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]  # target, prediction
    # a ReLU may leave a prediction of zero, whose cosine is 0
    expected = 2 * np.mean([(2 - 2 * (p[j] * z[i]).sum(1)).mean() for i, j in pairs])
    np.testing.assert_allclose(out.loss, expected, rtol=1e-10)
    assert out.z.shape[1] == out.h.shape[1] == 2


def test_the_target_begins_on_its_own_and_follows_with_a_rising_momentum():
    params, state = start(build())
    kernel = lambda tree: tree['encoder']['Dense_0']['kernel']
    assert np.abs(kernel(params) - kernel(state.target)).max() > 0.1
    assert state.target.keys() == params.keys()  # the predictor too
    target = state.target
    steps = train(build(), params, state, [batch(seed=n) for n in range(4)])
    for n, (params, state, _) in enumerate(steps, 1):
        m = 1 - 0.1 * (np.cos(np.pi * n / 4) + 1) / 2
        target = jax.tree.map(lambda t, p: m * t + (1 - m) * p, target, params)
        close(state.target, target)
    close(steps[-1][1].target, steps[-2][1].target)  # momentum 1
    before, after = steps[0][1].target_stats, steps[1][1].target_stats
    assert before['projector']['bn1']['mean'].tolist() != after['projector']['bn1']['mean'].tolist()


def test_heads_have_biases_where_no_norm_follows_and_no_norm_at_the_end():
    params, _ = start(build())
    for head in ('projector', 'predictor'):
        assert params[head].keys() == {'dense1', 'bn1', 'dense2'}
        assert params[head]['dense1'].keys() == {'kernel', 'bias'}
        assert params[head]['dense2'].keys() == {'kernel'}


def test_without_a_predictor_it_collapses_and_the_health_metrics_say_so(float64):
    """Grill et al., 2020, table 5: the embeddings lose their spread, the loss its meaning."""

    def after(**settings):
        method = byol(Linear(), projector=(16, 8), momentum=0.9, **settings)
        batches = [batch(seed=n % 8) for n in range(60)]
        *_, (_, _, out) = train(method, *start(method), batches, rate=0.5, devices=1)
        return jax.device_get(health(out.z)), out.loss

    (alive, loss), (collapsed, less) = after(predictor=(16, 8)), after(predictor=())
    assert less < 0.01 < loss
    assert collapsed['std'] < 0.3 < 0.8 < alive['std']
    assert collapsed['uniformity'] > -0.3 > -1.5 > alive['uniformity']
