"""The claim of hard negative sampling: near negatives of the global batch weigh more."""

import numpy as np
import pytest

from clr_jax.methods.hard_negative import hard_negative
from tests import oracles
from tests.methods.tiny import Linear, batch, outcome, start


@pytest.mark.parametrize('devices', [1, 8])
def test_the_loss_is_that_of_the_global_batch(devices):
    method = hard_negative(Linear(), projector=(5, 4), temperature=0.5, tau_plus=0.1, beta=0.8)
    out = outcome(method, *start(method), batch(), devices)
    np.testing.assert_allclose(out.loss, oracles.hard_negative(out.z, 0.5, 0.1, 0.8), rtol=1e-10)
    assert len(set(out.own)) == devices  # each shard answers for its own rows


def test_without_concentration_it_is_the_debiased_loss():
    method = hard_negative(Linear(), projector=(5, 4), temperature=0.5, tau_plus=0.1, beta=0.0)
    out = outcome(method, *start(method), batch())
    np.testing.assert_allclose(out.loss, oracles.hard_negative(out.z, 0.5, 0.1, 0.0), rtol=1e-10)
