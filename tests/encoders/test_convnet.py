"""The small network has the sizes, the statistics and the dropout it says."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import networks
from clr_jax.encoders.convnet import convnet
from clr_jax.entry import Problem
from clr_jax.networks import Network
from tests.encoders import begin
from tests.oracles import assert_close

WIDTHS = (4, 6, 10)
X = np.random.default_rng(0).normal(size=(8, 9, 8, 3)).astype(np.float32)


def shapes(**options):
    network = Network(convnet(widths=WIDTHS, **options))

    def run(x):
        params, stats = networks.init(network, jax.random.key(0), x)
        variables = {'params': params, 'batch_stats': stats}
        out, changed = network.apply(
            variables, x, capture_intermediates=True, mutable=['intermediates']
        )
        return params['encoder'], stats['encoder'], out.h, changed['intermediates']['encoder']

    return jax.eval_shape(run, X)


def test_every_layer_after_the_first_halves_the_resolution():
    params, stats, h, layers = shapes()
    outputs = [layers[f'conv{n}']['__call__'][0].shape for n in (1, 2, 3)]
    assert outputs == [(8, 9, 8, 4), (8, 5, 4, 6), (8, 3, 2, 10)]
    assert h.shape == (8, 10)
    channels = itertools.pairwise((3, *WIDTHS))
    assert jax.tree.map(jnp.shape, params) == {
        name: layer
        for n, (before, after) in enumerate(channels, 1)
        for name, layer in {
            f'conv{n}': {'kernel': (3, 3, before, after)},
            f'bn{n}': {'scale': (after,), 'bias': (after,)},
        }.items()
    }
    assert stats.keys() == {'bn1', 'bn2', 'bn3'}


def test_it_computes_in_bfloat16_and_keeps_float32():
    params, stats, h, layers = shapes(dtype='bfloat16')
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype('float32')}
    assert h.dtype == jnp.float32
    inner = [
        leaf
        for name, layer in layers.items()
        if name[:2] in ('co', 'bn')
        for leaf in jax.tree.leaves(layer)
    ]
    assert len(inner) == 6
    assert {leaf.dtype for leaf in inner} == {jnp.dtype('bfloat16')}


@cache
def variables():
    variables = begin(Network(convnet(widths=WIDTHS)), X)
    return variables['params'], variables['batch_stats']


@cache
def compiled(run, **options):
    return jax.jit(partial(run, Network(convnet(widths=WIDTHS, **options))))


def train(x=X, key=None, **options):
    out, _ = compiled(networks.apply, conv='direct', **options)(*variables(), x, key=key)
    return np.asarray(out.h)


def evaluate(**options):
    return np.asarray(compiled(networks.evaluate, **options)(*variables(), X).h)


def test_dropout_is_of_the_features_and_in_training_only():
    one, other = (train(dropout=0.5, key=jax.random.key(seed)) for seed in (1, 2))
    kept = one != 0
    assert 0 < kept.sum() < kept.size
    np.testing.assert_allclose(one[kept], 2 * train()[kept], rtol=1e-5)
    assert (kept != (other != 0)).any()
    np.testing.assert_array_equal(evaluate(dropout=0.5), evaluate())


def test_batch_statistics_are_of_groups_when_asked():
    grouped = train(bn_groups=2)
    assert_close(grouped, np.concatenate([train(X[:4]), train(X[4:])]))
    assert np.abs(grouped - train()).max() > 1e-2


def test_the_form_of_the_convolution_changes_nothing_else():
    direct, patches, auto = (evaluate(conv=conv) for conv in ('direct', 'patches', 'auto'))
    assert np.abs(direct).max() > 0.1
    assert_close(patches, direct)
    assert_close(auto, direct)


def test_a_wrong_form_is_a_problem_of_one_line():
    with pytest.raises(Problem) as problem:
        jax.eval_shape(lambda: networks.init(Network(convnet(conv='fast')), jax.random.key(0), X))
    assert str(problem.value) == 'encoder.conv=fast: auto, direct or patches'
