"""The losses of distances are their equations, in value and gradient, on any number of devices."""

import doctest
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.losses import metric
from clr_jax.losses.contrastive import info_nce
from clr_jax.losses.metric import contrastive, n_pair, triplet, triplet_mined
from tests import oracles
from tests.losses.cases import (
    DEVICES,
    B,
    Case,
    D,
    assert_bfloat16_is_widened,
    assert_equation,
    normal,
)
from tests.oracles import assert_close

X, Y, Z = (normal(B, D, seed=seed) for seed in range(3))
SAME = np.array([True, False, False, True, False, False, True, False])
LABEL = np.array([0, 1, 0, -1, 2, 1, 0, 1])  # one row is alone in its class, one has none
MINING = ['all', 'hard', 'semi_hard']

CASES = {
    'contrastive': Case(
        lambda x, y, same: contrastive(x, y, same, 3.0),
        lambda x, y, same: oracles.contrastive(x, y, same, 3.0),
        (X, Y),
        (SAME,),
    ),
    'triplet': Case(
        lambda a, p, n: triplet(a, p, n, 1.0),
        lambda a, p, n: oracles.triplet(a, p, n, 1.0),
        (X, Y, Z),
    ),
    **{
        f'triplet_mined, {mining}': Case(
            lambda z, label, mining=mining: triplet_mined(z, label, 1.5, mining=mining),
            lambda z, label, mining=mining: oracles.triplet_mined(z, label, 1.5, mining),
            (X,),
            (LABEL,),
        )
        for mining in MINING
    },
    'n_pair': Case(
        lambda q, k: n_pair(q, k, l2=0.1), lambda q, k: oracles.n_pair(q, k, 0.1), (X, Y)
    ),
}


mined = jax.jit(jax.value_and_grad(triplet_mined), static_argnames='mining')


@cache
def expected(name):
    return CASES[name].expected()


@pytest.mark.parametrize('devices', DEVICES)
@pytest.mark.parametrize('name', CASES)
def test_value_and_gradient_are_those_of_the_equation(name, devices):
    assert_equation(CASES[name], devices, expected(name))


@pytest.mark.parametrize('name', CASES)
def test_float64_is_float64(name, float64):
    assert_equation(CASES[name].of(jnp.float64), None, expected(name), 1e-8)


@pytest.mark.parametrize('name', CASES)
def test_bfloat16_rows_lose_nothing_more(name):
    assert_bfloat16_is_widened(CASES[name])


def test_the_cases_see_both_sides_of_every_margin():
    hinge = 3.0 - np.linalg.norm(X - Y, axis=1)[~SAME]
    assert 0 < (hinge > 0).mean() < 1
    excess = np.sum((X - Y) ** 2, 1) - np.sum((X - Z) ** 2, 1) + 1.0
    assert 0 < (excess > 0).mean() < 1


def test_equal_rows_have_a_finite_gradient():
    """The distance has none where it is 0; a collapsed pair that should differ is left as it is."""
    value, grad = jax.jit(jax.value_and_grad(contrastive))(X, X, np.zeros(B, bool))
    assert value == 1
    np.testing.assert_array_equal(grad, 0)


def test_separated_classes_cost_nothing():
    label = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    z = 0.1 * X + 10 * label[:, None].astype(np.float32)
    for mining in MINING:
        assert mined(z, label, mining=mining)[0] == 0
    assert triplet(z[:4], z[[1, 2, 3, 0]], z[4:]) == 0
    assert triplet(z[:4], z[4:], z[[1, 2, 3, 0]]) > 100


@pytest.mark.parametrize('mining', MINING)
@pytest.mark.parametrize('label', [np.zeros(B, int), np.arange(B), np.full(B, -1)])
def test_a_batch_without_triplets_costs_nothing(label, mining):
    value, grad = mined(X, label, mining=mining)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize('mining', MINING)
def test_collapse_costs_the_margin(mining):
    """All rows equal: every triplet costs the margin exactly, and 0 without one."""
    for margin in (0.2, 0.0):
        value, _ = mined(np.ones_like(X), LABEL, margin, mining=mining)
        assert_close(value, np.float32(margin), 1e-6)


def test_all_triplets_are_those_that_one_can_list():
    triplets = [
        (a, p, n)
        for a, p, n in np.ndindex(B, B, B)
        if a != p and LABEL[a] == LABEL[p] != LABEL[n] and min(LABEL[[a, n]]) >= 0
    ]
    a, p, n = np.array(triplets).T
    assert_close(triplet_mined(X, LABEL), triplet(X[a], X[p], X[n]), 1e-6)


def test_the_defaults():
    assert contrastive(X, Y, SAME) == contrastive(X, Y, SAME, 1.0)
    assert triplet(X, Y, Z) == triplet(X, Y, Z, 0.2)
    assert triplet_mined(X, LABEL) == triplet_mined(X, LABEL, 0.2, mining='all')
    assert n_pair(X, Y) == info_nce(X, Y, 1.0)
    with pytest.raises(ValueError, match="mining='easy'"):
        triplet_mined(X, LABEL, mining='easy')


def test_the_doctests_run():
    failed, attempted = doctest.testmod(metric)
    assert attempted
    assert not failed
