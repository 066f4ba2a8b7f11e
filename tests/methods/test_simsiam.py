"""The claims of SimSiam: each prediction meets the other view's projection as a constant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import networks
from clr_jax.heads import MLP
from clr_jax.health import health
from clr_jax.methods.simsiam import simsiam
from clr_jax.networks import Network
from tests.methods.tiny import Linear, batch, close, outcome, start, train


def build(**settings):
    return simsiam(Linear(), **{'projector': (5, 4), 'predictor': (12, 4)} | settings)


@pytest.mark.parametrize('stop', [True, False])
def test_the_loss_is_minus_the_mean_cosine_and_its_targets_are_constants(float64, stop):
    params, state = start(build())
    out = outcome(build(stop_gradient=stop), params, state, batch())
    head = {'kernel_std': 0.0}
    project = MLP((5, 4), last_norm='plain', **head)
    predict = MLP((12, 4), last_norm=None, last_bias=True, **head)
    network = Network(Linear(), project, predict)
    views = batch()['views']
    outputs = lambda params: [networks.apply(network, params, state.stats, x)[0] for x in views]
    fixed = [jnp.asarray(view.z) for view in outputs(params)]
    cosine = lambda p, z: (p * z).sum(1) / jnp.linalg.norm(p, axis=1) / jnp.linalg.norm(z, axis=1)

    def expected(params):
        a, b = outputs(params)
        z1, z2 = fixed if stop else (a.z, b.z)
        return -(cosine(a.p, z2).mean() + cosine(b.p, z1).mean()) / 2

    value, grads = jax.jit(jax.value_and_grad(expected))(params)
    np.testing.assert_allclose(out.loss, value, rtol=1e-10)
    close(out.grads, jax.device_get(grads))


def test_heads_are_the_papers():
    params, state = start(build())
    assert params['projector'].keys() == {'dense1', 'bn1', 'dense2'}
    assert state.stats['projector'].keys() == {'bn1', 'bn2'}  # the last without scale and offset
    assert params['predictor'].keys() == {'dense1', 'bn1', 'dense2'}
    assert params['predictor']['dense2'].keys() == {'kernel', 'bias'}
    assert params['predictor']['dense1'].keys() == {'kernel'}


def test_without_stopped_gradients_it_collapses_and_the_health_metrics_say_so(float64):
    """Chen & He, 2020, section 4.1. The norm at the end of the projector keeps the deviation of each
    dimension, and so `std`; what is lost is their number."""

    def after(**settings):
        method = simsiam(Linear(), projector=(16, 8), predictor=(8, 8), **settings)
        batches = [batch(seed=n % 8) for n in range(60)]
        *_, (_, _, out) = train(method, *start(method), batches, rate=0.5, devices=1)
        return jax.device_get(health(out.z)), out.loss

    (alive, loss), (collapsed, less) = after(), after(stop_gradient=False)
    assert less < -0.99 < loss
    assert collapsed['effective_rank'] < 2.5 < 3.5 < alive['effective_rank']
    assert collapsed['uniformity'] > -1.8 > -2.3 > alive['uniformity']
