"""The contrastive losses are their equations, in value and gradient, on any number of devices."""

import doctest
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from clr_jax import parallel
from clr_jax.losses import contrastive
from clr_jax.losses.contrastive import info_nce, mutual_information_bound, nt_logistic, nt_xent
from tests import oracles
from tests.oracles import assert_close

B, D, K = 8, 5, 6
TEMPERATURE = 0.3
DEVICES = [None, 1, 2, 8]  # None: a plain function, outside any mesh


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def on_devices(devices, loss, whole=()):
    """-> f(*arrays) = (value, gradients) of replicated arrays, as `train.make_step` takes them.

    Each shard takes its rows of the arrays; those whose number is in `whole` it sees in full.
    """

    def objective(arrays):
        mine = parallel.positions(B // parallel.size())
        return parallel.mean(loss(*(x if n in whole else x[mine] for n, x in enumerate(arrays))))

    if devices is None:
        return jax.jit(lambda *arrays: jax.value_and_grad(objective)(arrays))

    def gradient(arrays):
        value, grads = jax.value_and_grad(objective)(parallel.vary(arrays))
        return value, parallel.reduce(grads)

    mesh = parallel.make_mesh(jax.devices()[:devices], groups=2)
    return jax.jit(lambda *arrays: parallel.shard(gradient, mesh, P(), P())(arrays))


LOSSES = {  # name -> (loss, oracle, arguments, the numbers of those that are no rows of the batch)
    'nt_xent': (
        lambda z: nt_xent(z, TEMPERATURE),
        lambda z: oracles.nt_xent(z, TEMPERATURE),
        [normal(B, 2, D)],
        (),
    ),
    'nt_xent of dot products': (
        lambda z: nt_xent(z, TEMPERATURE, normalized=False),
        lambda z: oracles.nt_xent(z, TEMPERATURE, normalized=False),
        [normal(B, 2, D)],
        (),
    ),
    'nt_logistic': (
        lambda z: nt_logistic(z, TEMPERATURE),
        lambda z: oracles.nt_logistic(z, TEMPERATURE),
        [normal(B, 2, D)],
        (),
    ),
    'nt_logistic of dot products': (
        lambda z: nt_logistic(z, TEMPERATURE, normalized=False),
        lambda z: oracles.nt_logistic(z, TEMPERATURE, normalized=False),
        [normal(B, 2, D)],
        (),
    ),
    'info_nce': (
        lambda q, k: info_nce(q, k, TEMPERATURE),
        lambda q, k: oracles.info_nce(q, k, TEMPERATURE),
        [normal(B, D), normal(B, D, seed=1)],
        (),
    ),
    'info_nce with negatives': (
        lambda q, k, n: info_nce(q, k, TEMPERATURE, negatives=n),
        lambda q, k, n: oracles.info_nce(q, k, TEMPERATURE, n),
        [normal(B, D), normal(B, D, seed=1), normal(K, D, seed=2)],
        (2,),
    ),
}


@cache
def expected(name):
    """The value and the gradients that the equation has for float32 arguments."""
    _, oracle, arrays, _ = LOSSES[name]
    wide = [x.astype(np.float64) for x in arrays]
    return oracle(*wide), oracles.gradient(oracle, *wide)


@pytest.mark.parametrize('devices', DEVICES)
@pytest.mark.parametrize('name', LOSSES)
def test_value_and_gradient_are_those_of_the_equation(name, devices):
    loss, _, arrays, whole = LOSSES[name]
    value, grads = on_devices(devices, loss, whole)(*arrays)
    true_value, true_grads = expected(name)
    assert_close(value, true_value)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert_close(grad, true_grad)


def test_nt_xent_is_optax_ntxent():
    """optax takes rows and labels: the two rows of a label are a positive pair."""
    z = normal(B, 2, D)
    theirs = lambda z: optax.losses.ntxent(z.reshape(-1, D), jnp.repeat(jnp.arange(B), 2), 0.5)
    value, grad = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, 0.5)))(z)
    their_value, their_grad = jax.jit(jax.value_and_grad(theirs))(z)
    assert_close(value, their_value)
    assert_close(grad, their_grad)


def test_info_nce_of_the_batch_is_info_nce_with_the_other_keys_as_negatives():
    query, key = normal(B, D), normal(B, D, seed=1)
    alone = jax.jit(lambda q, k, others: info_nce(q, k, TEMPERATURE, negatives=others))
    each = [alone(query[[n]], key[[n]], np.delete(key, n, 0)) for n in range(B)]
    assert_close(info_nce(query, key, TEMPERATURE), np.mean(each), 1e-6)


def test_the_official_constant_is_twice_the_papers():
    z = normal(B, 2, D)
    of = lambda **how: jax.jit(jax.value_and_grad(lambda z: nt_xent(z, **how)))(z)
    (paper, paper_grad), (official, official_grad) = of(), of(constant='official')
    assert paper > 0
    assert official == 2 * paper
    np.testing.assert_array_equal(official_grad, 2 * paper_grad)
    assert nt_xent(z, constant='paper') == nt_xent(z)
    with pytest.raises(ValueError, match="constant='twice'"):
        nt_xent(z, constant='twice')


def test_the_default_temperature_is_a_tenth():
    z, query, key = normal(B, 2, D), normal(B, D), normal(B, D, seed=1)
    for loss in (nt_xent, nt_logistic):
        assert loss(z) == loss(z, 0.1)
    assert info_nce(query, key) == info_nce(query, key, 0.1)


@pytest.mark.parametrize('name', LOSSES)
def test_bfloat16_rows_lose_nothing_more(name):
    """The loss of bfloat16 rows is computed in float32; gradients are rounded twice, by 2^-8."""
    loss, oracle, arrays, whole = LOSSES[name]
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
    wide = [np.asarray(x, np.float64) for x in rounded]
    value, grads = on_devices(2, loss, whole)(*rounded)
    assert value.dtype == jnp.float32
    assert_close(value, oracle(*wide))
    for grad, true_grad in zip(grads, oracles.gradient(oracle, *wide), strict=True):
        assert grad.dtype == jnp.bfloat16
        assert_close(grad, true_grad, 2**-8 + 2**-8)  # on its shard, and in the sum over two shards


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('loss', [nt_xent, nt_logistic])
def test_a_zero_vector_has_a_finite_gradient(loss, dtype):
    """Its cosine with everything is 0; a row of dead units must not make the step NaN."""
    z = normal(B, 2, D)
    z[3, 1] = 0
    value, grad = jax.jit(jax.value_and_grad(loss))(jnp.asarray(z, dtype))
    assert np.isfinite(np.asarray(grad, np.float64)).all()
    exact = np.asarray(jnp.asarray(z, dtype), np.float64)
    assert_close(value, getattr(oracles, loss.__name__)(exact, 0.1))


def test_similarities_too_large_for_exp_are_no_overflow():
    z = 100 * normal(B, 2, D)
    for loss in (nt_xent, nt_logistic):
        value, grad = jax.jit(jax.value_and_grad(partial(loss, normalized=False)))(z)
        assert_close(value, getattr(oracles, loss.__name__)(z.astype(np.float64), 0.1, False))
        assert np.isfinite(grad).all()


@pytest.mark.parametrize('loss', [nt_xent, nt_logistic])
def test_other_than_two_views_are_refused(loss):
    with pytest.raises(ValueError, match=r'two views .* got \(8, 3, 5\)'):
        loss(normal(B, 3, D))


def test_the_doctests_run():
    failed, attempted = doctest.testmod(contrastive)
    assert attempted
    assert not failed


def gaussian_bound(information, n, batches, dims=4):
    """[batches] bounds from correlated Gaussians of known mutual information, with the best critic.

    It is log p(y | x) / p(y), of which what depends on x alone cancels:
    rho x.y / (1 - rho^2) - rho^2 |y|^2 / (2 (1 - rho^2)), a dot product of vectors of dims + 1.
    """
    rho = np.sqrt(-np.expm1(-2 * information / dims))  # information = -dims / 2 log(1 - rho^2)

    def bound(key):
        x, noise = jax.random.normal(key, (2, n, dims))
        y = rho * x + np.sqrt(1 - rho**2) * noise
        query = jnp.concatenate([rho * x / (1 - rho**2), jnp.ones((n, 1))], 1)
        square = jnp.sum(y**2, 1, keepdims=True)
        critic = jnp.concatenate([y, -(rho**2) * square / (2 * (1 - rho**2))], 1)
        return mutual_information_bound(info_nce(query, critic, 1.0), n)

    return jax.jit(lambda keys: jax.lax.map(bound, keys))(
        jax.random.split(jax.random.key(0), batches)
    )


def test_the_bound_is_close_to_little_information():
    """Below it by about e^(2 I) / N: N samples estimate the mean of density ratios, whose variance
    is e^(2 I) - 1."""
    bounds = gaussian_bound(information=1.0, n=1024, batches=256)
    error = np.std(bounds) / np.sqrt(len(bounds))
    gap = 1.0 - np.mean(bounds)
    assert error < 0.005  # so that the next line says something
    assert -3 * error < gap < np.exp(2) / 1024 + 3 * error


def test_the_bound_saturates_at_the_logarithm_of_the_candidates():
    bounds = gaussian_bound(information=8.0, n=32, batches=16)
    assert (bounds <= np.log(32)).all()
    assert np.mean(bounds) > np.log(32) - 0.1
    useless = mutual_information_bound(info_nce(jnp.ones((32, D)), jnp.ones((32, D))), 32)
    assert abs(useless) < 1e-5  # equal scores say nothing: 0 nats
