"""The claims of CURL: a bilinear similarity finds the key among the batch, no vector is normalised, and
the key encoder moves at every second step."""

import jax
import numpy as np
import pytest

from clr_jax.methods.curl import curl
from tests.methods.tiny import BATCH, Linear, batch, close, outcome, start, train


def dense(params, x):
    p = params['encoder']['Dense_0']
    return x.reshape(BATCH, -1) @ p['kernel'] + p['bias']


def oracle(query, key, similarity, scale):
    """The loss and its gradient to the query and the similarity, by loops."""
    value, to_query, to_similarity = 0.0, np.zeros_like(query), np.zeros_like(similarity)
    for i in range(BATCH):
        logits = np.array([scale * query[i] @ similarity @ k for k in key])
        e = np.exp(logits - logits.max())
        p = e / e.sum()
        value -= np.log(p[i]) / BATCH
        for j in range(BATCH):
            weight = scale * (p[j] - (i == j)) / BATCH
            to_query[i] += weight * similarity @ key[j]
            to_similarity += weight * np.outer(query[i], key[j])
    return value, to_query, to_similarity


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('scale', [1.0, 0.1])
def test_loss_and_gradients_are_those_of_the_bilinear_form(devices, scale):
    method = curl(Linear(), scale=scale)
    params, state = start(method)
    assert params['similarity'].shape == (6, 6)
    assert 0 <= params['similarity'].min() < params['similarity'].max() < 1
    out = outcome(method, params, state, batch(), devices)
    query, key = (
        dense(p, x) for p, x in zip((params, state.target), batch()['views'], strict=True)
    )
    value, to_query, to_similarity = oracle(query, key, params['similarity'], scale)
    np.testing.assert_allclose(out.loss, value, rtol=1e-10)
    close(out.grads['similarity'], to_similarity)
    x = batch()['views'][0].reshape(BATCH, -1)
    close(out.grads['encoder']['Dense_0']['kernel'], x.T @ to_query)  # none by way of the keys
    close(out.z, np.stack([query @ params['similarity'], key], 1))


def test_the_key_encoder_moves_at_every_second_step():
    method = curl(Linear(), momentum=0.7)
    begin = start(method)
    target = begin[1].target
    found = train(method, *begin, [batch(seed=n) for n in range(4)])
    for step, (params, state, _) in enumerate(found, 1):
        if step % 2 == 0:
            moved = {'encoder': params['encoder']}
            target = jax.tree.map(lambda t, p: 0.7 * t + 0.3 * p, target, moved)
        close(state.target, target)


def test_the_similarity_is_no_part_of_the_network(float64):
    method = curl(Linear())
    params, state = start(method)
    assert set(method.variables(params, state)['params']) == {'encoder'}
    np.testing.assert_allclose(
        method.features(params, state, batch())['h'], dense(params, batch()['views'][0])
    )
