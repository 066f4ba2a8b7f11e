"""The projector of SimCLR: its layers, which have a norm, a bias or neither, and how they begin."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax.heads import MLP
from tests import oracles
from tests.oracles import assert_close

X = np.random.default_rng(0).normal(size=(8, 5))
ROWS = np.arange(8)


def shapes(head):
    variables = jax.eval_shape(head.init, jax.random.key(0), X, None)
    return jax.tree.map(jnp.shape, variables.get('params')), jax.tree.map(
        jnp.shape, variables.get('batch_stats', {})
    )


@pytest.mark.parametrize('dims', [(3,), (6, 3), (6, 7, 3)])
def test_dense_layers_have_no_bias_and_the_last_norm_no_offset(dims):
    params, stats = shapes(MLP(dims))
    expected = {}
    for n, (before, after) in enumerate(itertools.pairwise((5, *dims)), 1):
        expected[f'dense{n}'] = {'kernel': (before, after)}
        expected[f'bn{n}'] = (
            {'scale': (after,)} if n == len(dims) else {'scale': (after,), 'bias': (after,)}
        )
    assert params == expected
    assert stats == {f'bn{n}': {'mean': (dim,), 'var': (dim,)} for n, dim in enumerate(dims, 1)}


def test_a_plain_last_layer_has_no_norm():
    params, stats = shapes(MLP((6, 3), last_norm=False))
    assert params.keys() == {'dense1', 'bn1', 'dense2'}
    assert params['dense2'] == {'kernel': (6, 3)}
    assert stats.keys() == {'bn1'}


@pytest.mark.parametrize(
    ('dims', 'last_norm', 'groups'), [((3,), True, 1), ((6, 7, 3), True, 2), ((6, 3), False, 1)]
)
def test_it_is_dense_norm_relu_and_at_the_end_no_relu(float64, dims, last_norm, groups):
    rng = np.random.default_rng(1)
    head = MLP(dims, last_norm=last_norm, bn_groups=groups)
    variables = jax.eval_shape(head.init, jax.random.key(0), X, None)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), variables['params'])
    stats = jax.tree.map(lambda leaf: np.zeros(leaf.shape), variables.get('batch_stats', {}))
    apply = jax.jit(
        lambda x: head.apply(
            {'params': params, 'batch_stats': stats}, x, ROWS, mutable=['batch_stats']
        )
    )
    y, _ = apply(X)
    expected = X
    for n in range(1, len(dims) + 1):
        last = n == len(dims)
        expected = expected @ params[f'dense{n}']['kernel']
        if not last or last_norm:
            norm = params[f'bn{n}']
            expected, _, _ = oracles.batch_norm(
                expected, groups, norm['scale'], norm.get('bias', 0)
            )
        expected = expected if last else np.maximum(expected, 0)
    assert (expected < 0).any()
    assert_close(y, expected, 1e-11)


def test_kernels_begin_normal_with_a_standard_deviation_of_a_hundredth():
    """Within five standard errors of a sample's; norms begin at 1 and 0."""
    x = np.zeros((2, 200), np.float32)
    init = lambda **options: jax.jit(MLP((300, 100), **options).init)(jax.random.key(0), x, None)[
        'params'
    ]
    params, other = init(), init(kernel_std=0.5)
    for layer in ('dense1', 'dense2'):
        for kernel, std in ((params[layer]['kernel'], 0.01), (other[layer]['kernel'], 0.5)):
            assert abs(np.std(kernel) / std - 1) < 5 / np.sqrt(2 * kernel.size)
            assert abs(np.mean(kernel)) < 5 * std / np.sqrt(kernel.size)
    assert (params['bn1']['scale'] == 1).all()
    assert (params['bn2']['scale'] == 1).all()
    assert (params['bn1']['bias'] == 0).all()


def test_it_computes_in_bfloat16_and_keeps_float32():
    head = MLP((6, 3), dtype='bfloat16')
    variables = jax.eval_shape(head.init, jax.random.key(0), np.float32(X), None)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    y, _ = jax.eval_shape(
        lambda v: head.apply(v, np.float32(X), ROWS, mutable=['batch_stats']), variables
    )
    assert y.dtype == jnp.bfloat16
