"""The losses of decorrelation are their equations, in value and gradient, on any number of devices;
terms too."""

import doctest
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.losses import decorrelation
from clr_jax.losses.decorrelation import barlow_twins, vicreg
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

# Two views that agree a little, of unlike means and variances: some below 1, some above
SCALE = np.array([0.2, 0.5, 1, 2, 0.8], np.float32)
X = (normal(B, D) + 0.3 * normal(B, D, seed=1)) * SCALE + [1, 0, 0, -2, 0]
Y = (normal(B, D) + 0.3 * normal(B, D, seed=2)) * SCALE + [0, 3, 0, 0, 1]
WEIGHTS = {'invariance': 3.0, 'variance': 2.0, 'covariance': 0.7}

CASES = {
    'barlow_twins': Case(
        lambda x, y: barlow_twins(x, y)[0],
        lambda x, y: oracles.barlow_twins(x, y, 0.0051)[-1],
        (X, Y),
    ),
    'barlow_twins, off the diagonal': Case(
        lambda x, y: barlow_twins(x, y, 2.0)[0],
        lambda x, y: oracles.barlow_twins(x, y, 2.0)[-1],
        (X, Y),
    ),
    'vicreg': Case(lambda x, y: vicreg(x, y)[0], lambda x, y: oracles.vicreg(x, y)[-1], (X, Y)),
    'vicreg of other weights': Case(
        lambda x, y: vicreg(x, y, **WEIGHTS)[0],
        lambda x, y: oracles.vicreg(x, y, **WEIGHTS)[-1],
        (X, Y),
    ),
    **{
        f'vicreg, {name} alone': Case(
            lambda x, y, name=name: vicreg(x, y, **{n: float(n == name) for n in WEIGHTS})[0],
            lambda x, y, place=place: oracles.vicreg(x, y)[place],
            (X, Y),
        )
        for place, name in enumerate(WEIGHTS)
    },
}
CASES = {name: case.of(jnp.float32) for name, case in CASES.items()}


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


@pytest.mark.parametrize('name', ['barlow_twins', 'vicreg'])
def test_bfloat16_rows_lose_nothing_more(name):
    assert_bfloat16_is_widened(CASES[name])


def test_the_case_sees_both_sides_of_the_hinge():
    assert 0 < (np.std(X, 0, ddof=1) < 1).mean() < 1


def test_terms_are_returned_before_their_weights(float64):
    x, y = X.astype(np.float64), Y.astype(np.float64)
    for loss, names, truth in (
        (barlow_twins, ['on_diagonal', 'off_diagonal'], oracles.barlow_twins(x, y, 0)),
        (vicreg, ['invariance', 'variance', 'covariance'], oracles.vicreg(x, y)),
    ):
        _, terms = loss(x, y)
        assert [*terms] == names
        for name, value in zip(names, truth[:-1], strict=True):
            assert_close(terms[name], value, 1e-12)


@pytest.mark.parametrize('loss', [barlow_twins, vicreg])
def test_a_mean_far_from_zero_costs_no_digits(loss):
    """Moments are of centred rows: a difference of squares would leave none of float32 here."""
    far = lambda z: (np.round(z * 64) / 64 + 4096).astype(np.float32)  # exact
    value, _ = loss(far(X), far(Y))
    with jax.enable_x64(True):
        truth, _ = loss(far(X).astype(np.float64), far(Y).astype(np.float64))
    assert_close(value, truth, 1e-5)


@pytest.mark.parametrize('loss', [barlow_twins, vicreg])
def test_collapse_is_dear_and_has_a_finite_gradient(loss):
    same = np.ones((B, D), np.float32)
    (value, _), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(same, same)
    assert_close(value, {barlow_twins: D, vicreg: 25 * (1 - 0.01)}[loss], 1e-6)
    assert np.isfinite(grads).all()


def test_the_variance_that_solo_learn_sums_is_a_weight():
    """Official code: half the sum over the views, 25 times."""
    summed = 2 * vicreg(X, Y)[1]['variance']
    others = vicreg(X, Y, variance=0.0)[0]
    assert_close(vicreg(X, Y, variance=50.0)[0], others + 25 * summed, 1e-6)


def test_the_doctests_run():
    failed, attempted = doctest.testmod(decorrelation)
    assert attempted
    assert not failed
