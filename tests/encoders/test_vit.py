"""Vision Transformers are timm's and the paper's: values, sizes, beginnings, and branches that are
left out by example."""

import math
import re
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clr_jax import networks, parallel
from clr_jax.encoders.vit import ViT, attention_maps, from_timm, to_timm, vit
from clr_jax.entry import CONFIG, Problem
from clr_jax.networks import Network
from tests.oracles import assert_close
from tests.steps import double

GOLDEN = np.load(Path(__file__).with_name('vit_golden.npz'))  # of make_vit_golden.py
TINY = {'patch': 4, 'image_size': 16, 'width': 12, 'depth': 2, 'heads': 3}
X = np.random.default_rng(0).uniform(size=(4, 8, 12, 3))  # grids of 2 x 3 patches


def weights(pool):
    """timm's, in float32."""
    start = f'{pool}/weights/'
    chosen = {name: GOLDEN[name] for name in GOLDEN if name.startswith(start)}
    return {name.removeprefix(start): x.astype(np.float32) for name, x in chosen.items()}


@cache
def shapes(side=224, **options):
    """-> (parameters, features), shapes only."""
    network, x = Network(vit(**options)), jax.ShapeDtypeStruct((2, side, side, 3), jnp.uint8)

    def run(x):
        params, stats = networks.init(network, jax.random.key(0), x)
        assert not stats
        return params['encoder'], networks.evaluate(network, params, stats, x).h

    return jax.eval_shape(run, x)


def evaluate(params, x, **options):
    network = Network(vit(**TINY | options))
    return jax.jit(lambda x: networks.evaluate(network, {'encoder': params}, {}, x).h)(x)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# timm


@pytest.mark.parametrize('size', ['16x16', '24x24', '12x12', '8x20'])
@pytest.mark.parametrize('pool', ['token', 'average'])
def test_features_are_those_of_timm(pool, size):
    """Also on other grids than that of the learned positions: larger, smaller and not square."""
    h = evaluate(from_timm(weights(pool)), GOLDEN[f'x/{size}'].astype(np.float32), pool=pool)
    assert h.dtype == jnp.float32
    assert_close(h, GOLDEN[f'{pool}/h/{size}'], 1e-6)


@pytest.mark.parametrize('pool', ['token', 'average'])
def test_features_are_those_of_timm_in_float64(float64, pool):
    x = GOLDEN['x/16x16'].astype(np.float64)
    h = evaluate(double(from_timm(weights(pool))), x, pool=pool)
    assert_close(h, GOLDEN[f'{pool}/h/16x16'], 1e-14)


@pytest.mark.parametrize('pool', ['token', 'average'])
def test_weights_go_to_timm_and_back(pool):
    theirs = weights(pool)
    ours = from_timm(theirs | {'head.weight': np.ones((10, 12)), 'head.bias': np.ones(10)})
    back = to_timm(ours)
    assert back.keys() == theirs.keys()
    jax.tree.map(np.testing.assert_array_equal, back, theirs)
    expected = shapes(16, pool=pool, **TINY)[0]
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, expected)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'blocks.0.ls1.gamma': np.ones(12)}, 'blocks.0.ls1.gamma'),
        ({'fc_norm.weight': np.ones(12), 'norm.weight': None}, 'fc_norm.weight, norm.weight'),
        (dict.fromkeys(weights('token')), 'norm.bias, norm.weight, patch_embed.proj.bias'),
    ],
)
def test_weights_of_another_network_are_refused(changes, message):
    changed = {name: x for name, x in (weights('token') | changes).items() if x is not None}
    message = f'these are not the weights of a ViT, which differ in {message}'
    with pytest.raises(Problem, match=f'^{re.escape(message)}$'):
        from_timm(changed)


# The paper's equations


def normed(x, scale, bias):
    """Layer normalisation of one token."""
    return (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-6) * scale + bias


def gelu(x):
    return np.vectorize(lambda v: v / 2 * (1 + math.erf(v / math.sqrt(2))))(x)


def place(row, column, d):
    """Sines and cosines of the column, then of the row."""
    angles = [[i / 10000 ** (k / (d // 4)) for k in range(d // 4)] for i in (column, row)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)])


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))


def forward(x, p, heads, pool, activation=gelu):
    """Dosovitskiy et al., 2020, eqs. 1 to 4, with fixed positions -> (features, attention of the last
    block [n, heads, t, t]). x: [n, h, w, 3]; p: ours, with a norm before the blocks if it has one
    (Radford et al., 2021, section 2.4)."""
    kernel, bias = p['patch_embed']['kernel'], p['patch_embed'].get('bias', 0)
    size, d = kernel.shape[0], kernel.shape[-1]
    of = lambda layer, i: {name: leaf[i] for name, leaf in p['blocks'][layer].items()}
    dense = lambda y, layer: y @ layer['kernel'] + layer['bias']
    norm = lambda tokens, layer: np.stack([normed(y, **layer) for y in tokens])
    features, attention = [], []
    for image in x:
        tokens = [p['cls_token'][0, 0]] if pool == 'token' else []
        for i in range(image.shape[0] // size):
            for j in range(image.shape[1] // size):
                patch = image[i * size : (i + 1) * size, j * size : (j + 1) * size]
                tokens.append(np.tensordot(patch, kernel, 3) + bias + place(i, j, d))
        z = np.stack(tokens)  # [t, d]
        z = norm(z, p['norm_pre']) if 'norm_pre' in p else z
        for i in range(len(p['blocks']['qkv']['bias'])):
            qkv = dense(norm(z, of('norm1', i)), of('qkv', i))
            outputs, weights = [], []
            for head in range(heads):
                cut = lambda part: slice(
                    part * d + head * d // heads, part * d + (head + 1) * d // heads
                )
                q, k, v = (qkv[:, cut(part)] for part in range(3))
                a = np.exp(q @ k.T / math.sqrt(d // heads))
                weights.append(a / a.sum(1, keepdims=True))
                outputs.append(weights[-1] @ v)
            z = z + dense(np.concatenate(outputs, 1), of('proj', i))
            z = z + dense(activation(dense(norm(z, of('norm2', i)), of('fc1', i))), of('fc2', i))
        z = norm(z, p['norm'])
        features.append(z[0] if pool == 'token' else z.mean(0))
        attention.append(weights)
    return np.stack(features), np.array(attention)


def noise(seed=0, centre=1.0, **options):
    """Parameters that are noise, around `centre` where they are scales; NumPy float64."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        scale = path[-1].key == 'scale'
        return (centre if scale else 0) + rng.normal(size=leaf.shape) / 3

    return jax.tree_util.tree_map_with_path(one, shapes(16, **TINY | options)[0])


MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.3, 0.25)


@pytest.mark.parametrize('pool', ['token', 'average'])
def test_features_and_slopes_with_fixed_positions_are_those_of_the_equations(float64, pool):
    options = {'pool': pool, 'positions': 'sincos', 'mean': MEAN, 'std': STD}
    params, slope = noise(**options), noise(1, 0.0, **options)
    network = Network(vit(**TINY | options))
    features = lambda p: networks.evaluate(network, {'encoder': p}, {}, jnp.asarray(X)).h
    oracle = lambda p: forward((X - MEAN) / STD, p, TINY['heads'], pool)[0]
    h, along = jax.jit(lambda p, v: jax.jvp(features, (p,), (v,)))(params, slope)
    assert_close(h, oracle(params), 1e-13)
    # the slope of all features along one direction in all parameters
    moved = lambda e: oracle(jax.tree.map(lambda p, v: p + e * v, params, slope))
    assert_close(along, (moved(1e-5) - moved(-1e-5)) / 2e-5, 1e-7)


def test_the_vit_of_clip_has_a_norm_before_its_blocks_and_a_quick_gelu(float64):
    options = {'positions': 'sincos', 'pre_norm': True, 'activation': 'quick_gelu'}
    params = noise(**options)
    assert params['patch_embed'].keys() == {'kernel'}
    h = evaluate(params, X, **options)
    assert_close(h, forward(X, params, TINY['heads'], 'token', quick_gelu)[0], 1e-13)
    assert np.abs(evaluate(params, X, positions='sincos', pre_norm=True) - h).max() > 1e-4


def test_weights_of_the_vit_of_clip_go_to_timm_and_back():
    ours = noise(pre_norm=True)
    theirs = to_timm(ours)
    assert {'norm_pre.weight', 'norm_pre.bias'} <= theirs.keys()
    assert 'patch_embed.proj.bias' not in theirs
    jax.tree.map(np.testing.assert_array_equal, from_timm(theirs), ours)


@pytest.mark.parametrize('remat', ['', 'full'])
def test_attention_maps_are_what_the_class_token_of_the_last_block_attends_to(float64, remat):
    """Of each head, patch by patch in rows and columns; the token itself is left out."""
    options = {'positions': 'sincos', 'mean': MEAN, 'std': STD}
    params = jax.tree.map(lambda p: 2 * p, noise(**options))
    encoder = vit(**TINY | options, remat=remat, drop_path=0.5)
    maps = np.asarray(jax.jit(lambda x: attention_maps(encoder, params, x))(X))
    assert maps.shape == (4, 3, 2, 3)
    attention = forward((X - MEAN) / STD, params, TINY['heads'], 'token')[1]
    assert_close(maps.reshape(4, 3, 6), attention[:, :, 0, 1:], 1e-13)
    assert maps.std((2, 3)).min() > 0.01


def test_fixed_positions_are_of_any_grid_and_no_parameters():
    params, h = shapes(32, positions='sincos', **TINY | {'image_size': 1, 'patch': 16})
    assert 'pos_embed' not in params
    assert h.shape == (2, 12)


# Branches left out

DEPTH, N, ROWS = 4, 4096, 1000 + np.arange(4096)
LAYERS = {'width': 16, 'depth': DEPTH, 'heads': 2, 'patch': 2, 'image_size': 2}


@cache
def witness(drop_path, remat=''):
    """(network, params) of a ViT whose blocks add a constant, each branch in a channel of its own."""
    network = Network(vit(**LAYERS, drop_path=drop_path, remat=remat))
    params = jax.tree.map(lambda x: np.zeros(x.shape), shapes(2, **LAYERS)[0])
    params['cls_token'][..., :2] = 1, -1
    params['norm']['scale'][:] = 1
    for i in range(DEPTH):
        params['blocks']['proj']['bias'][i, 2 + 2 * i] = 1
        params['blocks']['fc2']['bias'][i, 3 + 2 * i] = 1
    return network, {'encoder': params}


def branches(h):
    """What the last norm hides: the sum of each branch, [n, depth, 2], where the channels 0, 1 and
    15 begin, and end, as 1, -1 and 0."""
    unit = (h[:, :1] - h[:, 1:2]) / 2
    return ((h - h[:, 15:]) / unit)[:, 2 : 2 + 2 * DEPTH].reshape(-1, DEPTH, 2)


def train(drop_path, rows=ROWS, seed=0, devices=1, remat=''):
    network, params = witness(drop_path, remat)
    x = jnp.zeros((len(rows), 2, 2, 3))

    def f(x, rows, key):
        out, _ = networks.apply(network, params, {}, x, key=key, rows=rows)
        return out.h

    mesh, split = parallel.make_mesh(jax.devices()[:devices]), P(parallel.DATA)
    run = jax.jit(parallel.shard(f, mesh, (split, split, P()), split))
    return branches(np.asarray(run(x, rows, jax.random.key(seed)), np.float64))


def test_the_rate_rises_linearly_and_what_is_kept_makes_up_for_it(float64):
    kept, rates = train(0.6), [0, 0.2, 0.4, 0.6]
    for i, rate in enumerate(rates):
        for branch in kept[:, i].T:
            there = branch > 0.5
            np.testing.assert_allclose(branch[there], 1 / (1 - rate), rtol=1e-9)
            np.testing.assert_allclose(branch[~there], 0, atol=1e-9)
            assert abs(there.mean() - (1 - rate)) <= 4 * np.sqrt(rate * (1 - rate) / N)
    # every branch by itself: 4 standard deviations of a correlation of N pairs
    together = np.corrcoef(kept[:, 1:].reshape(N, -1).T)
    assert np.abs(together - np.eye(len(together))).max() < 4 / np.sqrt(N)


def test_branches_are_left_out_by_example_and_not_by_device(float64):
    kept, some = train(0.6), slice(0, 64)
    np.testing.assert_allclose(train(0.6, devices=8), kept, atol=1e-9)
    np.testing.assert_allclose(train(0.6, ROWS[some][::-1]), kept[some][::-1], atol=1e-9)
    np.testing.assert_allclose(train(0.6, ROWS[some], remat='full'), kept[some], atol=1e-9)
    assert np.abs(train(0.6, ROWS[some], seed=1) - kept[some]).max() > 1


def test_nothing_is_left_out_in_evaluation_or_at_rate_zero(float64):
    everything = np.ones((2, DEPTH, 2))
    network, params = witness(0.6)
    h = networks.evaluate(network, params, {}, jnp.zeros((2, 2, 2, 3))).h
    np.testing.assert_allclose(branches(np.asarray(h)), everything, atol=1e-9)
    network, params = witness(0.0)  # which needs no key
    h = networks.apply(network, params, {}, jnp.zeros((2, 2, 2, 3)))[0].h
    np.testing.assert_allclose(branches(np.asarray(h)), everything, atol=1e-9)


# On devices


def test_features_and_gradients_are_those_of_one_device_with_remat_or_in_pieces(float64):
    """With interpolated positions, branches left out, and parameters that vary or do not."""
    params, target = noise(), np.random.default_rng(2).normal(size=(len(X), 12))

    def run(devices, remat, pieces=1):
        network = Network(vit(**TINY, drop_path=0.5, remat=remat))

        def objective(params, x, target):
            with networks.in_pieces((ViT,) if pieces > 1 else (), pieces):
                h = networks.apply(network, {'encoder': params}, {}, x, key=jax.random.key(0))[0].h
            return ((h - target) ** 2).mean(), h

        def f(params, x, target):
            same = objective(params, x, target)[1]  # as a target network's, not marked as varying
            grads, h = jax.grad(objective, has_aux=True)(parallel.vary(params), x, target)
            share = jax.tree.map(lambda g: g / parallel.size(), grads)
            return parallel.reduce(share), h, same

        mesh, rows = parallel.make_mesh(jax.devices()[:devices]), P(parallel.DATA)
        shard = parallel.shard(f, mesh, (P(), rows, rows), (P(), rows, rows))
        return jax.jit(shard)(params, X, target)

    grads, h, same = run(1, remat='')
    np.testing.assert_array_equal(same, h)
    assert min(np.abs(g).max() for g in jax.tree.leaves(grads)) > 1e-6
    for how in ((1, 'dots'), (1, '', 4), (2, 'full', 2)):
        others, other, _ = run(*how)
        assert_close(other, h, 1e-13)
        # the bias of the keys has no gradient but rounding, so each leaf by its largest entry
        jax.tree.map(lambda a, b: assert_close(a, b, 1e-12), others, grads)


# Precision


def test_bfloat16_computes_products_alone():
    options = TINY | {'dtype': 'bfloat16'}
    params, h = shapes(16, **options)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    assert h.dtype == jnp.float32
    params, x = from_timm(weights('token')), GOLDEN['x/16x16'].astype(np.float32)
    h = evaluate(params, x, dtype='bfloat16')
    assert_close(h, GOLDEN['token/h/16x16'], 0.03)
    assert np.abs(h - evaluate(params, x)).max() > 1e-4
    network = Network(vit(**options, drop_path=0.5))
    run = lambda x: networks.apply(network, {'encoder': params}, {}, x, key=jax.random.key(0))[0]
    text = str(jax.make_jaxpr(run)(x))
    results = lambda name: re.findall(rf':(\w+)\[[\d,]*\] = {name}\b', text)
    assert results('exp') == ['f32']  # of the softmax
    assert results('rsqrt') == ['f32'] * 3
    # of a block, which is printed first: qkv, logits, weighted values, proj, fc1, fc2; of patches
    assert results('dot_general') == ['bf16', 'f32', 'bf16', 'bf16', 'bf16', 'bf16', 'bf16']


# Sizes and beginnings


def parameters(d, depth, patch, tokens):
    """By the paper: patches, token, positions, blocks of 12 d d + 13 d, and the last norm."""
    return 3 * patch**2 * d + d + d + tokens * d + depth * (12 * d * d + 13 * d) + 2 * d


@pytest.mark.parametrize(
    ('variant', 'patch', 'published', 'sizes'),
    [
        ('S', 16, 21_665_664, (384, 12, 6)),
        ('B', 16, 85_798_656, (768, 12, 12)),
        ('L', 16, 303_301_632, (1024, 24, 16)),
        ('H', 14, 630_764_800, (1280, 32, 16)),
    ],
)
def test_sizes_are_the_published_ones(variant, patch, published, sizes):
    d, depth, heads = sizes
    tokens = 1 + (224 // patch) ** 2
    params, h = shapes(variant=variant, patch=patch)
    assert count(params) == parameters(d, depth, patch, tokens) == published
    assert h.shape == (2, d)
    assert vit(variant=variant).heads == heads
    assert params['pos_embed'].shape == (1, tokens, d)
    assert params['patch_embed']['kernel'].shape == (patch, patch, 3, d)
    assert params['blocks']['fc1']['kernel'].shape == (depth, d, 4 * d)


def test_options_take_the_place_of_the_variant():
    small = shapes(8, patch=4, width=16, depth=3, heads=2, image_size=8, mlp_ratio=2.0)[0]
    assert small['blocks']['fc1']['kernel'].shape == (3, 16, 32)
    assert small['pos_embed'].shape == (1, 5, 16)
    assert vit(heads=12).heads == 12
    average = shapes(8, patch=4, width=16, depth=3, heads=2, image_size=8, pool='average')[0]
    assert average['pos_embed'].shape == (1, 4, 16)
    assert 'cls_token' not in average
    assert vit(bn_groups=8) == vit()


def test_it_begins_as_moco_v3_says():
    d, p = 48, 4
    network = vit(patch=p, width=d, depth=2, heads=2, image_size=32, token_std=1e-6)
    init = jax.jit(
        lambda: networks.init(Network(network), jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    )
    params = jax.device_get(init()[0]['encoder'])
    blocks = params['blocks']
    limits = [
        (params['patch_embed'], 6 / (3 * p * p + d)),
        (blocks['qkv'], 6 / (d + d)),
        (blocks['proj'], 6 / (d + d)),
        (blocks['fc1'], 6 / (d + 4 * d)),
        (blocks['fc2'], 6 / (d + 4 * d)),
    ]
    for layer, square in limits:
        kernel = layer['kernel'] / np.sqrt(square)
        assert 0.99 < kernel.max() <= 1
        assert -1 <= kernel.min() < -0.99
        assert abs((kernel**2).mean() - 1 / 3) < 0.02  # uniform
        assert not layer['bias'].any()
    assert np.abs(blocks['fc1']['kernel'][0] - blocks['fc1']['kernel'][1]).max() > 0.1
    for layer in (params['norm'], blocks['norm1'], blocks['norm2']):
        assert (layer['scale'] == 1).all()
        assert not layer['bias'].any()
    assert 0.6e-6 < params['cls_token'].std() < 1.4e-6
    assert abs(params['pos_embed'].std() - 0.02) < 0.001


# Problems


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'variant': 'T'}, 'variant=T: a vit has one of S, B, L, H'),
        ({'pool': 'max'}, 'pool=max: token or average'),
        ({'positions': 'none'}, 'positions=none: learned or sincos'),
        ({'activation': 'relu'}, 'activation=relu: gelu or quick_gelu'),
        ({'width': -1}, "width=-1: at least 1, or 0 for the variant's"),
        ({'depth': -1}, "depth=-1: at least 1, or 0 for the variant's"),
        ({'heads': -1}, "heads=-1: at least 1, or 0 for the variant's"),
        ({'heads': 7}, 'heads=7: does not divide a width of 384'),
        ({'width': 32}, 'heads=6: does not divide a width of 32'),
        ({'patch': 0}, 'patch=0: at least 1 pixel'),
        ({'drop_path': 1.0}, 'drop_path=1.0: at least 0 and below 1'),
        ({'drop_path': -0.1}, 'drop_path=-0.1: at least 0 and below 1'),
        ({'mlp_ratio': 0.0}, 'mlp_ratio=0.0: leaves no hidden unit of a width of 384'),
        (
            {'positions': 'sincos', 'width': 6},
            'width=6: sincos positions need a multiple of 4',
        ),
        ({'image_size': 96, 'patch': 14}, 'image_size=96: not a multiple of encoder.patch=14'),
        ({'image_size': 0}, 'image_size=0: not a multiple of encoder.patch=16'),
    ],
)
def test_a_wrong_option_is_a_problem_of_one_line(options, message):
    with pytest.raises(Problem, match=f'^{re.escape("encoder." + message)}$') as problem:
        vit(**options)
    assert problem.value.code == CONFIG


@pytest.mark.parametrize('shape', [(18, 16), (16, 18)])
def test_images_that_patches_do_not_fill_are_a_problem_of_one_line(shape):
    message = f'encoder.patch=4: patches do not fill images of {shape[0]} x {shape[1]} pixels'
    network = Network(vit(**TINY))
    with pytest.raises(Problem) as problem:
        jax.eval_shape(lambda: networks.init(network, jax.random.key(0), jnp.zeros((1, *shape, 3))))
    assert str(problem.value) == message
