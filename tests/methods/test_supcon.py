"""The claim of SupCon: views of a class are positives, whichever device holds them."""

import numpy as np
import pytest

from clr_jax.entry import Problem
from clr_jax.methods.supcon import supcon
from tests import oracles
from tests.methods.tiny import Linear, batch, outcome, start


@pytest.mark.parametrize('devices', [1, 8])
def test_the_loss_is_that_of_the_global_batch(devices):
    method = supcon(Linear(), 4, projector=(5, 4), temperature=0.3)
    out = outcome(method, *start(method, 3), batch(3), devices)
    np.testing.assert_allclose(out.loss, oracles.sup_con(out.z, batch(3)['label'], 0.3), rtol=1e-10)
    assert len(set(out.own)) == devices  # each shard answers for its own rows


def test_it_needs_labels():
    with pytest.raises(Problem, match='needs labels'):
        supcon(Linear(), 0)


def test_the_official_constant_is_a_setting():
    settings = {'projector': (5, 4), 'temperature': 0.3}
    plain, official = (
        supcon(Linear(), 4, **settings, constant=constant) for constant in ('paper', 'official')
    )
    params, state = start(plain, 3)
    one, other = (outcome(method, params, state, batch(3)).loss for method in (plain, official))
    np.testing.assert_allclose(other, one * 0.3 / 0.07, rtol=1e-12)
