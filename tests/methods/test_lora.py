"""LoRA: only the matrices of low rank and the classifier are trained, what is merged is what was
trained, and the encoder without them is what it was."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax import networks, optimizers, parallel
from clr_jax.encoders.convnet import convnet
from clr_jax.encoders.vit import vit
from clr_jax.entry import CONFIG, Problem
from clr_jax.evaluate.features import Features
from clr_jax.evaluate.knn import Knn, knn
from clr_jax.method import load, make_time
from clr_jax.methods.lora import lora
from clr_jax.train import make_state, make_step
from tests import oracles
from tests.steps import double

B, CLASSES, SIZE = 16, 3, 8
NOW = make_time(jnp.zeros((), jnp.int32), 1, 1)
CONVNET = {'widths': (4, 8), 'dropout': 0.5, 'conv': 'direct'}
VIT = {'width': 8, 'depth': 2, 'heads': 2, 'patch': 4, 'image_size': SIZE, 'drop_path': 0.5}
RANK = {'rank': 2, 'alpha': 6.0}


def encoder(name):
    return {'convnet': convnet, 'vit': vit}[name](**{'convnet': CONVNET, 'vit': VIT}[name])


def batch() -> dict:
    rng = np.random.default_rng(0)
    views = tuple(rng.random((B, SIZE, SIZE, 3)) for _ in range(2))
    number = np.arange(B, dtype=np.int32)
    return {'views': views, 'label': number % CLASSES, 'index': number}


def begin(method, pretrained=None):
    return jax.jit(method.init)(jax.random.key(1), batch(), pretrained)


def trained(tree, seed=3):
    """Parameters of the same shapes, none of them zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape), tree)


def descend(method, optimizer, ts, batches, devices=2, health_every=100):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    pace = {'seed': 0, 'steps_per_epoch': 4, 'total_steps': 1000, 'health_every': health_every}
    step = make_step(method, optimizer, mesh, **pace)
    ts = jax.device_put(ts, parallel.replicated(mesh))
    for one in batches:
        ts, metrics = step(ts, parallel.spread(one, mesh))
    return jax.device_get((ts, metrics))


@pytest.mark.parametrize('name', ['convnet', 'vit'])
def test_only_what_is_added_is_trained(name):
    """In the real step: everything of the frozen encoder stays to the last bit."""
    method, optimizer = lora(encoder(name), CLASSES, **RANK), optax.adam(1e-2)
    ts = jax.device_get(make_state(method, optimizer, parallel.make_mesh(), batch(), seed=0))
    assert ts.params.keys() == {'adapters', 'predictor'}
    after, _ = descend(method, optimizer, ts, [batch()] * 4)
    jax.tree.map(np.testing.assert_array_equal, after.state, ts.state)
    moved = jax.tree.map(lambda a, b: (a != b).any(), after.params, ts.params)
    assert all(jax.tree.leaves(moved))
    names = {path.split('/')[-2] for path in ts.params['adapters']}
    assert names == {'convnet': {'conv1', 'conv2'}, 'vit': {'qkv', 'proj', 'fc1', 'fc2'}}[name]


def test_the_number_of_trained_parameters():
    shapes = lambda name: jax.eval_shape(lambda: begin(lora(encoder(name), CLASSES, rank=3)))
    params, state = shapes('vit')
    layers = [(8, 24), (8, 8), (8, 32), (32, 8)]  # qkv, proj, fc1, fc2
    adapters = sum(2 * 3 * (rows + columns) for rows, columns in layers)  # of two blocks
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert count(params['adapters']) == adapters
    assert count(params['predictor']) == 8 * CLASSES + CLASSES
    assert count(params['adapters']) < count(state.encoder)
    params, _ = shapes('convnet')
    assert count(params['adapters']) == 3 * (27 + 4) + 3 * (36 + 8)


def test_a_is_uniform_and_b_zero():
    """Kaiming's uniform with a slope of sqrt 5 is U(-1 / sqrt(in), 1 / sqrt(in))."""
    wide = vit(width=64, depth=2, heads=2, patch=4, image_size=SIZE)
    for made, inputs in ((convnet(widths=(64,)), 27), (wide, 64)):
        params, _ = begin(lora(made, CLASSES, rank=16))
        path = 'blocks/qkv/kernel' if inputs == 64 else 'conv1/kernel'
        pair = params['adapters'][path]
        assert not np.any(pair['b'])
        bound, a = inputs**-0.5, np.asarray(pair['a']).ravel()
        assert a.size >= 400
        assert 0.98 * bound < np.abs(a).max() <= bound
        np.testing.assert_allclose(a.std(), bound / np.sqrt(3), rtol=0.1)
        assert abs(a.mean()) < bound / 5
    pairs = [pair['a'] for pair in params['adapters'].values()]
    assert len({float(np.ravel(a)[0] * a.shape[-2] ** 0.5) for a in pairs}) == len(pairs) == 4


@pytest.mark.parametrize('name', ['convnet', 'vit'])
def test_at_first_it_is_the_encoder_itself(name, float64):
    """That of `pretrained`, in evaluation mode: also in training, on statistics that do not move."""
    own = encoder(name)
    network = networks.Network(own)
    x = batch()['views'][0]
    params, stats = jax.eval_shape(lambda: networks.init(network, jax.random.key(7), x))
    params = trained(params)
    stats = jax.tree.map(lambda x: 1 + x**2, trained(stats, 4))
    method = lora(own, CLASSES, **RANK)
    pretrained = {'params': params, 'batch_stats': stats}
    adapted, state = begin(method, pretrained)
    base = jax.jit(lambda *v: networks.evaluate(network, *v, x).h)(params, stats)
    training = jax.jit(lambda *v: method.loss(*v, key=jax.random.key(2), time=NOW))
    _, aux = training(adapted, state, batch())
    np.testing.assert_allclose(aux.h[:, 0], base, rtol=1e-12)
    out = jax.jit(method.features)(adapted, state, batch())
    np.testing.assert_allclose(out['h'], base, rtol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, aux.state, state)


def test_convolutions_and_dense_layers_as_the_paper_adds_them(float64):
    """h = W x + alpha / r B A x, in loops: the second layer of the convnet, the last dense one of
    each block of the ViT."""
    shapes = {'conv2/kernel': (3, 3, 4, 8), 'blocks/fc2/kernel': (2, 32, 8)}
    for name, (path, shape) in zip(('convnet', 'vit'), shapes.items(), strict=True):
        method = lora(encoder(name), CLASSES, **RANK)
        params, state = begin(method)
        params = trained(params)
        merged = jax.jit(method.variables)(params, state)['params']['encoder']
        layer, kind = path.split('/')[-2:]
        w = state.encoder['blocks'][layer][kind] if name == 'vit' else state.encoder[layer][kind]
        new = merged['blocks'][layer][kind] if name == 'vit' else merged[layer][kind]
        a, b = (np.asarray(params['adapters'][path][k]) for k in 'ab')
        expected = np.array(w, np.float64)
        assert expected.shape == shape
        for place in np.ndindex(shape):
            for r in range(2):
                if name == 'vit':
                    depth, i, o = place
                    add = a[depth, i, r] * b[depth, r, o]
                else:
                    y, x, i, o = place
                    add = a[(y * 3 + x) * 4 + i, r] * b[r, o]
                expected[place] += 6.0 / 2 * add
        np.testing.assert_allclose(new, expected, rtol=1e-12, atol=1e-14)
        untouched = {'convnet': ('bn2', 'scale'), 'vit': ('norm', 'scale')}[name]
        np.testing.assert_array_equal(
            merged[untouched[0]][untouched[1]], state.encoder[untouched[0]][untouched[1]]
        )


@pytest.mark.parametrize('name', ['convnet', 'vit'])
def test_what_is_merged_is_what_was_trained(name, float64):
    """The variables alone, in a network that knows nothing of LoRA."""
    own = encoder(name)
    method = lora(own, CLASSES, **RANK)
    params, state = begin(method)
    params, state = trained(params), double(state)
    v = jax.jit(method.variables)(params, state)
    assert v['params'].keys() == {'encoder', 'predictor'}
    alone = lambda v: networks.evaluate(networks.Network(own), *v, batch()['views'][0]).h
    encoder_only = networks.select(v, ('encoder',))
    h = jax.jit(alone)((encoder_only['params'], encoder_only['batch_stats']))
    out = jax.jit(method.features)(params, state, batch())
    np.testing.assert_allclose(out['h'], h, rtol=1e-12, atol=1e-12)
    head = v['params']['predictor']
    logits = np.asarray(h) @ head['kernel'] + head['bias']
    np.testing.assert_allclose(out['logits'], logits, rtol=1e-12, atol=1e-12)
    before = jax.jit(alone)(({'encoder': state.encoder}, state.stats))
    assert np.abs(h - before).max() > 1e-2


def test_the_gradient_is_that_of_the_loss(float64):
    """By central differences, of every trained parameter; with the labels of the global batch."""
    small = convnet(widths=(2,), conv='direct')
    method = lora(small, 2, rank=1)
    label = np.array([0, 1, -1, 1], np.int32)
    few = {'views': (batch()['views'][0][:4, :4, :4],), 'label': label, 'index': label}
    params, state = method.init(jax.random.key(1), few)
    params = trained(params)
    flat, tree = jax.tree.flatten(params)
    loss = jax.jit(lambda p: method.loss(p, state, few, key=None, time=NOW)[0])
    logits = method.features(params, state, few)['logits']
    each = [
        oracles.cross_entropy(np.asarray(x), y)
        for x, y in zip(logits, label, strict=True)
        if y >= 0
    ]
    np.testing.assert_allclose(loss(params), np.mean(each), rtol=1e-12)
    slopes = oracles.gradient(lambda *f: float(loss(jax.tree.unflatten(tree, f))), *flat)
    for found, slope in zip(jax.tree.leaves(jax.grad(loss)(params)), slopes, strict=True):
        oracles.assert_close(found, slope, 1e-6)


def stripes(classes, angles, n, seed):
    """Images of stripes at the class's angle and any phase, in noise."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % classes
    y, x = np.indices((SIZE, SIZE)) / SIZE
    angle = np.asarray(angles)[label][:, None, None]
    phase = rng.random((n, 1, 1))
    wave = np.sin(2 * np.pi * (2 * (x * np.cos(angle) + y * np.sin(angle)) + phase))
    image = 0.5 + 0.25 * wave[..., None] + 0.15 * rng.normal(size=(n, SIZE, SIZE, 3))
    return {
        'views': (image.astype(np.float32),),
        'label': label.astype(np.int32),
        'index': np.arange(n, dtype=np.int32),
    }


def test_a_new_task_is_learned_and_the_old_one_not_forgotten():
    """Task A: by the frozen features, whose accuracy is the same to the bit after task B, which a
    classifier on those features learns less well."""
    old, new = (0.0, 0.8, 1.6, 2.4), (0.0, 0.4, 0.8, 1.2)  # angles of the classes
    train_a, test_a = (stripes(4, old, 64, seed) for seed in (0, 1))
    train_b, test_b = (stripes(4, new, n, seed) for n, seed in ((128, 2), (128, 3)))
    own = convnet(widths=(8, 16), conv='direct')
    network = networks.Network(own)
    encode = jax.jit(lambda *v: networks.evaluate(network, *v[:2], v[2]['views'][0]).h)

    def on_a(params, stats):
        of = lambda data: Features(np.asarray(encode(params, stats, data)), data['label'])
        return knn(Knn(k=5), of(train_a), of(test_a), 4)['top1']

    def on_b(frozen):
        method = lora(own, 4, rank=4)
        groups = {'adapters': {'pattern': '^adapters/', 'frozen': True}} if frozen else {}
        section = {'name': 'adamw', 'learning_rate': 0.03, 'weight_decay': 0.0}
        pace = {'batch_size': 128, 'steps_per_epoch': 10, 'total_steps': 60}
        optimizer = optimizers.optimizer(section, groups, **pace)
        ts = jax.device_get(make_state(method, optimizer, parallel.make_mesh(), train_b, seed=0))
        after, _ = descend(method, optimizer, ts, [train_b] * 60)
        logits = jax.jit(method.features)(after.params, after.state, test_b)['logits']
        return ts, after, float((np.asarray(logits).argmax(-1) == test_b['label']).mean())

    before, after, adapted = on_b(frozen=False)
    accuracy = on_a({'encoder': before.state.encoder}, before.state.stats)
    assert accuracy > 0.4
    assert on_a({'encoder': after.state.encoder}, after.state.stats) == accuracy
    *_, linear = on_b(frozen=True)
    assert adapted > linear + 0.1, (adapted, linear)


@pytest.mark.parametrize(
    ('settings', 'classes', 'words'),
    [
        ({}, 0, ('config.method.name=lora', 'labels')),
        ({'rank': 0}, 3, ('config.method.rank=0',)),
        ({'label_smoothing': 1.0}, 3, ('config.method.label_smoothing=1.0',)),
        ({'targets': '(qkv'}, 3, ("config.method.targets='(qkv'",)),
    ],
)
def test_a_wrong_setting_is_named(settings, classes, words):
    section = {'name': 'lora', **settings}
    with pytest.raises(Problem) as raised:
        load('clr_jax.methods', section, encoder=encoder('vit'), classes=classes)
    assert raised.value.code == CONFIG
    assert all(word in str(raised.value) for word in words), raised.value


def test_targets_that_match_nothing_are_answered_with_what_there_is():
    method = lora(encoder('convnet'), CLASSES, targets='qkv/kernel$')
    with pytest.raises(Problem) as raised:
        method.init(jax.random.key(0), batch())
    assert raised.value.code == CONFIG
    for word in ("config.method.targets='qkv/kernel$'", 'conv1/kernel', 'bn1/bias'):
        assert word in str(raised.value)
