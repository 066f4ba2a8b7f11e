"""The claim of the debiased loss: false negatives are taken out of the global batch's sum."""

import numpy as np
import pytest

from clr_jax.methods.debiased import debiased
from tests import oracles
from tests.methods.tiny import Linear, batch, outcome, start


@pytest.mark.parametrize('devices', [1, 8])
def test_the_loss_is_that_of_the_global_batch(devices):
    method = debiased(Linear(), projector=(5, 4), temperature=0.5, tau_plus=0.1)
    out = outcome(method, *start(method), batch(), devices)
    np.testing.assert_allclose(out.loss, oracles.hard_negative(out.z, 0.5, 0.1, 0.0), rtol=1e-10)
    assert len(set(out.own)) == devices  # each shard answers for its own rows
