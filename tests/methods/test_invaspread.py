"""The claim of InvaSpread: each view tells its sibling from all others of the global batch."""

import numpy as np
import pytest

from clr_jax.methods.invaspread import invaspread
from tests import oracles
from tests.methods.tiny import Linear, batch, outcome, start


@pytest.mark.parametrize('devices', [1, 8])
def test_the_loss_is_that_of_the_global_batch(devices):
    method = invaspread(Linear(), projector=(5, 4), temperature=0.3)
    out = outcome(method, *start(method), batch(), devices)
    np.testing.assert_allclose(out.loss, oracles.invariant_spread(out.z, out.z, 0.3), rtol=1e-10)
    assert len(set(out.own)) == devices  # each shard answers for its own rows
