"""The claims of DINO: every crop predicts what the teacher says of a large one; its logits are centred
and sharpened, and without either it collapses, and the metrics say so."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import erf

from clr_jax import optimizers
from clr_jax.encoders.vit import attention_maps, vit
from clr_jax.entry import Problem
from clr_jax.method import Time
from clr_jax.methods.dino import dino
from clr_jax.networks import Dropout
from tests.conftest import config
from tests.methods.tiny import BATCH, Linear, batch, close, now, outcome, start, train

K, SMALL = 7, 2


def build(encoder=None, **settings):
    shape = {'projector': (5, 5, 4), 'prototypes': K, 'momentum': 0.9}
    return dino(encoder or Linear(), **shape | settings)


def begin(method, seed=0):
    """Parameters that are not the teacher's, and a centre."""
    params, state = start(method, small=SMALL)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape), params)
    return params, state._replace(centre=rng.normal(size=K) / 5)


# The paper's equations, in NumPy, for complex parameters too: their derivative is a step along i.


def logits(p, x):
    """What `build`'s network says of x [n, s, s, 3] -> [n, K]."""
    x = np.repeat(np.repeat(x, 4 // x.shape[1], 1), 4 // x.shape[2], 2).reshape(len(x), -1)
    dense = lambda x, layer: x @ layer['kernel'] + layer['bias']
    x = dense(x, p['encoder']['Dense_0'])
    for n in (1, 2):
        x = dense(x, p['projector'][f'dense{n}'])
        x = x / 2 * (1 + erf(x / math.sqrt(2)))
    x = dense(x, p['projector']['dense3'])
    x = x / np.sqrt((x**2).sum(1, keepdims=True))
    kernel = p['predictor']['kernel']
    return x @ (kernel / np.sqrt((kernel**2).sum(0)))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def expected(params, state, data, own=0.04, student=0.1, centre=None):
    """(loss, teacher's entropy): algorithm 1, pair by pair and example by example."""
    centre = state.centre if centre is None else centre
    s, t = ([logits(p, x) for x in data['views']] for p in (params, state.target))
    losses, entropies = [], []
    for i in (0, 1):
        for b in range(BATCH):
            target = softmax((t[i][b] - centre) / own)
            entropies.append(-(target * np.log(target)).sum())
            for j in range(len(s)):
                if j != i:
                    losses.append(-(target * np.log(softmax(s[j][b] / student))).sum())
    return np.mean(losses), np.mean(entropies)


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('small', [0, SMALL])
def test_the_loss_is_the_mean_cross_entropy_of_all_pairs_but_a_crop_and_itself(
    float64, devices, small
):
    params, state = begin(build())
    data = batch(small=small)
    out = outcome(build(), params, state, data, devices)
    value, entropy = expected(params, state, data)
    np.testing.assert_allclose(out.loss, value, rtol=1e-12)
    np.testing.assert_allclose(out.metrics['teacher_entropy'], entropy, rtol=1e-12)
    np.testing.assert_allclose(out.metrics['kl'], value - entropy, rtol=1e-11)
    assert out.z.shape == (BATCH, 2, 4)  # of the large crops
    np.testing.assert_allclose(np.linalg.norm(out.z, axis=-1), 1, rtol=1e-12)


@pytest.mark.parametrize('devices', [1, 8])
def test_its_gradient_is_that_of_the_equation_and_none_is_the_teachers(float64, devices):
    params, state = begin(build())
    data = batch(small=SMALL)
    out = outcome(build(), params, state, data, devices)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    for n, (leaf, grad) in enumerate(zip(leaves, jax.tree.leaves(out.grads), strict=True)):
        along = rng.normal(size=leaf.shape)
        moved = jax.tree.unflatten(tree, [*leaves[:n], leaf + 1e-30j * along, *leaves[n + 1 :]])
        slope = expected(moved, state, data)[0].imag / 1e-30
        assert abs(slope) > 1e-6
        np.testing.assert_allclose((grad * along).sum(), slope, rtol=1e-9)

    value = lambda state: build().loss(params, state, data, key=jax.random.key(0), time=now())[0]
    for grad in jax.tree.leaves(jax.jit(jax.grad(value))(state)):
        assert not np.asarray(grad).any()


def test_centre_and_teacher_are_averages_over_time_and_the_loss_sees_the_centre_before(float64):
    method = build(centre_momentum=0.8)
    params, state = start(method, small=SMALL)
    assert not state.centre.any()
    close(state.target, params, 0)  # a copy
    batches = [batch(seed=n, small=SMALL) for n in range(3)]
    before = params, state
    for n, (data, after) in enumerate(
        zip(batches, train(method, params, state, batches), strict=True), 1
    ):
        params, state = before
        np.testing.assert_allclose(after[2].loss, expected(params, state, data)[0], rtol=1e-11)
        said = np.concatenate([logits(state.target, x) for x in data['views'][:2]])
        np.testing.assert_allclose(
            after[1].centre, 0.8 * state.centre + 0.2 * said.mean(0), rtol=1e-10
        )
        m = 1 - 0.1 * (np.cos(np.pi * n / 3) + 1) / 2
        close(
            after[1].target, jax.tree.map(lambda t, p: m * t + (1 - m) * p, state.target, after[0])
        )
        before = after[:2]
    assert np.abs(state.centre).max() > 0.01


def test_the_teachers_temperature_rises_by_the_epoch(float64):
    """np.linspace over the first epochs, then constant."""
    warm = {'warmup_temperature': 0.04, 'teacher_temperature': 0.07}
    data = batch(small=SMALL)
    for epochs, values in ((0, [0.07] * 3), (1, [0.04, 0.07]), (4, [0.04, 0.05, 0.06, 0.07, 0.07])):
        method = build(**warm, warmup_epochs=epochs)
        params, state = begin(method)

        @jax.jit
        def loss(epoch, params=params, state=state, method=method):
            time = Time(jnp.int32(1000), epoch, jnp.float64(0.3))
            return method.loss(params, state, data, key=jax.random.key(0), time=time)[0]

        for epoch, value in enumerate(values):
            right = expected(params, state, data, value)[0]
            np.testing.assert_allclose(loss(jnp.int32(epoch)), right, rtol=1e-11)


def test_without_centring_the_centre_stays_zero(float64):
    method = build(centring=False)
    params, state = start(method, small=SMALL)
    out = outcome(method, params, state, batch(small=SMALL), 2)
    assert not out.state.centre.any()


def test_what_it_keeps_is_the_teacher(float64):
    method = build(Linear(groups=1))
    params, state = start(method, small=SMALL)
    params = jax.tree.map(lambda p: p + 1.0, params)
    data = batch(small=SMALL)
    out = outcome(method, params, state, data, 2)
    dense = state.target['encoder']['Dense_0']
    rows = np.concatenate([x.reshape(BATCH, -1) for x in data['views'][:2]])
    told = rows @ dense['kernel'] + dense['bias']  # both large crops in one pass, in training mode
    stats = out.state.target_stats['encoder']['BatchNorm_0']
    np.testing.assert_allclose(stats['mean'], 0.1 * told.mean(0), rtol=1e-11)
    np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * told.var(0), rtol=1e-11)
    student, means = params['encoder']['Dense_0'], []
    for views in (data['views'][:2], data['views'][2:]):  # a pass for each resolution
        rows = np.concatenate([x.repeat(4 // x.shape[1], 1) for x in views])
        rows = rows.repeat(4 // rows.shape[2], 2).reshape(len(rows), -1)
        means.append((rows @ student['kernel'] + student['bias']).mean(0))
    own = out.state.stats['encoder']['BatchNorm_0']
    np.testing.assert_allclose(own['mean'], 0.09 * means[0] + 0.1 * means[1], rtol=1e-11)
    variables = method.variables(params, out.state)
    close(variables, {'params': out.state.target, 'batch_stats': out.state.target_stats}, 0)
    seen = method.features(params, out.state, data)
    h = data['views'][0].reshape(BATCH, -1) @ dense['kernel'] + dense['bias'] - stats['mean']
    h = h / np.sqrt(stats['var'] + 1e-5)
    np.testing.assert_allclose(seen['h'], h, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(seen['z'], axis=1), 1, rtol=1e-9)


def test_branches_are_left_out_of_the_student_alone(float64):
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, rows):
            return Dropout(0.5)(Linear()(x, rows), rows)

    method, data = build(Dropped()), batch(small=SMALL)
    params, state = start(method, small=SMALL)

    def told(seed):
        key = jax.random.key(seed)
        value, aux = method.loss(params, state, data, key=key, time=now())
        return float(value), np.asarray(aux.state.centre)

    (loss, centre), (other, same) = told(0), told(1)
    assert abs(loss - other) > 1e-3
    np.testing.assert_array_equal(centre, same)
    teacher = state.target | {'encoder': state.target['encoder']['Linear_0']}
    said = np.concatenate([logits(teacher, x) for x in data['views'][:2]])
    np.testing.assert_allclose(centre, 0.1 * said.mean(0), rtol=1e-10)


def test_the_last_layer_has_columns_of_length_one_or_learns_their_lengths():
    for fixed, parameters in ((True, {'kernel'}), (False, {'kernel', 'length'})):
        params, _ = start(build(norm_last_layer=fixed), small=SMALL)
        assert params['predictor'].keys() == parameters
    assert params['predictor']['kernel'].shape == (4, K)
    assert params['projector'].keys() == {'dense1', 'dense2', 'dense3'}
    params, state = start(build(projector_norm='full'), small=SMALL)
    assert params['projector'].keys() == {'dense1', 'bn1', 'dense2', 'bn2', 'dense3'}
    assert state.stats['projector'].keys() == {'bn1', 'bn2'}


@pytest.mark.parametrize('name', ['dino_imagenet', 'dino_resnet_imagenet', 'dino_cifar10_small'])
def test_in_the_first_epoch_the_last_layer_is_frozen_and_each_tensor_is_clipped_by_itself(name):
    of = config(name).to_dict()
    first = of['groups']['last_layer']['freeze_until']
    if 'imagenet' in name:
        assert first == 1281167 // of['batch_size']
    groups = of['groups'] | {'last_layer': of['groups']['last_layer'] | {'freeze_until': 2}}
    assert groups['all']['clip'] == 3
    constant = {'name': 'constant', 'warmup_epochs': 0.0}
    section = {'name': 'sgd', 'learning_rate': 1.0, 'weight_decay': 0.0, 'schedule': constant}
    pace = {'batch_size': 256, 'steps_per_epoch': 2, 'total_steps': 4}
    tx = optimizers.optimizer(section | {'momentum': 0.0}, groups, **pace)
    params, _ = start(build(norm_last_layer=False), small=SMALL)
    params = jax.tree.map(jnp.float32, params)
    opt, grads = tx.init(params), jax.tree.map(lambda p: 100 * jnp.ones_like(p), params)
    for step in range(4):
        updates, opt = tx.update(grads, opt, params)
        for part, tree in updates.items():
            moved = 0 if part == 'predictor' and step < 2 else 3
            for leaf in jax.tree.leaves(tree):
                np.testing.assert_allclose(optax.tree.norm(leaf), moved, rtol=1e-5)


# Collapse, section 5.3 and figure 7.


def test_it_collapses_without_centring_or_sharpening_and_the_metrics_say_so(float64):
    """To one prototype without centring, to all alike without sharpening."""

    def after(**settings):
        shape = {'projector': (16, 8), 'prototypes': 16, 'momentum': 0.8}
        method = dino(Linear(groups=1), **shape | settings)
        batches = [batch(seed=n % 8, small=SMALL) for n in range(80)]
        *_, (_, _, out) = train(method, *start(method, small=SMALL), batches, 0.5, devices=1)
        return out.metrics['teacher_entropy'], out.metrics['kl']

    flat = {'teacher_temperature': 1.0, 'warmup_temperature': 1.0}
    (alive, tells), (one, nothing), (all_alike, as_little) = (
        after(**settings) for settings in ({}, {'centring': False}, flat)
    )
    assert one < 0.01 < 0.5 < alive < 2.2 < math.log(16) - 0.01 < all_alike
    assert max(nothing, as_little) < 0.02 < 0.3 < tells


# What the teacher looks at.

SHAPE = {'patch': 4, 'image_size': 16, 'width': 12, 'depth': 1, 'heads': 3}


def test_pictures_are_the_picture_and_what_each_head_looks_at():
    encoder = vit(**SHAPE, drop_path=0.5)
    method = build(encoder)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 8, 3), np.uint8)
    params, state = jax.jit(method.init)(jax.random.key(0), {'views': (images, images)})
    params = jax.tree.map(lambda p: p + 1, params)  # the student's are not looked at
    pictures = method.pictures(params, state, {'views': (images,)}, key=jax.random.key(0))
    assert pictures.keys() == {'attention'}
    rows = np.asarray(pictures['attention'])
    assert rows.shape == (2, 1 + 3, 16, 8, 3)
    np.testing.assert_allclose(rows[:, 0], images / 255, atol=1e-6)
    maps = np.asarray(attention_maps(encoder, state.target['encoder'], np.float32(images / 255)))
    for n in range(2):
        for head in range(3):
            expected = np.kron(maps[n, head] / maps[n, head].max(), np.ones((4, 4)))
            for channel in range(3):
                np.testing.assert_allclose(rows[n, 1 + head, ..., channel], expected, atol=1e-6)
    np.testing.assert_allclose(rows[:, 1:].max((2, 3, 4)), np.ones((2, 3)), rtol=1e-6)


def test_without_a_class_token_there_is_nothing_to_show():
    assert build(vit(**SHAPE)).pictures
    assert build(vit(**SHAPE, pool='average')).pictures is None
    assert build().pictures is None


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'temperature': 0.0}, 'temperature=0.0: must be above 0'),
        ({'teacher_temperature': -1.0}, 'teacher_temperature=-1.0: must be above 0'),
        ({'warmup_temperature': 0.0}, 'warmup_temperature=0.0: must be above 0'),
        ({'warmup_epochs': -1}, 'warmup_epochs=-1: at least 0'),
    ],
)
def test_a_wrong_setting_is_a_problem_of_one_line(settings, message):
    with pytest.raises(Problem, match=f'^{re.escape("config.method." + message)}$'):
        build(**settings)


def test_one_view_is_too_few():
    with pytest.raises(Problem, match='the method takes 2 views of an example or more'):
        build().init(jax.random.key(0), batch(1))
