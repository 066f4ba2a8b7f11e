"""The claims of instance discrimination: every example has a row of the memory, which is its class;
NCE's normaliser comes from the first batch."""

from functools import cache

import numpy as np
import pytest

from clr_jax.methods.instdisc import instdisc
from tests import oracles
from tests.methods.tiny import BATCH, Linear, batch, outcome, start, train, unit

EXAMPLES, TEMPERATURE = 40, 0.3


def build(**settings):
    return instdisc(Linear(), EXAMPLES, projector=(4,), temperature=TEMPERATURE, **settings)


def data(seed=0):
    return batch(1, seed) | {'index': np.int32(2 * np.arange(BATCH) + seed)}


@pytest.mark.parametrize('devices', [1, 8])
def test_the_softmax_is_over_all_examples(devices):
    method = build(noise=0)
    params, state = start(method, 1)
    out = outcome(method, params, state, data(), devices)
    logits = unit(out.z[:, 0]) @ state.memory[:EXAMPLES].T / TEMPERATURE
    rows = zip(logits, data()['index'], strict=True)
    expected = np.mean([oracles.cross_entropy(row, i) for row, i in rows])
    np.testing.assert_allclose(out.loss, expected, rtol=1e-10)


@pytest.mark.parametrize('noise', [0, 7])
def test_each_example_moves_its_own_row_halfway_after_the_loss(noise):
    method = build(noise=noise)
    params, state = start(method, 1)
    out = outcome(method, params, state, data())
    expected = state.memory.copy()
    for i, v in zip(data()['index'], unit(out.z[:, 0]), strict=True):
        expected[i] = unit(0.5 * state.memory[i] + 0.5 * v)
    np.testing.assert_allclose(out.state.memory, expected, rtol=1e-9)
    assert not out.state.memory[EXAMPLES:].any()
    assert np.abs(state.memory).max() <= (4 / 3) ** -0.5


@cache
def nce_run():
    return train(build(noise=9), *start(build(noise=9), 1), [data(n) for n in (0, 1, 2)])


def test_the_normaliser_is_of_the_first_batch_for_ever():
    assert len({float(state.log_z) for _, state, _ in nce_run()}) == 1
    assert nce_run()[0][1].log_z > 0


def test_the_loss_is_nce():
    """Where all rows are the same it does not depend on which are drawn."""
    method = build(noise=9)
    params, state = start(method, 1)
    state = state._replace(memory=np.tile(unit(np.arange(1.0, 5.0)), (len(state.memory), 1)))
    out = outcome(method, params, state, data())
    s = np.exp(unit(out.z[:, 0]) @ state.memory[0] / TEMPERATURE)  # [B]
    z = s.mean() * EXAMPLES
    np.testing.assert_allclose(np.exp(out.state.log_z), z, rtol=1e-6)
    p = s / np.exp(out.state.log_z)
    h = p / (p + 9 / EXAMPLES)
    np.testing.assert_allclose(out.loss, np.mean(-np.log(h) - 9 * np.log(1 - h)), rtol=1e-9)


def test_noise_is_drawn_by_example_and_over_all_of_them():
    """A memory with one odd row: how much each loss differs tells how often that row was drawn."""
    method = build(noise=9)
    params, state = start(method, 1)
    one, eight = (outcome(method, params, state, data(), n) for n in (1, 8))
    np.testing.assert_allclose(one.loss, eight.loss, rtol=1e-12)
    losses = set()
    for odd in range(1, EXAMPLES, 2):  # rows of no example in the batch
        changed = state.memory.copy()
        changed[odd] *= -3
        losses.add(float(outcome(method, params, state._replace(memory=changed), data(), 1).loss))
    assert len(losses) > EXAMPLES / 2 - 3  # 144 draws leave out hardly any of 40 rows


def test_the_proximal_term_is_the_squared_distance_to_the_memory():
    params, state = start(build(noise=0), 1)
    plain, more = (outcome(build(noise=0, proximal=w), params, state, data()) for w in (0.0, 30.0))
    away = unit(plain.z[:, 0]) - state.memory[data()['index']]
    np.testing.assert_allclose(more.loss - plain.loss, 30 * (away**2).sum(1).mean(), rtol=1e-9)
