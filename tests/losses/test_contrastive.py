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
from clr_jax.losses.contrastive import (
    bilinear,
    clip,
    critic,
    debiased,
    hard_negative,
    info_nce,
    invariant_spread,
    margin,
    mutual_information_bound,
    nce,
    nt_logistic,
    nt_xent,
    predictive_coding,
    sigmoid,
    sup_con,
)
from tests import oracles
from tests.losses.cases import (
    DEVICES,
    B,
    Case,
    D,
    K,
    assert_bfloat16_is_widened,
    assert_equation,
    normal,
)
from tests.oracles import assert_close

TEMPERATURE = 0.3
Z, QUERY, KEY, NEGATIVES = normal(B, 2, D), normal(B, D), normal(B, D, seed=1), normal(K, D, seed=2)
SIBLINGS = normal(B, 1, D) + 0.3 * normal(B, 2, D, seed=1)  # two views that are alike
LABEL = np.array([0, 1, 0, -1, 2, 1, 0, -1])  # one example is alone in its class, two have none
HARD = normal(B, D, seed=5)
CONTEXT = normal(B, D + 2, seed=3)  # of another width than its key
# kernel1, bias1, kernel2; bias2 is in all scores of a softmax, which it does not change
PERCEPTRON = [0.5 * normal(*shape, seed=4) for shape in [(2 * D + 2, 4), (4,), (4, 1)]]
BIAS = np.ones(1, np.float32)


def perceptron(*params):
    return critic(dict(zip(['kernel1', 'bias1', 'kernel2', 'bias2'], params, strict=True)))


NUMBERS = np.arange(4).reshape(2, 2)
GRID = np.stack([np.rot90(NUMBERS, turns) for turns in range(4)])  # 2 x 2, in four directions
LINE = np.arange(4).reshape(1, 4, 1)
STEPS = 1, 2
DRAWN = {'negatives': 6, 'key': jax.random.key(5)}


@cache
def draws():
    """[K, B, 6] of the 4 B positions, by example."""
    keys = [jax.random.fold_in(DRAWN['key'], k) for k in STEPS]
    keys = [[jax.random.fold_in(key, row) for row in range(B)] for key in keys]
    return np.array([[jax.random.randint(key, (6,), 0, 4 * B) for key in row] for row in keys])


CASES = {
    'nt_xent': Case(
        lambda z: nt_xent(z, TEMPERATURE), lambda z: oracles.nt_xent(z, TEMPERATURE), (Z,)
    ),
    'nt_xent of dot products': Case(
        lambda z: nt_xent(z, TEMPERATURE, normalized=False),
        lambda z: oracles.nt_xent(z, TEMPERATURE, normalized=False),
        (Z,),
    ),
    'nt_xent with a memory': Case(
        lambda z, memory: nt_xent(z, TEMPERATURE, negatives=memory),
        lambda z, memory: oracles.nt_xent(z, TEMPERATURE, negatives=memory),
        (Z, NEGATIVES),
        whole=(1,),
    ),
    'nt_logistic': Case(
        lambda z: nt_logistic(z, TEMPERATURE), lambda z: oracles.nt_logistic(z, TEMPERATURE), (Z,)
    ),
    'nt_logistic of dot products': Case(
        lambda z: nt_logistic(z, TEMPERATURE, normalized=False),
        lambda z: oracles.nt_logistic(z, TEMPERATURE, normalized=False),
        (Z,),
    ),
    'nt_logistic, semi-hard': Case(
        lambda z: nt_logistic(z, TEMPERATURE, mining='semi_hard'),
        lambda z: oracles.nt_logistic(z, TEMPERATURE, semi_hard=True),
        (Z,),
    ),
    'margin': Case(lambda z: margin(z, 0.4), lambda z: oracles.margin(z, 0.4), (Z,)),
    'margin of dot products': Case(
        lambda z: margin(z, 0.4, normalized=False),
        lambda z: oracles.margin(z, 0.4, normalized=False),
        (Z,),
    ),
    'margin, semi-hard': Case(
        lambda z: margin(z, 0.4, mining='semi_hard'),
        lambda z: oracles.margin(z, 0.4, semi_hard=True),
        (Z,),
    ),
    'invariant_spread': Case(
        lambda z: invariant_spread(z, TEMPERATURE),
        lambda z, constant: oracles.invariant_spread(z, constant, TEMPERATURE),
        (Z,),
        constant=True,
    ),
    'debiased': Case(
        lambda z: debiased(z, tau_plus=0.2),
        lambda z: oracles.hard_negative(z, 0.5, 0.2, 0.0),
        (Z,),
    ),
    'debiased of alike views': Case(  # where the estimate falls below its floor
        lambda z: debiased(z, TEMPERATURE, tau_plus=0.1),
        lambda z: oracles.hard_negative(z, TEMPERATURE, 0.1, 0.0),
        (SIBLINGS,),
    ),
    'hard_negative': Case(
        lambda z: hard_negative(z, tau_plus=0.2, beta=0.7),
        lambda z: oracles.hard_negative(z, 0.5, 0.2, 0.7),
        (Z,),
    ),
    'hard_negative of alike views': Case(
        lambda z: hard_negative(z, TEMPERATURE, beta=0.2),
        lambda z: oracles.hard_negative(z, TEMPERATURE, 0.1, 0.2),
        (SIBLINGS,),
    ),
    'sup_con': Case(
        lambda z, label: sup_con(z, label, TEMPERATURE),
        lambda z, label: oracles.sup_con(z, label, TEMPERATURE),
        (Z,),
        (LABEL,),
    ),
    'sup_con of three views': Case(
        lambda z, label: sup_con(z, label, TEMPERATURE, base_temperature=0.07),
        lambda z, label: oracles.sup_con(z, label, TEMPERATURE) * TEMPERATURE / 0.07,
        (normal(B, 3, D),),
        (LABEL,),
    ),
    'sup_con of one view': Case(
        lambda z, label: sup_con(z, label, TEMPERATURE),
        lambda z, label: oracles.sup_con(z, label, TEMPERATURE),
        (normal(B, 1, D),),
        (LABEL,),
    ),
    'info_nce': Case(
        lambda q, k: info_nce(q, k, TEMPERATURE),
        lambda q, k: oracles.info_nce(q, k, TEMPERATURE),
        (QUERY, KEY),
    ),
    'info_nce with negatives': Case(
        lambda q, k, n: info_nce(q, k, TEMPERATURE, negatives=n),
        lambda q, k, n: oracles.info_nce(q, k, TEMPERATURE, n),
        (QUERY, KEY, NEGATIVES),
        whole=(2,),
    ),
    'info_nce with hard negatives': Case(
        lambda q, k, hard: info_nce(q, k, TEMPERATURE, hard=hard, hard_weight=0.7),
        lambda q, k, hard: oracles.info_nce(q, k, TEMPERATURE, hard=hard, hard_weight=0.7),
        (QUERY, KEY, HARD),
    ),
    'info_nce with negatives and hard ones': Case(
        lambda q, k, n, hard: info_nce(q, k, TEMPERATURE, negatives=n, hard=hard),
        lambda q, k, n, hard: oracles.info_nce(q, k, TEMPERATURE, n, hard=hard),
        (QUERY, KEY, NEGATIVES, HARD),
        whole=(2,),
    ),
    'info_nce of a bilinear form': Case(
        lambda q, k, w: info_nce(q, k, 1.0, score=bilinear(w)),
        lambda q, k, w: oracles.info_nce(q, k, 1.0, score=lambda q, k: q @ w @ k),
        (CONTEXT, KEY, normal(D + 2, D, seed=4)),
        whole=(2,),
    ),
    'info_nce of a critic': Case(
        lambda q, k, *params: info_nce(q, k, 1.0, score=perceptron(*params, BIAS)),
        lambda q, k, *params: oracles.info_nce(q, k, 1.0, score=oracles.perceptron(*params, BIAS)),
        (CONTEXT, KEY, *PERCEPTRON),
        whole=(2, 3, 4),
    ),
    'info_nce of a critic with negatives': Case(
        lambda q, k, n, *params: info_nce(
            q, k, TEMPERATURE, negatives=n, score=perceptron(*params, BIAS)
        ),
        lambda q, k, n, *params: oracles.info_nce(
            q, k, TEMPERATURE, n, score=oracles.perceptron(*params, BIAS)
        ),
        (CONTEXT, KEY, NEGATIVES, *PERCEPTRON),
        whole=(2, 3, 4, 5),
    ),
    'clip': Case(clip, oracles.clip, (QUERY, KEY, np.float32(1.5)), whole=(2,)),
    'sigmoid': Case(
        sigmoid, oracles.sigmoid, (QUERY, KEY, np.float32(1.5), np.float32(-2)), whole=(2, 3)
    ),
    'predictive_coding of four directions': Case(
        lambda z, c, w: predictive_coding(z, c, w, GRID, (1,)),
        lambda z, c, w: oracles.predictive_coding(z, c, w, GRID, (1,)),
        (normal(B, 4, 3), normal(B, 4, 2, 2, 2, seed=1), normal(1, 4, 2, 3, seed=2)),
        whole=(2,),
    ),
    'predictive_coding of steps': Case(
        lambda z, c, w: predictive_coding(z, c, w, LINE, STEPS),
        lambda z, c, w: oracles.predictive_coding(z, c, w, LINE, STEPS),
        (normal(B, 4, 3), normal(B, 1, 4, 1, 2, seed=1), normal(2, 1, 2, 3, seed=2)),
        whole=(2,),
    ),
    'predictive_coding with negatives': Case(
        lambda z, c, w: predictive_coding(z, c, w, LINE, STEPS, **DRAWN),
        lambda z, c, w: oracles.predictive_coding(z, c, w, LINE, STEPS, draws()),
        (normal(B, 4, 3), normal(B, 1, 4, 1, 2, seed=1), normal(2, 1, 2, 3, seed=2)),
        whole=(2,),
    ),
    'nce': Case(nce, oracles.nce, (normal(B), normal(B, 4, seed=1), normal(B, 5, seed=2))),
}


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


def test_the_defaults_are_the_papers():
    for loss in (nt_xent, nt_logistic, invariant_spread):
        assert loss(Z) == loss(Z, 0.1)
    assert margin(Z) == margin(Z, 0.4)
    assert debiased(Z) == debiased(Z, 0.5, tau_plus=0.1)
    assert hard_negative(Z) == hard_negative(Z, 0.5, tau_plus=0.1, beta=1.0)
    assert sup_con(Z, LABEL) == sup_con(Z, LABEL, 0.1)
    assert info_nce(QUERY, KEY) == info_nce(QUERY, KEY, 0.1)


def test_a_memory_may_be_the_same_on_every_shard():
    """As a method's state is: the negatives of a step are no rows of its batch."""
    mesh = parallel.make_mesh(groups=2)
    memory = jnp.asarray(NEGATIVES)

    def losses(z):
        pair = nt_xent(z, negatives=memory), info_nce(z[:, 0], z[:, 1], negatives=memory)
        return parallel.mean(pair)

    on_shards = jax.jit(parallel.shard(losses, mesh, P(parallel.DATA), P()))(Z)
    for value, alone in zip(on_shards, losses(Z), strict=True):
        assert_close(value, alone, 1e-6)


@pytest.mark.parametrize('loss', [nt_logistic, margin])
def test_mining_takes_no_negative_that_is_closer_than_the_positive(loss):
    """Where every view is opposite to its sibling all negatives are closer: nothing repels."""
    z = jnp.stack([QUERY, -QUERY], 1)
    value, grad = jax.jit(jax.value_and_grad(partial(loss, mining='semi_hard')))(z)
    assert_close(value, np.logaddexp(0, 1 / 0.1) if loss is nt_logistic else 0.0)
    assert np.isfinite(grad).all()
    with pytest.raises(ValueError, match="mining='hard'"):
        loss(Z, mining='hard')


def test_invariant_spread_counts_what_rounds_to_nothing():
    """A candidate of probability 1 - 1e-15 is 1 in float32, and the log of the rest -34, not -inf."""
    z = jnp.stack([QUERY, QUERY[[1, 0, 3, 2, 5, 4, 7, 6]]], 1)  # siblings are strangers
    value, grad = jax.jit(jax.value_and_grad(partial(invariant_spread, temperature=0.02)))(z)
    wide = np.asarray(z, np.float64)
    assert_close(value, oracles.invariant_spread(wide, wide, 0.02))
    assert np.isfinite(grad).all()


def test_the_estimate_of_the_negatives_falls_below_its_floor_for_some_views():
    """So that the cases above see both sides of the maximum: the gradient with the floor differs."""
    z = SIBLINGS.astype(np.float64)
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    e = np.exp(np.einsum('nvd,mwd->nvmw', unit, unit) / TEMPERATURE)
    positive = np.einsum('nn->n', e[:, 0, :, 1])[:, None]
    everything = e.sum((2, 3)) - np.exp(1 / TEMPERATURE) - positive
    number = 2 * B - 2
    floored = (everything - number * 0.1 * positive) / 0.9 < number * np.exp(-1 / TEMPERATURE)
    assert 0.2 < floored.mean() < 0.8


def test_hard_negative_does_not_overflow():
    corrected = jax.jit(jax.value_and_grad(partial(hard_negative, temperature=0.002, beta=0.1)))
    for z in (Z, SIBLINGS):
        value, grad = corrected(z)
        assert_close(value, oracles.hard_negative(z.astype(np.float64), 0.002, 0.1, 0.1))
        assert np.isfinite(grad).all()


def test_limits_of_the_corrected_losses():
    expected = nt_xent(Z, TEMPERATURE)
    assert_close(debiased(Z, TEMPERATURE, tau_plus=0.0), expected, 1e-6)
    for z in (Z, SIBLINGS):
        assert_close(hard_negative(z, beta=0.0), debiased(z), 1e-6)
        assert abs(hard_negative(z, beta=1.0) - debiased(z)) > 1e-3


def test_sup_con_of_two_views_and_no_common_label_is_nt_xent():
    for label in (np.arange(B), np.full(B, -1)):
        assert_close(sup_con(Z, label, TEMPERATURE), nt_xent(Z, TEMPERATURE), 1e-6)


def test_sup_con_without_positives_is_zero():
    value, grad = jax.jit(jax.value_and_grad(lambda z: sup_con(z, np.arange(B))))(QUERY[:, None])
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


def test_a_critic_scores_every_pair():
    score, alone = perceptron(*PERCEPTRON, BIAS), oracles.perceptron(*PERCEPTRON, BIAS)
    assert_close(score(CONTEXT[:3], KEY), [[alone(q, k) for k in KEY] for q in CONTEXT[:3]], 1e-6)


def test_nce_takes_one_density_for_all():
    positive, noise = normal(B), normal(B, 4, seed=1)
    assert_close(nce(positive, noise, -1.0), nce(positive, noise, np.full((B, 5), -1.0)), 1e-6)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', ['nt_xent', 'nt_logistic', 'margin', 'debiased', 'sup_con'])
def test_a_zero_vector_has_a_finite_gradient(name, dtype):
    """Its cosine with everything is 0; a row of dead units must not make the step NaN."""
    z = normal(B, 2, D)
    z[3, 1] = 0
    case = CASES[name]._replace(arrays=(jnp.asarray(z, dtype),))
    value, grad = jax.jit(jax.value_and_grad(case.loss))(*case.arrays, *case.given)
    assert np.isfinite(np.asarray(grad, np.float64)).all()
    assert_close(value, case.oracle(np.asarray(case.arrays[0], np.float64), *case.given))


def test_similarities_too_large_for_exp_are_no_overflow():
    z = 100 * normal(B, 2, D)
    for loss in (nt_xent, nt_logistic):
        value, grad = jax.jit(jax.value_and_grad(partial(loss, normalized=False)))(z)
        assert_close(value, getattr(oracles, loss.__name__)(z.astype(np.float64), 0.1, False))
        assert np.isfinite(grad).all()


@pytest.mark.parametrize('loss', [nt_xent, nt_logistic, margin, invariant_spread, debiased])
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
