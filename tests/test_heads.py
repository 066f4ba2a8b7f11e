"""The projector of SimCLR: its layers, which have a norm, a bias or neither, and how they begin."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from clr_jax.entry import Problem
from clr_jax.heads import MLP, Classifier, Heads, WeightNormed, classified, gelu, plain
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


OF_NORM = {  # its parameters
    'full': {'scale', 'bias'},
    'scale': {'scale'},
    'plain': set(),
    None: None,
}


@pytest.mark.parametrize('norm', OF_NORM)
@pytest.mark.parametrize('last_norm', OF_NORM)
@pytest.mark.parametrize(('bias', 'last_bias'), [(False, True), (True, False)])
def test_norms_and_biases_are_chosen_for_the_last_layer_and_the_others(
    float64, norm, last_norm, bias, last_bias
):
    """Dense, norm, ReLU; at the end no ReLU; exactly the parameters that these need."""
    dims, groups = (6, 7, 3), 2
    chosen = {'norm': norm, 'last_norm': last_norm, 'bias': bias, 'last_bias': last_bias}
    head = MLP(dims, bn_groups=groups, **chosen)
    norms, biases = [norm, norm, last_norm], [bias, bias, last_bias]
    params, stats = shapes(head)
    expected, expected_stats, before = {}, {}, 5
    for n, dim in enumerate(dims):
        expected[f'dense{n + 1}'] = {'kernel': (before, dim)}
        if biases[n]:
            expected[f'dense{n + 1}']['bias'] = (dim,)
        if OF_NORM[norms[n]]:
            expected[f'bn{n + 1}'] = dict.fromkeys(OF_NORM[norms[n]], (dim,))
        if norms[n]:
            expected_stats[f'bn{n + 1}'] = {'mean': (dim,), 'var': (dim,)}
        before = dim
    assert params == expected
    assert stats == expected_stats

    rng = np.random.default_rng(1)
    draw = lambda tree: {
        layer: {k: rng.normal(size=s) for k, s in of.items()} for layer, of in tree.items()
    }
    params, stats = draw(params), draw(stats)  # training does not read the running averages
    variables = {'params': params, 'batch_stats': stats}
    y, _ = head.apply(variables, X, ROWS, mutable=['batch_stats'])
    x = X
    for n in range(3):
        x = x @ params[f'dense{n + 1}']['kernel'] + params[f'dense{n + 1}'].get('bias', 0)
        if norms[n]:
            of_norm = params.get(f'bn{n + 1}', {})
            x, _, _ = oracles.batch_norm(x, groups, of_norm.get('scale', 1), of_norm.get('bias', 0))
        x = x if n == 2 else np.maximum(x, 0)
    assert (x < 0).any()
    assert_close(y, x, 1e-11)


@pytest.mark.parametrize('until', [0, 1, 2, 3, None])
def test_only_the_first_layers_are_what_the_whole_computes_on_its_way(float64, until):
    """Their names are the whole's, so that its weights fit; below the last each has its ReLU and
    the norm and bias of a layer that is not the last."""
    settings = {'norm': 'full', 'last_norm': 'scale', 'bias': True, 'last_bias': False}
    whole, part = MLP((6, 7, 3), **settings), MLP((6, 7, 3), **settings, until=until)
    rng = np.random.default_rng(2)
    variables = jax.eval_shape(whole.init, jax.random.key(0), X, None)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), variables)
    kept = [n for n in (1, 2, 3) if until is None or n <= until]
    names = {f'{layer}{n}' for layer in ('dense', 'bn') for n in kept}
    params, stats = shapes(part)
    ours = {kind: {n: tree[n] for n in tree if n in names} for kind, tree in variables.items()}
    assert (params or {}, stats) == tuple(
        jax.tree.map(jnp.shape, ours[kind]) for kind in ('params', 'batch_stats')
    )
    # what enters the first layer that is left out, or leaves the last
    y, seen = whole.apply(
        variables, X, ROWS, mutable=['batch_stats', 'intermediates'], capture_intermediates=True
    )
    expected = {
        0: X,
        1: np.maximum(seen['intermediates']['bn1']['__call__'][0], 0),
        2: np.maximum(seen['intermediates']['bn2']['__call__'][0], 0),
    }.get(until, y)
    found, _ = part.apply(ours, X, ROWS, mutable=['batch_stats'])
    np.testing.assert_array_equal(found, expected)
    assert (until in (1, 2)) == bool((np.asarray(found) >= 0).all())


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


def test_without_a_standard_deviation_kernels_begin_as_in_torch():
    """Uniform within 1 / sqrt(inputs), whose variance is 1 / (3 inputs); biases are zero.

    Of n draws the variance's standard error is sqrt(4 / 5 n) of it (the fourth moment of a uniform
    distribution is 9 / 5 of its squared variance), and the largest is within 10 / n of the bound
    but with probability exp(-10)."""
    x = np.zeros((2, 200), np.float32)
    head = MLP((300, 100), bias=True, last_bias=True, kernel_std=0)
    params = jax.jit(head.init)(jax.random.key(0), x, None)['params']
    for layer, inputs in (('dense1', 200), ('dense2', 300)):
        kernel, bound = np.asarray(params[layer]['kernel'], np.float64), 1 / np.sqrt(inputs)
        n = kernel.size
        assert kernel.shape[0] == inputs
        assert bound * (1 - 10 / n) < kernel.max() <= bound * (1 + 1e-6)
        assert -bound * (1 + 1e-6) <= kernel.min() < -bound * (1 - 10 / n)
        assert abs((kernel**2).mean() * 3 * inputs - 1) < 5 * np.sqrt(4 / 5 / n)
        assert abs(kernel.mean()) < 5 * bound / np.sqrt(3 * n)
        assert (params[layer]['bias'] == 0).all()


def test_it_computes_in_bfloat16_and_keeps_float32():
    head = MLP((6, 3), dtype='bfloat16')
    variables = jax.eval_shape(head.init, jax.random.key(0), np.float32(X), None)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    y, _ = jax.eval_shape(
        lambda v: head.apply(v, np.float32(X), ROWS, mutable=['batch_stats']), variables
    )
    assert y.dtype == jnp.bfloat16


def test_an_activation_may_be_another_and_the_rows_of_unit_length(float64):
    """DINO's: GELU as its error function has it, between layers alone."""
    head = MLP((6, 7, 3), norm=None, last_norm=None, bias=True, activation=gelu, unit=True)
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda shape: rng.normal(size=shape), shapes(head)[0], is_leaf=is_shape)
    x = X
    for n in range(3):
        x = x @ params[f'dense{n + 1}']['kernel'] + params[f'dense{n + 1}'].get('bias', 0)
        x = x if n == 2 else x / 2 * (1 + erf(x / np.sqrt(2)))
    expected = x / np.sqrt((x**2).sum(1, keepdims=True))
    assert_close(head.apply({'params': params}, X, ROWS), expected, 1e-12)


def is_shape(x):
    return isinstance(x, tuple)


# Heads made of them


def test_a_plain_head_has_biases_and_no_norms_and_begins_as_in_torch(float64):
    head = plain([6, 3])
    assert (head.kernel_std, head.dims) == (0, (6, 3))
    params, stats = shapes(head)
    assert params == {
        'dense1': {'kernel': (5, 6), 'bias': (6,)},
        'dense2': {'kernel': (6, 3), 'bias': (3,)},
    }
    assert stats == {}
    rng = np.random.default_rng(3)
    w1, b1, w2, b2 = (rng.normal(size=shape) for shape in ((5, 6), 6, (6, 3), 3))
    params = {'dense1': {'kernel': w1, 'bias': b1}, 'dense2': {'kernel': w2, 'bias': b2}}
    y = head.apply({'params': params}, X, ROWS)
    assert_close(y, np.maximum(X @ w1 + b1, 0) @ w2 + b2, 1e-13)


def test_a_weight_normed_layer_has_columns_of_length_one_or_of_lengths_it_learns(float64):
    rng = np.random.default_rng(6)
    kernel, length = rng.normal(size=(5, 3)), rng.normal(size=3)
    columns = np.stack([kernel[:, k] / np.sqrt((kernel[:, k] ** 2).sum()) for k in range(3)], 1)
    assert shapes(WeightNormed(3)) == ({'kernel': (5, 3)}, {})
    y = WeightNormed(3).apply({'params': {'kernel': kernel}}, X, ROWS)
    assert_close(y, X @ columns, 1e-13)
    learned = WeightNormed(3, learned=True)
    y = learned.apply({'params': {'kernel': kernel, 'length': length}}, X, ROWS)
    assert_close(y, X @ columns * length, 1e-13)
    params = learned.init(jax.random.key(0), X, None)['params']
    assert (params['length'] == 1).all()
    assert 0.8 / np.sqrt(5) < np.abs(params['kernel']).max() <= 1 / np.sqrt(5)  # as in torch


def test_a_weight_normed_layer_multiplies_in_bfloat16_and_adds_in_float32():
    params, x = {'kernel': np.float32(X[:5, :4])}, np.float32(X[:, :5])
    y = WeightNormed(4, dtype='bfloat16').apply({'params': params}, x, ROWS)
    assert y.dtype == jnp.float32
    exact = WeightNormed(4).apply({'params': params}, x, ROWS)
    assert exact.dtype == jnp.float32
    columns = params['kernel'] / np.linalg.norm(params['kernel'], axis=0)
    rough = lambda a: np.float32(jnp.asarray(a, jnp.bfloat16))
    assert_close(y, rough(x) @ rough(columns), 1e-6)
    assert np.abs(y - exact).max() > 1e-4


def test_several_heads_are_each_by_itself_and_stand_second(float64):
    together = Heads((MLP((4, 3)), MLP((6, 3))))
    variables = together.init(jax.random.key(0), X, None)
    y, _ = together.apply(variables, X, ROWS, mutable=['batch_stats'])
    assert y.shape == (8, 2, 3)
    for n, head in enumerate(together.heads):
        own = {kind: tree[f'heads_{n}'] for kind, tree in variables.items()}
        alone, _ = head.apply(own, X, ROWS, mutable=['batch_stats'])
        assert_close(y[:, n], alone, 1e-13)
    assert (y[:, 0] != y[:, 1]).all()


def test_heads_apart_have_each_its_part_of_the_features(float64):
    x = np.concatenate([X, 2 * X], 1)  # [8, 10]
    apart = Heads((plain((3,)), plain((4, 3))), apart=True)
    variables = apart.init(jax.random.key(0), x, None)
    y = apart.apply(variables, x, ROWS)
    assert y.shape == (8, 2, 3)
    for n, head in enumerate((plain((3,)), plain((4, 3)))):
        own = {'params': variables['params'][f'heads_{n}']}
        np.testing.assert_array_equal(y[:, n], head.apply(own, (1 + n) * X, ROWS))


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32', 'float64'])
def test_a_classifier_is_linear_and_says_nothing_before_training(float64, dtype):
    x = jnp.asarray(X, dtype)
    begin = Classifier(3).init(jax.random.key(0), x, None)['params']
    assert jax.tree.map(jnp.shape, begin) == {'kernel': (5, 3), 'bias': (3,)}
    assert not any(leaf.any() for leaf in begin.values())
    rng = np.random.default_rng(4)
    w, b = np.float32(rng.normal(size=(5, 3))), np.float32(rng.normal(size=3))
    logits = Classifier(3).apply({'params': {'kernel': w, 'bias': b}}, x, ROWS)
    assert logits.dtype == ('float64' if dtype == 'float64' else 'float32')
    expected = np.asarray(x, np.float64) @ w.astype(np.float64) + b
    assert_close(logits, expected, 1e-13 if dtype == 'float64' else 1e-6)


def test_a_classified_encoder_keeps_the_first_layers_of_its_projector():
    encoder = MLP((5,))
    for layers, kept in ((0, None), (1, {'dense1', 'bn1'}), (2, {'dense1', 'bn1', 'dense2'})):
        network = classified(encoder, 3, (6, 4), layers, last_norm=None)
        params, _ = shapes(network)
        assert params['predictor'] == {'kernel': ((5, 6, 4)[layers], 3), 'bias': (3,)}
        assert params.keys() - {'encoder', 'predictor'} == ({'projector'} if kept else set())
        assert params.get('projector', {}).keys() == (kept or set())
    for layers in (-1, 3):
        with pytest.raises(Problem, match=f'config.method.head_layers={layers}: .* has 2 layers'):
            classified(encoder, 3, (6, 4), layers)
