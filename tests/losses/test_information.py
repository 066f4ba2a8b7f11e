"""The information of wholes and their parts is its equation, in value and gradient, on any number of
devices."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.losses import information
from clr_jax.losses.information import jensen_shannon
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

M = 4
THERE = np.arange(M) < np.array([4, 1, 2, 0, 3, 4, 1, 2])[:, None]  # unlike on every shard
CASE = Case(
    jensen_shannon,
    oracles.jensen_shannon,
    (normal(B, M, D), normal(B, D, seed=1)),
    (THERE,),
).of(jnp.float32)


@pytest.fixture(scope='module')
def expected():
    return CASE.expected()


@pytest.mark.parametrize('devices', DEVICES)
def test_the_loss_is_the_equation(devices, expected):
    assert_equation(CASE, devices, expected)


def test_bfloat16_is_widened():
    assert_bfloat16_is_widened(CASE)


def test_what_is_not_there_does_not_matter():
    parts, whole = CASE.arrays
    other = jnp.where(THERE[..., None], parts, 1e4)
    assert jensen_shannon(other, whole, THERE) == jensen_shannon(parts, whole, THERE)
    gradient = jax.grad(jensen_shannon)(other, whole, THERE)
    assert not np.asarray(gradient)[~THERE].any()


def test_the_doctests_run():
    failed, attempted = doctest.testmod(information)
    assert attempted
    assert not failed
