"""The online probe learns from any method and changes nothing of it, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax import optimizers, parallel
from clr_jax.encoders.convnet import convnet
from clr_jax.method import Aux, Method
from clr_jax.methods.simclr import simclr
from clr_jax.probe import probed
from clr_jax.train import make_state, make_step
from tests.oracles import assert_close, cross_entropy

B, CLASSES = 16, 3
RUN = {'seed': 0, 'steps_per_epoch': 4, 'total_steps': 100, 'health_every': 100}


def runner(method, optimizer, devices, batch):
    """-> (the step, the state before it)."""
    mesh = parallel.make_mesh(jax.devices()[:devices])
    step = make_step(method, optimizer, mesh, **RUN)
    return lambda ts, batch: step(ts, parallel.spread(batch, mesh)), make_state(
        method, optimizer, mesh, batch, seed=0
    )


# A real method beside its probed self


def images(step):
    rng = np.random.default_rng(step)
    views = tuple(rng.integers(0, 256, (B, 8, 8, 3), dtype=np.uint8) for _ in range(2))
    number = np.arange(B, dtype=np.int32)
    return {'views': views, 'label': number % CLASSES, 'index': number}


def test_the_method_inside_is_the_method_alone_bit_for_bit():
    method = simclr(convnet(widths=(4, 8), dropout=0.2, conv='direct'), projector=(8, 4))
    tx = lambda: optax.adamw(1e-2)
    both = optimizers.each({'method': tx(), 'probe': optax.adam(0.1)})
    step, alone = runner(method, tx(), 2, images(0))
    probed_step, beside = runner(probed(method, CLASSES), both, 2, images(0))
    first = jax.device_get(alone.params)
    for number in range(5):
        batch = images(number)
        alone, metrics = step(alone, batch)
        beside, probed_metrics = probed_step(beside, batch)
        pairs = (
            (alone.params, beside.params['method']),
            (alone.state, beside.state),
            (alone.opt, beside.opt['method']),
        )
        for ours, theirs in pairs:
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        assert metrics['loss'] == probed_metrics['loss']
        assert probed_metrics.keys() - metrics.keys() == {'probe_loss', 'probe_top1'}
    moved = jax.tree.map(lambda a, b: (a != b).any(), first, jax.device_get(alone.params))
    assert all(jax.tree.leaves(moved))  # equal, and not because nothing happened
    assert np.abs(beside.params['probe']['kernel']).max() > 0.1


def test_the_probe_begins_at_zero_and_is_invisible_from_outside():
    method = simclr(convnet(widths=(4, 8)), projector=(8, 4))
    wrapped = probed(method, CLASSES)
    shapes = jax.eval_shape(lambda: wrapped.init(jax.random.key(0), images(0)))
    inner = jax.eval_shape(lambda: method.init(jax.random.key(0), images(0)))
    assert shapes[0]['method'] == inner[0]
    assert shapes[1] == inner[1]
    assert jax.tree.map(lambda x: x.shape, shapes[0]['probe']) == {
        'kernel': (8, CLASSES),
        'bias': (CLASSES,),
    }
    of = lambda f, method, variables: jax.eval_shape(lambda *v: f(method, *v), *variables)
    encoder = lambda method, params, state: method.variables(params, state)
    assert of(encoder, wrapped, shapes) == of(encoder, method, inner)
    features = lambda method, params, state: method.features(params, state, images(0))
    assert of(features, wrapped, shapes) == of(features, method, inner)


# A toy whose features are given


def toy():
    """A method with one parameter, whose features are the views themselves."""

    def init(key, batch, pretrained=None):
        return {'w': jnp.ones(())}, {}

    def loss(params, state, batch, *, key, time):
        h = jnp.stack(batch['views'], 1)
        return params['w'] ** 2 + 0 * h.mean(), Aux(
            state, {'of the method': h.mean()}, params['w'] * h, h
        )

    return Method(init, loss, lambda params, state, batch: {'h': batch['views'][0]})


def separable(labels):
    """Features [B, 5] of which the label decides the place of the largest; two views."""
    rng = np.random.default_rng(0)
    views = tuple(
        (np.eye(5)[labels] + 0.1 * rng.normal(size=(len(labels), 5))).astype(np.float32)
        for _ in range(2)
    )
    return {'views': views, 'label': np.asarray(labels, np.int32), 'index': np.arange(len(labels))}


def test_accuracy_rises_where_classes_are_separable():
    batch = separable(np.arange(B) % CLASSES)
    frozen = optimizers.each({'method': optax.set_to_zero(), 'probe': optax.adam(0.1)})
    step, ts = runner(probed(toy(), CLASSES), frozen, 2, batch)
    history = []
    for _ in range(20):
        ts, metrics = step(ts, batch)
        history.append(
            {name: float(metrics[name]) for name in ('probe_loss', 'probe_top1', 'loss')}
        )
    assert history[0]['probe_top1'] == np.mean(
        batch['label'] == 0
    )  # zeros: every answer is class 0
    assert_close(history[0]['probe_loss'], np.log(CLASSES), 1e-6)
    assert history[-1]['probe_top1'] == 1
    assert history[-1]['probe_loss'] < 0.5 * history[0]['probe_loss']
    assert {row['loss'] for row in history} == {1.0}  # the method's, without the probe's


def expected(batch, kernel, bias):
    """Loss, accuracy and gradients of the probe: means over the views of the labelled examples."""
    pairs = [
        (view[n], label)
        for view in batch['views']
        for n, label in enumerate(batch['label'])
        if label >= 0
    ]
    losses, right, of_kernel, of_bias = [], [], [], []
    for h, label in pairs:
        logits = h.astype(np.float64) @ kernel + bias
        losses.append(cross_entropy(logits, label))
        right.append(logits.argmax() == label)
        error = np.exp(logits) / np.exp(logits).sum() - np.eye(CLASSES)[label]
        of_kernel.append(np.outer(h, error))
        of_bias.append(error)
    return [np.mean(values, 0) for values in (losses, right, of_kernel, of_bias)]


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_examples_without_a_label_do_not_count(devices):
    """They lie unevenly: with 2 or 8 devices, some hold known labels only and some none."""
    labels = np.arange(B) % CLASSES
    batch = separable(labels)
    batch['label'][[1, 6, 7, 8, 9, 10, 12, 15]] = -1
    descent = optimizers.each({'method': optax.set_to_zero(), 'probe': optax.sgd(1.0)})
    step, ts = runner(probed(toy(), CLASSES), descent, devices, batch)
    for _ in range(2):
        before = jax.device_get(ts.params['probe'])
        ts, metrics = step(ts, batch)
        after = jax.device_get(ts.params['probe'])
        loss, top1, of_kernel, of_bias = expected(batch, before['kernel'], before['bias'])
        assert_close(metrics['probe_loss'], loss)
        assert_close(metrics['probe_top1'], top1)
        assert_close(before['kernel'] - after['kernel'], of_kernel)
        assert_close(before['bias'] - after['bias'], of_bias)
    unlabelled = batch | {'label': np.full(B, -1, np.int32)}
    before = jax.device_get(ts.params['probe'])
    ts, metrics = step(ts, unlabelled)
    assert metrics['probe_loss'] == metrics['probe_top1'] == 0
    jax.tree.map(np.testing.assert_array_equal, before, ts.params['probe'])


def test_no_gradient_of_the_probe_reaches_the_method():
    """The toy's features are w times the views: only its own loss, w^2, may move w."""
    batch = separable(np.arange(B) % CLASSES)
    descent = optimizers.each({'method': optax.sgd(0.25), 'probe': optax.sgd(1.0)})
    step, ts = runner(probed(toy(), CLASSES), descent, 2, batch)
    for number in range(1, 4):
        ts, _ = step(ts, batch)
        assert ts.params['method']['w'] == 0.5**number
