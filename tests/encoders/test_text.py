"""The text transformer is that of CLIP's equations: causal or not, whatever pads a text, with dropout
by example."""

import math
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clr_jax import networks, parallel
from clr_jax.encoders.text import text
from clr_jax.entry import CONFIG, Problem
from clr_jax.networks import Network
from tests.oracles import assert_close

TINY = {'width': 12, 'depth': 2, 'heads': 3, 'vocabulary': 9, 'length': 6}
END = 8
# one as long as can be, one with the padding's number within, one alone, one of nothing but padding
TOKENS = np.array(
    [[7, 1, 2, 3, 4, END], [7, 0, 5, END, 0, 0], [END, 0, 0, 0, 0, 0], [0] * 6], np.int32
)
FORMS = [
    {'causal': True, 'pool': 'last', 'activation': 'quick_gelu'},
    {'causal': False, 'pool': 'last', 'activation': 'gelu'},
    {'causal': False, 'pool': 'mean', 'activation': 'quick_gelu'},
    {'causal': True, 'pool': 'mean', 'activation': 'gelu'},
    {'causal': False, 'pool': 'first', 'activation': 'quick_gelu'},
]


@cache
def shapes(**options):
    network = Network(text(**options))
    tokens = jax.ShapeDtypeStruct((2, options.get('length', 77)), jnp.int32)
    return jax.eval_shape(lambda x: networks.init(network, jax.random.key(0), x), tokens)[0][
        'encoder'
    ]


def noise(seed=0, centre=1.0):
    """Parameters that are noise, around `centre` where they are scales; NumPy float64."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        return (centre if path[-1].key == 'scale' else 0) + rng.normal(size=leaf.shape) / 3

    return jax.tree_util.tree_map_with_path(one, shapes(**TINY))


def features(params, tokens, **options):
    network = Network(text(**TINY | options))
    return networks.evaluate(network, {'encoder': params}, {}, tokens).h


# The equations, one token after the other


def normed(x, scale, bias):
    return (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-6) * scale + bias


def activated(x, activation):
    if activation == 'quick_gelu':
        return x / (1 + np.exp(-1.702 * x))
    return np.array([v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x])


def forward(tokens, p, causal, pool, activation):
    heads, dim = TINY['heads'], TINY['width'] // TINY['heads']
    found = []
    for row in tokens:
        places = [i for i, token in enumerate(row) if token != 0]
        row = row[: max(places, default=0) + 1]  # the text alone
        x = [p['tokens'][token] + p['pos_embed'][i] for i, token in enumerate(row)]
        for n in range(TINY['depth']):
            of = lambda layer, n=n: {name: leaf[n] for name, leaf in p['blocks'][layer].items()}
            dense = lambda y, layer, of=of: y @ of(layer)['kernel'] + of(layer)['bias']
            qkv = [dense(normed(y, **of('norm1')), 'qkv').reshape(3, heads, dim) for y in x]
            after = []
            for i in range(len(x)):
                seen = qkv[: i + 1] if causal else qkv
                said = []
                for head in range(heads):
                    weight = [np.exp(qkv[i][0, head] @ k[1, head] / math.sqrt(dim)) for k in seen]
                    values = [w * k[2, head] for w, k in zip(weight, seen, strict=True)]
                    said.append(sum(values) / sum(weight))
                y = x[i] + dense(np.concatenate(said), 'proj')
                hidden = activated(dense(normed(y, **of('norm2')), 'fc1'), activation)
                after.append(y + dense(hidden, 'fc2'))
            x = after
        x = [normed(y, **p['norm']) for y in x]
        found.append({'last': x[-1], 'first': x[0], 'mean': np.mean(x, 0)}[pool])
    return np.stack(found)


@pytest.mark.parametrize('form', FORMS, ids=lambda form: '-'.join(map(str, form.values())))
def test_features_and_slopes_are_those_of_the_equations(float64, form):
    params, slope = noise(), noise(1, 0.0)
    run = lambda p: features(p, TOKENS, **form)
    h, along = jax.jit(lambda p, v: jax.jvp(run, (p,), (v,)))(params, slope)
    oracle = lambda p: forward(TOKENS, p, **form)
    assert_close(h, oracle(params), 1e-12)
    moved = lambda e: oracle(jax.tree.map(lambda p, v: p + e * v, params, slope))
    assert_close(along, (moved(1e-5) - moved(-1e-5)) / 2e-5, 1e-7)


def test_a_causal_text_does_not_know_what_follows(float64):
    """What a token says changes with those before it and not with those behind it."""
    params, run = noise(), jax.jit(features, static_argnames='causal')
    text, other = np.array([[7, 1, 2, 3, 4, 5]]), np.array([[7, 1, 2, 6, 4, 5]])
    for count in range(1, 7):
        cut = lambda x, count=count: np.where(np.arange(6) < count, x, 0)  # pool at each place
        same = np.abs(run(params, cut(text), causal=True) - run(params, cut(other), causal=True))
        assert (same.max() < 1e-12) == (count <= 3), count
    first = {'pool': 'first', 'causal': False}
    assert np.abs(features(params, text, **first) - features(params, other, **first)).max() > 1e-3


@pytest.mark.parametrize('form', FORMS, ids=lambda form: '-'.join(map(str, form.values())))
def test_padding_does_not_change_features(float64, form):
    """Nor does its number, nor how long the array is."""
    params, short = noise(), TOKENS[1:3, :4]
    h = features(params, TOKENS[1:3], **form)
    np.testing.assert_allclose(features(params, short, **form), h, rtol=0, atol=1e-12)
    other = np.where(TOKENS[1:2] == 0, 6, TOKENS[1:2])
    other[0, 1] = 0  # the token within
    np.testing.assert_allclose(features(params, other, padding=6, **form), h[:1], atol=1e-12)


def test_the_last_token_is_the_end_of_the_text(float64):
    """The feature follows the token at the end, not the padding behind it."""
    params = noise()
    moved = TOKENS[1:2].copy()
    moved[0, 3] = 6
    assert np.abs(features(params, moved) - features(params, TOKENS[1:2])).max() > 1e-3
    table = params | {'tokens': params['tokens'] + np.eye(9, 12) * (np.arange(9) == 0)[:, None]}
    np.testing.assert_allclose(features(table, TOKENS[:1]), features(params, TOKENS[:1]))


# Dropout, devices


def test_dropout_is_by_example_and_gradients_do_not_depend_on_the_devices(float64):
    params, target = noise(), np.random.default_rng(2).normal(size=(8, 12))
    tokens = np.concatenate([TOKENS, TOKENS])

    def run(devices, order, key=0, **options):
        network = Network(text(**TINY | {'dropout': 0.3, 'causal': False} | options))

        def objective(params, x, target, rows):
            key_ = jax.random.key(key)
            h = networks.apply(network, {'encoder': params}, {}, x, key=key_, rows=rows)[0].h
            return parallel.mean(((h - target) ** 2).mean()), h

        def f(params, *data):
            grads, h = jax.grad(objective, has_aux=True)(parallel.vary(params), *data)
            return parallel.reduce(grads), h

        mesh, rows = parallel.make_mesh(jax.devices()[:devices]), P(parallel.DATA)
        shard = parallel.shard(f, mesh, (P(), rows, rows, rows), (P(), rows))
        return jax.jit(shard)(params, tokens[order], target[order], order)

    straight, back = np.arange(8), np.arange(8)[::-1].copy()
    grads, h = run(1, straight)
    assert min(np.abs(g).max() for g in jax.tree.leaves(grads)) > 1e-6
    for devices, order, options in (
        (8, straight, {}),
        (2, back, {}),
        (2, straight, {'remat': 'full'}),
    ):
        others, other = run(devices, order, **options)
        np.testing.assert_allclose(other, h[order], rtol=0, atol=1e-12)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), others, grads
        )
    assert np.abs(h[:4] - h[4:]).max() > 1e-2  # the same texts in other rows
    assert np.abs(run(1, straight, key=1)[1] - h).max() > 1e-2
    none = networks.evaluate(Network(text(**TINY, dropout=0.3)), {'encoder': params}, {}, tokens).h
    np.testing.assert_allclose(none, features(params, tokens), atol=1e-12)


# Sizes, beginnings, precision


def test_the_size_is_that_of_clip():
    """63 million parameters, of which 25 are tokens: section 2.4."""
    d, depth, params = 512, 12, shapes(width=512)
    blocks = depth * (12 * d * d + 13 * d)
    assert sum(x.size for x in jax.tree.leaves(params)) == 49408 * d + 77 * d + blocks + 2 * d
    assert round(sum(x.size for x in jax.tree.leaves(params)) / 1e6) == 63
    assert text(bn_groups=8) == text()


def test_it_begins_as_the_official_code():
    d, depth = 48, 2
    network = Network(text(width=d, depth=depth, heads=2, vocabulary=200, length=40))
    init = jax.jit(
        lambda: networks.init(network, jax.random.key(0), jnp.zeros((1, 40), jnp.int32))[0]
    )
    params = jax.device_get(init()['encoder'])
    blocks = params['blocks']
    deviations = [
        (params['tokens'], 0.02),
        (params['pos_embed'], 0.01),
        (blocks['qkv']['kernel'], d**-0.5),
        (blocks['proj']['kernel'], d**-0.5 / 2),
        (blocks['fc1']['kernel'], (2 * d) ** -0.5),
        (blocks['fc2']['kernel'], d**-0.5 / 2),
    ]
    for leaf, deviation in deviations:
        assert abs(leaf.std() / deviation - 1) < 4 / math.sqrt(2 * leaf.size)
    assert not any(blocks[name]['bias'].any() for name in ('qkv', 'proj', 'fc1', 'fc2'))


def test_bfloat16_computes_products_alone():
    params = jax.tree.map(lambda x: x.astype(np.float32), noise())
    run = lambda tokens: features(params, tokens, dtype='bfloat16')
    h = run(TOKENS)
    assert h.dtype == jnp.float32
    assert_close(h, features(params, TOKENS), 0.05)
    jaxpr = str(jax.make_jaxpr(run)(TOKENS))
    results = lambda name: re.findall(rf':(\w+)\[[\d,]*\] = {name}\b', jaxpr)
    assert results('exp') == ['f32']  # of the softmax
    assert results('rsqrt') == ['f32'] * 3
    assert results('dot_general') == ['bf16', 'f32', 'bf16', 'bf16', 'bf16', 'bf16']


# Problems


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'pool': 'max'}, 'pool=max of the text encoder: last or first or mean'),
        ({'activation': 'relu'}, 'activation=relu of the text encoder: gelu or quick_gelu'),
        ({'heads': 7}, 'heads=7 of the text encoder: does not divide a width of 512'),
        ({'depth': 0}, 'depth=0 of the text encoder: at least 1'),
        ({'vocabulary': 0}, 'vocabulary=0 of the text encoder: at least 1'),
        ({'mlp_ratio': 0.0}, 'mlp_ratio=0.0 of the text encoder: leaves no hidden unit'),
        ({'dropout': 1.0}, 'dropout=1.0 of the text encoder: at least 0 and below 1'),
    ],
)
def test_a_wrong_option_is_a_problem_of_one_line(options, message):
    with pytest.raises(Problem, match=f'^{re.escape(message)}$') as problem:
        text(**options)
    assert problem.value.code == CONFIG


def test_texts_that_are_too_long_are_a_problem_of_one_line():
    with pytest.raises(Problem) as problem:
        jax.eval_shape(lambda: features(noise(), np.ones((1, 7), np.int32)))
    assert str(problem.value) == 'length=6 of the text encoder: these texts have 7 tokens'
