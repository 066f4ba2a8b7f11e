"""The claims of SimSiam: each prediction meets the other view's projection as a constant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import networks
from clr_jax.heads import MLP
from clr_jax.methods.simsiam import simsiam
from clr_jax.networks import Network
from tests.methods.tiny import Linear, batch, close, outcome, start


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
