"""BERT: its features and their slopes are those of the equations, padding is not seen, dropout is by
example, and weights go to Hugging Face's names and back. With CLR_MINILM, a folder with a
model.safetensors and tokenizer.json of all-MiniLM-L6-v2, and CLR_STSB, a folder with sts-test.csv,
the published correlation is found."""

import csv
import math
import os
import re
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clr_jax import networks, parallel
from clr_jax.encoders.bert import bert, from_weights, to_weights
from clr_jax.entry import CONFIG, Problem
from clr_jax.networks import Network
from tests.oracles import assert_close

TINY = {'width': 12, 'depth': 2, 'heads': 3, 'hidden': 20, 'vocabulary': 30, 'length': 9}
RNG = np.random.default_rng(0)
LENGTHS = [7, 3, 5, 1, 7, 2, 4, 6]
X = RNG.integers(1, 30, (8, 7), np.int32) * (np.arange(7) < np.array(LENGTHS)[:, None])
X = X.astype(np.int32)


def shapes(x=X, **options):
    network = Network(bert(**TINY | options))
    return jax.eval_shape(lambda: networks.init(network, jax.random.key(0), jnp.asarray(x))[0])


def noise(seed=0, centre=1.0, **options):
    """Parameters that are noise, around `centre` where they are scales; NumPy float64."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        return (centre if path[-1].key == 'scale' else 0) + rng.normal(size=leaf.shape) / 2

    return jax.tree_util.tree_map_with_path(one, shapes(**options)['encoder'])


# The paper's equations


def normed(x, scale, bias):
    """Layer normalisation of one token."""
    return (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-12) * scale + bias


def gelu(x):
    return np.vectorize(lambda v: v / 2 * (1 + math.erf(v / math.sqrt(2))))(x)


def forward(x, p, heads, pool, padding=0):
    """Sentence by sentence, without its padding -> [n, d]."""
    dense = lambda y, layer: y @ layer['kernel'] + layer['bias']
    norm = lambda tokens, layer: np.stack([normed(y, **layer) for y in tokens])
    features = []
    for sentence in x:
        sentence = [token for token in sentence if token != padding]
        e = p['embeddings']
        sums = [e['words'][w] + e['positions'][i] + e['types'][0] for i, w in enumerate(sentence)]
        first = z = norm(sums, e['norm'])
        d = z.shape[1] // heads
        for i in range(len(p['blocks']['query']['bias'])):
            of = lambda layer: {name: leaf[i] for name, leaf in p['blocks'][layer].items()}
            q, k, v = (dense(z, of(name)) for name in ('query', 'key', 'value'))
            outputs = []
            for cut in (slice(head * d, (head + 1) * d) for head in range(heads)):
                a = np.exp(q[:, cut] @ k[:, cut].T / math.sqrt(d))
                outputs.append(a / a.sum(1, keepdims=True) @ v[:, cut])
            z = norm(z + dense(np.concatenate(outputs, 1), of('proj')), of('norm1'))
            z = norm(z + dense(gelu(dense(z, of('fc1'))), of('fc2')), of('norm2'))
        means = {'mean': z.mean(0), 'first_last': (first.mean(0) + z.mean(0)) / 2}
        features.append(z[0] if pool == 'cls' else means[pool])
    return np.stack(features)


@pytest.mark.parametrize('pool', ['cls', 'mean', 'first_last'])
def test_features_and_slopes_are_those_of_the_equations(float64, pool):
    params, slope = noise(), noise(1, 0.0)
    network = Network(bert(**TINY, pool=pool))
    features = lambda p: networks.evaluate(network, {'encoder': p}, {}, X).h
    oracle = lambda p: forward(X, p, TINY['heads'], pool)
    h, along = jax.jit(lambda p, v: jax.jvp(features, (p,), (v,)))(params, slope)
    assert_close(h, oracle(params), 1e-13)
    # the slope of all features along one direction in all parameters
    moved = lambda e: oracle(jax.tree.map(lambda p, v: p + e * v, params, slope))
    assert_close(along, (moved(1e-5) - moved(-1e-5)) / 2e-5, 1e-7)


@pytest.mark.parametrize('pool', ['cls', 'first_last'])
def test_padding_of_any_number_and_length_is_not_seen(float64, pool):
    params = noise()
    short = np.where(X == 0, 29, X % 29).astype(np.int32)
    encoder = bert(**TINY, pool=pool, padding=29)
    evaluate = jax.jit(lambda x: networks.evaluate(Network(encoder), {'encoder': params}, {}, x).h)
    expected = forward(short, params, TINY['heads'], pool, padding=29)
    longer = np.pad(short, ((0, 0), (0, 2)), constant_values=29)
    for x in (short, longer):
        assert_close(evaluate(x), expected, 1e-13)


def test_a_row_of_padding_alone_is_finite():
    network, x = Network(bert(**TINY, pool='first_last')), np.zeros((2, 4), np.int32)
    total = lambda p: networks.evaluate(network, {'encoder': p}, {}, x).h.sum()
    value, grads = jax.jit(jax.value_and_grad(total))(noise())
    assert np.isfinite([value, *(np.sum(g) for g in jax.tree.leaves(grads))]).all()


def test_states_are_what_features_are_made_of(float64):
    params, encoder = noise(), bert(**TINY, pool='mean')
    states = lambda network, x: network.encoder.states(x, None)
    embedded, last, mask = networks.evaluate(
        Network(encoder), {'encoder': params}, {}, X, method=states
    )
    assert embedded.shape == last.shape == (8, 7, 12)
    np.testing.assert_array_equal(mask, X != 0)
    h = networks.evaluate(Network(encoder), {'encoder': params}, {}, X).h
    assert_close(encoder.pooled(embedded, last, mask), h, 1e-15)


# In training


@cache
def encoder_step(**options):
    """Features of x in training, of (x, rows, seed)."""
    network, params = Network(bert(**TINY | options)), noise()

    def run(x, rows, seed):
        key = jax.random.key(seed)
        return networks.apply(network, {'encoder': params}, {}, x, key=key, rows=rows)[0].h

    return jax.jit(run)


def train(x=X, rows=range(8), seed=0, **options):
    return np.asarray(encoder_step(**options)(x, np.array(rows), seed))


def test_features_and_gradients_are_those_of_one_device_with_remat_or_without(float64):
    """With dropout, tokens cut off, and parameters that vary or do not."""
    params, weight = noise(), np.random.default_rng(2).normal(size=(len(X), 12))

    def run(devices, remat):
        network = Network(bert(**TINY, cutoff='span', cutoff_ratio=0.4, pool='mean', remat=remat))

        def objective(params, x, weight):
            h = networks.apply(network, {'encoder': params}, {}, x, key=jax.random.key(0))[0].h
            return (h * weight).sum(), h

        def f(params, x, weight):
            same = objective(params, x, weight)[1]  # as a target network's, not marked as varying
            grads, h = jax.grad(objective, has_aux=True)(parallel.vary(params), x, weight)
            return parallel.reduce(grads), h, same

        mesh, rows = parallel.make_mesh(jax.devices()[:devices]), P(parallel.DATA)
        shard = parallel.shard(f, mesh, (P(), rows, rows), (P(), rows, rows))
        return jax.jit(shard)(params, X, weight)

    grads, h, same = run(1, remat='')
    np.testing.assert_array_equal(same, h)
    for devices, remat in ((2, 'full'), (8, 'dots')):
        others, other, _ = run(devices, remat)
        assert_close(other, h, 1e-12)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-9), others, grads)


def test_dropout_is_by_example():
    same, order = np.repeat(X[:1], 8, 0), np.array([3, 1, 0, 2, 7, 6, 5, 4])
    h = train(same)
    assert len(np.unique(h, axis=0)) == 8
    np.testing.assert_allclose(train(same, order), h[order], rtol=1e-4, atol=1e-4)
    assert np.abs(train(same, seed=1) - h).max() > 1e-2
    calm = train(same, dropout=0.0)
    np.testing.assert_allclose(calm, forward(same, noise(), 3, 'cls'), rtol=1e-4, atol=1e-4)


def test_dropout_has_its_four_places():
    """Behind the embeddings, both branches and attention weights."""
    network = Network(bert(**TINY))
    run = lambda: networks.apply(network, {'encoder': noise()}, {}, X, key=jax.random.key(0))
    drawn = r':bool\[([\d,]+)\] = jit\[\s*name=_bernoulli'
    found = re.findall(drawn, str(jax.make_jaxpr(run)()))  # in the block, then outside
    assert found == ['8,3,7,7', '8,7,12', '8,7,12', '8,7,12']


@pytest.mark.parametrize('kind', ['token', 'span', 'feature'])
def test_cutoff_is_in_training_alone(float64, kind):
    options = {'cutoff': kind, 'cutoff_ratio': 0.5, 'dropout': 0.0, 'pool': 'mean'}
    network, params = Network(bert(**TINY | options)), noise()
    evaluated = networks.evaluate(network, {'encoder': params}, {}, X).h
    assert_close(evaluated, forward(X, params, TINY['heads'], 'mean'), 1e-13)
    h = train(**options)
    for n, length in enumerate(LENGTHS):  # a sentence of one token loses none
        changed = np.abs(h[n] - evaluated[n]).max()
        assert changed < 1e-12 if length == 1 and kind != 'feature' else changed > 1e-3


# Weights


def test_weights_go_to_hugging_face_and_back():
    params = noise()
    theirs = to_weights(params)
    assert theirs['encoder.layer.1.intermediate.dense.weight'].shape == (20, 12)
    np.testing.assert_array_equal(
        theirs['encoder.layer.1.attention.output.dense.weight'],
        params['blocks']['proj']['kernel'][1].T,
    )
    jax.tree.map(np.testing.assert_array_equal, from_weights(theirs), params)
    assert jax.tree.map(jnp.shape, from_weights(theirs)) == jax.tree.map(
        jnp.shape, shapes()['encoder']
    )


def test_names_of_older_files_and_of_whole_models_are_known():
    params = noise()
    old = lambda name: re.sub('Norm.weight$', 'Norm.gamma', re.sub('Norm.bias$', 'Norm.beta', name))
    weights = {f'bert.{old(name)}': x for name, x in to_weights(params).items()}
    assert 'bert.embeddings.LayerNorm.gamma' in weights
    weights |= {'bert.pooler.dense.bias': np.ones(12), 'cls.predictions.bias': np.ones(30)}
    weights |= {'bert.embeddings.position_ids': np.arange(9)[None]}
    jax.tree.map(np.testing.assert_array_equal, from_weights(weights), params)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'lm_head.bias': np.ones(12)}, 'lm_head.bias'),
        ({'embeddings.LayerNorm.bias': None}, 'embeddings.LayerNorm.bias'),
        (
            dict.fromkeys(to_weights(noise())),
            'embeddings.LayerNorm.bias, embeddings.LayerNorm.weight, '
            'embeddings.position_embeddings.weight',
        ),
    ],
)
def test_weights_of_another_network_are_refused(changes, message):
    changed = {n: x for n, x in (to_weights(noise()) | changes).items() if x is not None}
    message = f'these are not the weights of a BERT, which differ in {message}'
    with pytest.raises(Problem, match=f'^{re.escape(message)}$'):
        from_weights(changed)


# Sizes, beginnings, precision


def test_base_has_its_published_size():
    network = Network(bert())
    x = jnp.zeros((1, 8), jnp.int32)
    params = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), x)[0])
    # of the 109,482,240 of BERT-base, 768 * 768 + 768 are the pooler's
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(params)) == 109_482_240 - 590_592


def test_it_begins_as_the_official_code():
    network = Network(bert(**TINY | {'width': 48, 'hidden': 96}))
    init = jax.jit(lambda key: networks.init(network, key, jnp.asarray(X))[0]['encoder'])
    params = jax.device_get(init(jax.random.key(0)))
    for name in ('query', 'key', 'value', 'proj', 'fc1', 'fc2'):
        layer = params['blocks'][name]
        assert not layer['bias'].any()
        # normal of deviation 0.02, cut at two deviations
        assert 0.038 < np.abs(layer['kernel']).max() <= 0.04
        assert abs(layer['kernel'].std() - 0.02 * 0.8796) < 0.0006
        assert np.abs(layer['kernel'][0] - layer['kernel'][1]).max() > 0.01
    assert (params['embeddings']['norm']['scale'] == 1).all()


def test_bfloat16_computes_products_alone():
    network, params = Network(bert(**TINY, dtype='bfloat16', dropout=0.3)), noise()
    params = jax.tree.map(lambda x: x.astype(np.float32), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(dtype='bfloat16'))} == {
        jnp.dtype('float32')
    }
    h = networks.evaluate(network, {'encoder': params}, {}, X).h
    assert h.dtype == jnp.float32
    assert_close(h, forward(X, params, TINY['heads'], 'cls'), 0.1)
    run = lambda: networks.apply(network, {'encoder': params}, {}, X, key=jax.random.key(0))[0]
    text = str(jax.make_jaxpr(run)())
    results = lambda name: re.findall(rf':(\w+)\[[\d,]*\] = {name}\b', text)
    assert results('exp') == ['f32']  # of the softmax
    assert results('rsqrt') == ['f32'] * 3
    # of a block: query, key, value, logits, weighted values, proj, fc1, fc2
    assert results('dot_general') == ['bf16'] * 3 + ['f32'] + ['bf16'] * 4


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'depth': 0}, 'encoder.depth=0: at least 1'),
        ({'heads': 7}, 'encoder.heads=7: does not divide a width of 768'),
        ({'padding': 30522}, 'encoder.padding=30522: no token of a vocabulary of 30522'),
        ({'dropout': 1.0}, 'encoder.dropout=1.0: at least 0 and below 1'),
        ({'cutoff_ratio': -0.1}, 'encoder.cutoff_ratio=-0.1: at least 0 and below 1'),
        ({'pool': 'max'}, 'encoder.pool: no "max"; Known: cls, first_last, mean'),
        (
            {'cutoff': 'tokens'},
            'encoder.cutoff: no "tokens"; did you mean "token"? Known: feature, span, token',
        ),
    ],
)
def test_a_wrong_option_is_a_problem_of_one_line(options, message):
    with pytest.raises(Problem, match=f'^{re.escape(message)}$') as problem:
        bert(**options)
    assert problem.value.code == CONFIG


def test_sentences_longer_than_the_positions_are_refused():
    with pytest.raises(Problem) as problem:
        shapes(np.ones((1, 10), np.int32))
    assert str(problem.value) == 'encoder.length=9: there are sentences of 10 tokens'


# Real weights


if 'CLR_MINILM' in os.environ and 'CLR_STSB' in os.environ:

    def test_all_minilm_l6_v2_has_its_published_correlation_on_sts_b():
        from clr_jax.data import tokens
        from clr_jax.evaluate.sts import sts
        from clr_jax.weights import read

        folder = Path(os.environ['CLR_MINILM'])
        params = from_weights(read(folder / 'model.safetensors'))
        tokenizer = tokens.load(folder / 'tokenizer.json')
        network = Network(bert(width=384, depth=6, hidden=1536, pool='mean'))
        encode = jax.jit(lambda x: networks.evaluate(network, {'encoder': params}, {}, x).h)

        def features(sentences):
            x = tokens.encode(tokenizer, sentences, 128)
            order, h = np.argsort((x != 0).sum(1)), np.empty((len(x), 384), np.float32)
            for some in np.array_split(order, 12):  # the short ones without most of their padding
                longest = 16 * math.ceil((x[some] != 0).sum(1).max() / 16)
                h[some] = encode(x[some, :longest])
            return h

        with open(Path(os.environ['CLR_STSB']) / 'sts-test.csv', newline='') as file:
            rows = list(csv.reader(file, delimiter='\t', quoting=csv.QUOTE_NONE))
        first, second = (features([row[i] for row in rows]) for i in (5, 6))
        found = sts(first, second, [float(row[4]) for row in rows])
        assert round(100 * found['spearman'], 2) == 82.03
