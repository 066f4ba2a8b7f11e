"""The claims of Barlow Twins: each dimension agrees with itself in the other view and with no other,
over the global batch; the official code's gradients are a setting."""

import jax
import numpy as np
import pytest

from clr_jax import networks
from clr_jax.entry import Problem
from clr_jax.heads import MLP
from clr_jax.methods.barlow_twins import barlow_twins
from clr_jax.networks import Network
from tests import oracles
from tests.methods.tiny import Linear, batch, close, outcome, start, train


def build(**settings):
    return barlow_twins(Linear(), **{'projector': (6, 5, 4), 'weight': 0.5} | settings)


@pytest.mark.parametrize('devices', [1, 8])
def test_the_loss_is_that_of_the_global_batch_and_each_view_passes_alone(devices, float64):
    params, state = start(build())
    out = outcome(build(), params, state, batch(), devices)
    network = Network(Linear(), MLP((6, 5, 4), last_norm=None, kernel_std=0.0))
    alone = [networks.apply(network, params, state.stats, x)[0].z for x in batch()['views']]
    close(out.z, np.stack(alone, 1))
    on, off, loss = oracles.barlow_twins(*np.asarray(alone), 0.5)
    np.testing.assert_allclose(out.loss, loss, rtol=1e-9)
    found = out.metrics['on_diagonal'], out.metrics['off_diagonal']
    np.testing.assert_allclose(found, (on, off), rtol=1e-9)


def test_the_projector_has_no_biases_and_no_last_norm():
    params, _ = start(build())
    assert params['projector'].keys() == {'dense1', 'bn1', 'dense2', 'bn2', 'dense3'}
    assert all(params['projector'][f'dense{n}'].keys() == {'kernel'} for n in (1, 2, 3))


def test_gradients_of_the_official_code_on_many_processes_are_a_setting():
    """There each of W processes differentiates the whole loss by its own rows, and the mean is
    taken: 1 / W of the gradient."""
    params, state = start(build())
    exact, official = (
        outcome(build(reference_world_size=size), params, state, batch(), 2) for size in (1, 16)
    )
    np.testing.assert_allclose(official.loss, exact.loss / 16, rtol=1e-12)
    close(official.grads, jax.tree.map(lambda g: g / 16, exact.grads), 1e-12)
    assert official.metrics == exact.metrics


def test_training_makes_dimensions_agree_and_independent(float64):
    start_at = start(build())
    steps = train(build(), *start_at, [batch()] * 100, rate=0.05, devices=1)
    correlation = lambda z: np.corrcoef(z[:, 0].T, z[:, 1].T)[:4, 4:]
    before, after = (correlation(steps[n][2].z) for n in (0, -1))
    apart = lambda c: np.abs(c - np.eye(4)).mean()
    assert apart(after) < 0.15 < 0.3 < apart(before)


def test_a_world_without_processes_is_refused():
    with pytest.raises(Problem, match=r'config\.method\.reference_world_size=0'):
        build(reference_world_size=0)
