"""The losses in chunks of columns are the same losses, in memory that does not grow with the matrix."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clr_jax import parallel
from clr_jax.losses import chunked
from clr_jax.losses.contrastive import bilinear, clip, info_nce, nt_xent, sigmoid, sup_con
from tests import oracles
from tests.losses.cases import B, D, assert_bfloat16_is_widened, normal, on_devices
from tests.losses.test_contrastive import CASES, KEY, LABEL, QUERY, TEMPERATURE, Z, expected
from tests.oracles import assert_close

LOSSES = {  # the losses of CASES by the columns that they take at a time
    'nt_xent': lambda chunk: lambda z: nt_xent(z, TEMPERATURE, chunk=chunk),
    'nt_xent of dot products': lambda chunk: (
        lambda z: nt_xent(z, TEMPERATURE, normalized=False, chunk=chunk)
    ),
    'nt_xent with a memory': lambda chunk: (
        lambda z, memory: nt_xent(z, TEMPERATURE, negatives=memory, chunk=chunk)
    ),
    'sup_con': lambda chunk: lambda z, label: sup_con(z, label, TEMPERATURE, chunk=chunk),
    'sup_con of three views': lambda chunk: (
        lambda z, label: sup_con(z, label, TEMPERATURE, base_temperature=0.07, chunk=chunk)
    ),
    'sup_con of one view': lambda chunk: (
        lambda z, label: sup_con(z, label, TEMPERATURE, chunk=chunk)
    ),
    'info_nce': lambda chunk: lambda q, k: info_nce(q, k, TEMPERATURE, chunk=chunk),
    'clip': lambda chunk: lambda x, y, scale: clip(x, y, scale, chunk=chunk),
    'sigmoid': lambda chunk: lambda x, y, scale, bias: sigmoid(x, y, scale, bias, chunk=chunk),
}


def case(name, chunk):
    return CASES[name]._replace(loss=LOSSES[name](chunk))


@cache
def whole(name):
    """Value and gradients of the whole matrix outside any mesh, in float64."""
    return jax.tree.map(np.asarray, on_devices(None, CASES[name].of(jnp.float64)))


# 3 divides neither 8 columns nor 16
@pytest.mark.parametrize(('devices', 'chunk'), [(1, 1), (8, 3), (8, 4)])
@pytest.mark.parametrize('name', LOSSES)
def test_value_and_gradient_are_those_of_the_equation_and_of_the_whole(
    name, devices, chunk, float64
):
    value, grads = on_devices(devices, case(name, chunk).of(jnp.float64))
    true_value, true_grads = expected(name)
    assert_close(value, true_value, 1e-9)
    assert_close(value, whole(name)[0], 1e-12)
    for grad, true_grad, of_whole in zip(grads, true_grads, whole(name)[1], strict=True):
        assert_close(grad, true_grad, 1e-8)  # of central differences
        assert_close(grad, of_whole, 1e-12)


@pytest.mark.parametrize('name', LOSSES)
def test_bfloat16_rows_lose_nothing_more(name):
    assert_bfloat16_is_widened(case(name, 3))


def test_rows_may_have_any_weights():
    """The gradients of the core's sums, each row with its own weight."""
    group = np.arange(2 * B) // 2
    weight, of_similar = normal(2 * B), normal(2 * B, seed=1)

    def whole(z):
        similarity = z @ z.T
        itself = jnp.eye(len(z), dtype=bool)
        lse = jax.nn.logsumexp(jnp.where(itself, -jnp.inf, similarity), 1)
        same = (group[:, None] == group) & ~itself
        return weight @ lse + of_similar @ jnp.where(same, similarity, 0).sum(1)

    def by_others(z):
        lse, similar, number = chunked.others(z, jnp.asarray(group), 5)
        return weight @ lse + of_similar @ similar + number.sum()

    z = Z.reshape(-1, D)
    value, grad = jax.jit(jax.value_and_grad(by_others))(z)
    true_value, true_grad = jax.jit(jax.value_and_grad(whole))(z)
    assert_close(value, true_value + 2 * B, 1e-6)  # each has one other of its group
    assert_close(grad, true_grad)


EXTREMES = {  # the loss of arrays, its oracle
    'nt_xent': (nt_xent, oracles.nt_xent, (Z,), (1e-4,)),
    'nt_xent of dot products': (
        lambda z, **how: nt_xent(z, normalized=False, **how),
        lambda z: oracles.nt_xent(z, 0.1, False),
        (100 * Z,),
        (),
    ),
    'sup_con': (sup_con, oracles.sup_con, (Z,), (LABEL, 1e-4)),
    'info_nce': (info_nce, oracles.info_nce, (QUERY, KEY), (1e-4,)),
    'clip': (clip, oracles.clip, (QUERY, KEY), (9.0,)),
    'sigmoid': (sigmoid, oracles.sigmoid, (QUERY, KEY), (9.0, 3e3)),
}


@pytest.mark.parametrize('name', EXTREMES)
def test_exponents_too_large_for_exp_are_no_overflow(name, float64):
    loss, oracle, arrays, rest = EXTREMES[name]

    def of(chunk, dtype):
        given = [jnp.asarray(x, dtype) for x in arrays]
        function = lambda given: loss(*given, *rest, chunk=chunk)
        return jax.jit(jax.value_and_grad(function))(given)

    true_value = oracle(*(x.astype(np.float64) for x in arrays), *rest)
    _, true_grads = of(None, jnp.float64)
    value, grads = of(1, jnp.float64)
    assert_close(value, true_value, 1e-9)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert_close(grad, true_grad, 1e-9)
    value, grads = of(1, jnp.float32)
    assert_close(value, true_value)
    assert all(np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize('name', ['nt_xent', 'sup_con', 'clip', 'sigmoid'])
def test_a_zero_vector_has_a_finite_gradient(name):
    arrays = [np.array(x) for x in case(name, 3).arrays]
    arrays[0][3] = 0
    zero = case(name, 3)._replace(arrays=tuple(arrays))
    value, grads = on_devices(None, zero)
    assert all(np.isfinite(grad).all() for grad in grads)
    assert_close(value, zero.oracle(*(np.float64(x) for x in arrays), *zero.given))


def on_eight(loss, b):
    """The compiled value and gradient of a loss of b examples on a device, two rows of 8 each."""
    mesh = parallel.make_mesh(groups=2)

    def step(x, y, scalars):
        scalars = parallel.vary(scalars)
        objective = lambda x, y, scalars: parallel.mean(loss(x, y, scalars))
        value, grads = jax.value_and_grad(objective, argnums=(0, 1, 2))(x, y, scalars)
        return value, *grads[:2], parallel.reduce(grads[2])

    rows, whole = P(parallel.DATA), P()
    sharded = parallel.shard(step, mesh, (rows, rows, whole), (whole, rows, rows, whole))
    x = jax.ShapeDtypeStruct((8 * b, 8), jnp.float32)
    return jax.jit(sharded).lower(x, x, jax.ShapeDtypeStruct((2,), jnp.float32))


def of_pairs(name, chunk):
    """A loss of two arrays of rows and two scalars."""
    both = lambda x, y: jnp.stack([x, y], 1)
    return {
        'nt_xent': lambda x, y, s: nt_xent(both(x, y), chunk=chunk),
        'sup_con': lambda x, y, s: sup_con(
            both(x, y), parallel.positions(len(x)) % 10, chunk=chunk
        ),
        'info_nce': lambda x, y, s: info_nce(x, y, chunk=chunk),
        'clip': lambda x, y, s: clip(x, y, s[0], chunk=chunk),
        'sigmoid': lambda x, y, s: sigmoid(x, y, s[0], s[1], chunk=chunk),
    }[name]


@pytest.mark.parametrize('name', ['nt_xent', 'sup_con', 'clip', 'sigmoid'])
def test_memory_does_not_grow_with_the_matrix(name):
    """Twice the batch: four times the matrix, on each device too, twice everything else."""

    def temporaries(chunk, b):
        lowered = on_eight(of_pairs(name, chunk), b)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(32, 256) < 2.2 * temporaries(32, 128)
    if name == 'nt_xent':  # so that the test is known to see a matrix
        assert temporaries(None, 256) > 3 * temporaries(None, 128)


def test_the_symmetric_gradient_needs_no_sum_over_the_shards():
    """Of the gradients of all rows as columns: each shard has those of its own."""
    summed = lambda name, chunk: 'reduce_scatter' in on_eight(of_pairs(name, chunk), 4).as_text()
    assert not summed('nt_xent', 4)
    assert not summed('sup_con', 4)
    assert summed('nt_xent', None)
    assert summed('info_nce', 4)


@pytest.mark.parametrize('name', ['nt_xent', 'sup_con', 'info_nce', 'clip', 'sigmoid'])
def test_the_size_of_the_matrix_decides_unless_told(name):
    def in_chunks(b, chunk=None):
        x = jax.ShapeDtypeStruct((b, 4), jnp.float32)
        loss = lambda x: of_pairs(name, chunk)(x, x, jnp.zeros(2))
        return 'scan' in str(jax.make_jaxpr(loss)(x))

    b = 2**11 if name in ('nt_xent', 'sup_con') else 2**12
    assert not in_chunks(b)
    assert in_chunks(b + 1)
    assert in_chunks(8, chunk=7)
    assert not in_chunks(8, chunk=16)
    assert not in_chunks(b + 1, chunk=2**20)


def test_a_chunk_is_a_number_of_columns():
    with pytest.raises(ValueError, match='chunk=0: a number of columns'):
        nt_xent(Z, chunk=0)
    for how in ({'negatives': KEY}, {'score': bilinear(np.eye(D))}):
        with pytest.raises(ValueError, match='chunk=4: not with other negatives or a score'):
            info_nce(QUERY, KEY, chunk=4, **how)
