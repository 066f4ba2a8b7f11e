"""The claims of VICReg: three terms over the global batch, each with its weight, and none of them can
be left out."""

import jax
import numpy as np
import pytest

from clr_jax import networks
from clr_jax.heads import MLP
from clr_jax.health import health
from clr_jax.methods.vicreg import vicreg
from clr_jax.networks import Network
from tests import oracles
from tests.methods.tiny import Linear, batch, close, outcome, start, train

TERMS = ('invariance', 'variance', 'covariance')


def build(**settings):
    return vicreg(Linear(), **{'projector': (6, 5, 4)} | settings)


@pytest.mark.parametrize('devices', [1, 8])
def test_the_loss_is_that_of_the_global_batch_and_each_view_passes_alone(devices, float64):
    weights = dict(zip(TERMS, (3.0, 2.0, 0.7), strict=True))
    params, state = start(build())
    out = outcome(build(**weights), params, state, batch(), devices)
    network = Network(Linear(), MLP((6, 5, 4), bias=True, last_norm=None, kernel_std=0.0))
    alone = [networks.apply(network, params, state.stats, x)[0].z for x in batch()['views']]
    close(out.z, np.stack(alone, 1))
    *terms, loss = oracles.vicreg(*np.asarray(alone), **weights)
    np.testing.assert_allclose(out.loss, loss, rtol=1e-9)
    np.testing.assert_allclose([out.metrics[name] for name in TERMS], terms, rtol=1e-9)


def test_the_weights_are_the_papers():
    params, state = start(build())
    out = outcome(build(), params, state, batch())
    expected = 25 * out.metrics['invariance'] + 25 * out.metrics['variance']
    np.testing.assert_allclose(out.loss, expected + out.metrics['covariance'], rtol=1e-12)


def test_the_expander_has_biases_before_its_norms_and_neither_at_the_end():
    params, _ = start(build())
    head = params['projector']
    assert head.keys() == {'dense1', 'bn1', 'dense2', 'bn2', 'dense3'}
    assert head['dense1'].keys() == head['dense2'].keys() == {'kernel', 'bias'}
    assert head['dense3'].keys() == {'kernel'}


def test_each_term_prevents_what_it_is_for(float64):
    """Without the variance embeddings shrink, without the covariance dimensions repeat each other,
    without the invariance the views are apart (Bardes et al., 2022, section 6)."""

    def after(**settings):
        method = build(projector=(16, 8), **settings)
        *_, (_, _, out) = train(method, *start(method), [batch()] * 60, rate=0.05, devices=1)
        return out.metrics | jax.device_get(health(out.z)), out.z.std(0).mean()

    whole, deviation = after()
    assert whole['variance'] < 0.01 < 0.9 < deviation
    assert whole['effective_rank'] > 5.5
    shrunk, small = after(variance=0.0)
    assert small < 0.2 < 0.75 < shrunk['variance']
    assert after(covariance=0.0)[0]['effective_rank'] < 3.5
    assert after(invariance=0.0)[0]['invariance'] > 5 * whole['invariance']
