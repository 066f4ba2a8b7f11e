"""Each measure of health is its definition on the global batch and tells dead from alive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clr_jax import parallel
from clr_jax.health import (
    WIDEST,
    canonical_correlation,
    effective_rank,
    health,
    spread,
    uniformity,
)
from tests import oracles
from tests.oracles import assert_close

B, E = 16, 5
# Two views that agree a little, with a preferred direction and unlike variances.
Z = np.random.default_rng(0).normal(size=(B, 1, E)) + 0.3 * np.random.default_rng(1).normal(
    size=(B, 2, E)
)
Z = Z * [3, 2, 1, 1, 0.1] + [1, 0, 0, 0, 0]


def measure(z, devices):
    mesh = parallel.make_mesh(jax.devices()[:devices], groups=2)
    on_shards = parallel.shard(lambda z: parallel.mean(health(z)), mesh, P(parallel.DATA), P())
    return jax.device_get(jax.jit(on_shards if devices else health)(z))


@pytest.mark.parametrize('devices', [None, 1, 2, 8])
def test_measures_are_their_definitions_on_any_number_of_devices(float64, devices):
    u = Z / np.linalg.norm(Z, axis=-1, keepdims=True)
    rows = u.reshape(-1, E)
    expected = {
        'std': oracles.spread(rows),
        'alignment': oracles.alignment(u[:, 0], u[:, 1]),
        'uniformity': oracles.uniformity(u[:, 0]),
        'effective_rank': oracles.effective_rank(rows),
        'canonical_correlation': oracles.canonical_correlation(u[:, 0], u[:, 1]),
    }
    measures = measure(Z, devices)
    assert measures.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(measures[name], value, 1e-11)


@pytest.mark.parametrize('devices', [None, 8])
def test_one_view_is_compared_with_nothing(float64, devices):
    measures = measure(Z[:, :1], devices)
    assert measures.keys() == {'std', 'uniformity', 'effective_rank'}
    u = Z[:, 0] / np.linalg.norm(Z[:, 0], axis=-1, keepdims=True)
    assert_close(measures['std'], oracles.spread(u), 1e-11)


def test_float32_is_enough():
    z = Z.astype(np.float32)
    narrow = measure(z, None)
    with jax.enable_x64(True):
        wide = measure(z.astype(np.float64), None)
    for name in wide:
        assert_close(narrow[name], wide[name], 1e-5)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_collapsed_representation_is_seen_as_such(dtype):
    """But for rounding: E[u^2] - E[u]^2 may be off by 6e-8, that of u^2; 1e-3 is above its root."""
    z = jnp.broadcast_to(jnp.asarray(Z[0, 0], dtype), (64, 2, E))
    measures = measure(z, None)
    assert 0 <= measures['std'] < 1e-3
    assert measures['effective_rank'] == 1
    assert measures['alignment'] < 1e-13  # the square of a rounding
    assert abs(measures['uniformity']) < 1e-5
    assert 0 <= measures['canonical_correlation'] < 1e-2
    dead = measure(jnp.zeros((64, 2, E), dtype), None)
    assert dead['std'] == 0
    assert dead['effective_rank'] == 1
    assert dead['canonical_correlation'] == 0
    assert all(np.isfinite(value) for value in dead.values())


def test_a_line_has_rank_one_and_a_plane_two(float64):
    """Points u and -u vary along one axis; four points +-u, +-v along two alike."""
    axes = np.eye(E)
    line = np.stack([axes[0], -axes[0]] * 8)
    plane = np.stack([axes[0], -axes[0], axes[1], -axes[1]] * 4)
    assert_close(effective_rank(line), 1, 1e-12)
    assert_close(effective_rank(plane), 2, 1e-12)


def test_an_isotropic_representation_is_spread():
    """Unit vectors without a preferred direction: std 1, full rank, uniformity near -4.

    With n rows each variance is known to about sqrt(2 / n), their mean to 1 / sqrt(e) of that.
    """
    n, e = 4096, 64
    u = jax.random.normal(jax.random.key(0), (n, e))
    u = u / jnp.linalg.norm(u, axis=1, keepdims=True)
    std, rank, uniform = jax.jit(lambda u: (spread(u), effective_rank(u), uniformity(u)))(u)
    assert abs(std - 1) < 5 * np.sqrt(2 / n / e) / 2 + 1 / n
    assert (
        0.98 * e < rank <= e
    )  # the entropy lacks e / (2 n) = 0.8 % of its exp by the spread of eigenvalues
    # u.v is about normal with variance 1 / e: the mean of exp(4 u.v - 4) is exp(8 / e - 4)
    assert abs(uniform - (8 / e - 4)) < 0.02


def correlated(*correlations, n):
    """Rows [n, e] of two views, independent but that each dimension has its own correlation."""
    rho = np.array(correlations)
    u, noise = np.random.default_rng(2).normal(size=(2, n, len(rho)))
    return u, rho * u + np.sqrt(1 - rho**2) * noise


def test_canonical_correlations_are_those_of_the_views_in_any_basis(float64):
    """Of n rows each is known to about 1 / sqrt(n), and moved by the ridge by its 0.1 %."""
    n = 10000
    u, v = correlated(0.9, 0.5, 0.2, n=n)
    found = canonical_correlation(u, v)
    assert abs(found - (0.9 + 0.5 + 0.2) / 3) < 3 / np.sqrt(n)
    turn = np.array([[1, 0, 0], [0.5, 1, 0], [0, -0.5, 2]])
    assert abs(canonical_correlation(u, v @ turn + 5) - found) < 0.01
    assert abs(canonical_correlation(u, u @ turn) - 1) < 0.01
    assert_close(canonical_correlation(v, u), found, 1e-12)


def test_independent_embeddings_seem_correlated_by_the_root_of_dimensions_per_row(float64):
    """A matrix of e x e normal entries of variance 1 / n has singular values of 8 / (3 pi) sqrt(e /
    n) on average."""
    n, e = 6400, 64
    u, v = correlated(*[0.0] * e, n=n)
    assert abs(canonical_correlation(u, v) / np.sqrt(e / n) - 8 / (3 * np.pi)) < 0.05


def test_a_direction_without_variance_counts_as_none(float64):
    u, v = correlated(0.9, 0.5, n=1000)
    flat = np.zeros((1000, 2))
    of_two = canonical_correlation(u, v)
    of_four = canonical_correlation(np.hstack([u, flat]), np.hstack([v, flat]))
    assert abs(of_four - of_two / 2) < 1e-3


def test_of_wide_embeddings_the_first_dimensions_are_measured(float64, monkeypatch):
    """The ranks of 2048 dimensions, the correlations of 64."""
    u, v = correlated(*[0.5] * 70, n=400)
    assert_close(
        canonical_correlation(u, v), oracles.canonical_correlation(u[:, :64], v[:, :64]), 1e-11
    )
    assert effective_rank(u) > 60
    assert WIDEST == 2048
    monkeypatch.setattr('clr_jax.health.WIDEST', 8)
    assert_close(effective_rank(u), oracles.effective_rank(u[:, :8]), 1e-11)
