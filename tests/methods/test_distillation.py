"""Distillation: a student of any size comes to say what its teacher says, which never changes."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax import parallel
from clr_jax.encoders.convnet import convnet
from clr_jax.entry import CONFIG, Problem
from clr_jax.method import Method, load, make_time
from clr_jax.methods.distillation import distillation
from clr_jax.methods.finetune import finetune
from clr_jax.methods.simclr import simclr
from clr_jax.probe import probed
from clr_jax.train import make_state, make_step
from tests import oracles
from tests.steps import double

B, CLASSES = 16, 3
NOW = make_time(jnp.zeros((), jnp.int32), 1, 1)
PACE = {'seed': 0, 'steps_per_epoch': 4, 'total_steps': 1000, 'health_every': 1000}


class Linear(nn.Module):
    """The least encoder: [n, 4, 4, 3] -> [n, 4]."""

    @nn.compact
    def __call__(self, x, rows):
        return nn.Dense(4, use_bias=False, dtype=x.dtype)(x.reshape(len(x), -1))


def batch(views=2) -> dict:
    rng = np.random.default_rng(0)
    light = rng.random((B, 1, 1, 3))  # of each image, so that a teacher tells them apart
    images = tuple(light * rng.random((B, 4, 4, 3)) for _ in range(views))
    number = np.arange(B, dtype=np.int32)
    return {'views': images, 'label': np.full(B, -1, np.int32), 'index': number}


def big() -> Method:
    """A teacher: a convnet with a layer of a projector, and the probe of its run around it."""
    encoder = convnet(widths=(4, 8), conv='direct')
    return probed(finetune(encoder, CLASSES, projector=(6, 5), head_layers=1), CLASSES)


@cache
def taught():
    """Parameters and state of a teacher that was trained, in NumPy: its logits differ by image."""
    with jax.enable_x64(True):
        params, state = jax.jit(big().init)(jax.random.key(3), batch())
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
        state = jax.tree.map(lambda x: rng.random(x.shape), state)
        logits = big().features(params, state, batch())['logits']
        params['method']['predictor']['bias'] -= np.mean(logits, 0)  # no class is always the answer
        return params, state


@cache
def answers(number):
    """The teacher's logits of a view, in evaluation mode."""
    view = batch()['views'][number]
    return jax.device_get(big().features(*taught(), batch() | {'views': (view,)})['logits'])


def given() -> dict:
    return {'params': {}, 'batch_stats': {}, 'teacher': taught()}


def expected(params, temperature):
    """The student in NumPy, linear throughout, and eq. 2 row by row."""
    total = 0.0
    for number, view in enumerate(batch()['views']):
        logits = view.reshape(B, -1) @ params['encoder']['Dense_0']['kernel']
        logits = logits @ params['predictor']['kernel'] + params['predictor']['bias']
        for s, t in zip(logits / temperature, answers(number) / temperature, strict=True):
            target = np.exp(t - t.max()) / np.exp(t - t.max()).sum()
            total += sum(target[y] * oracles.cross_entropy(s, y) for y in range(CLASSES))
    return total / (2 * B)


def kernel(params):
    return params['predictor']['kernel']


def with_kernel(params, kernel):
    return params | {'predictor': params['predictor'] | {'kernel': kernel}}


@pytest.mark.parametrize(('constant', 'factor'), [('paper', 1.0), ('official', 4.0)])
@pytest.mark.parametrize('devices', [1, 8])
def test_a_step_is_one_of_descent_on_equation_2(devices, constant, factor, float64):
    """On every view of every example, at a temperature of 2; labels there are none."""
    method = distillation(Linear(), CLASSES, big(), temperature=2.0, constant=constant)
    optimizer, mesh = optax.sgd(0.1), parallel.make_mesh(jax.devices()[:devices])
    ts = double(make_state(method, optimizer, mesh, batch(), seed=0, pretrained=given()))
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), ts.params)
    ts = jax.device_put(ts._replace(params=params), parallel.replicated(mesh))
    after, metrics = make_step(method, optimizer, mesh, **PACE)(ts, parallel.spread(batch(), mesh))
    np.testing.assert_allclose(metrics['loss'], factor * expected(params, 2.0), rtol=1e-10)
    (slope,) = oracles.gradient(lambda k: expected(with_kernel(params, k), 2.0), kernel(params))
    moved = kernel(jax.device_get(after.params)) - kernel(params)
    oracles.assert_close(moved, -0.1 * factor * slope, 1e-6)
    same = []
    for number, view in enumerate(batch()['views']):
        own = method.features(params, after.state, {'views': (view,)})['logits']
        same.append(np.argmax(own, -1) == answers(number).argmax(-1))
    np.testing.assert_allclose(metrics['agreement'], np.mean(same), rtol=1e-12)
    assert 0 < np.mean(same) < 0.9


def test_a_small_student_learns_to_agree_and_the_teacher_stays_as_it_was(float64):
    """Other encoder, other width; the teacher, its statistics and its probe do not change a bit."""
    method = distillation(convnet(widths=(8,), conv='direct'), CLASSES, big(), temperature=1.0)
    optimizer, mesh = optax.adam(0.05), parallel.make_mesh(jax.devices()[:2])
    ts = double(make_state(method, optimizer, mesh, batch(), seed=0, pretrained=given()))
    ts = jax.device_put(ts, parallel.replicated(mesh))
    step, history = make_step(method, optimizer, mesh, **PACE), []
    for _ in range(40):
        ts, metrics = step(ts, parallel.spread(batch(), mesh))
        history.append(jax.device_get(metrics))
    assert history[0]['agreement'] < 0.8
    assert history[-1]['agreement'] > history[0]['agreement'] + 0.15
    assert history[-1]['loss'] < history[0]['loss']
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ts.state.teacher), taught())
    stats = method.variables(ts.params, ts.state)['batch_stats']
    assert stats['encoder']['bn1']['mean'].shape == (8,)  # the student's own, and they move
    assert np.abs(stats['encoder']['bn1']['mean']).max() > 1e-3


def test_the_students_parts_are_those_of_finetune():
    settings = {'projector': (6, 5), 'head_layers': 1}
    encoder = convnet(widths=(8,))
    method = distillation(encoder, CLASSES, big(), **settings)
    shapes = lambda m: jax.eval_shape(lambda: m.init(jax.random.key(0), batch(1)))
    params, state = shapes(method)
    other, stats = shapes(finetune(encoder, CLASSES, **settings))
    assert params == other
    assert state.stats == stats.stats
    assert state.teacher == shapes(big())
    out = jax.eval_shape(method.features, params, state, batch(1))
    assert {k: x.shape for k, x in out.items()} == {'h': (B, 8), 'z': (B, 6), 'logits': (B, 3)}


def test_a_fresh_teacher_is_not_the_student():
    """Without `pretrained`, as when a run resumes and only shapes count."""
    teacher = finetune(Linear(), CLASSES)
    params, state = distillation(Linear(), CLASSES, teacher).init(jax.random.key(0), batch(1))
    ours, theirs = params['encoder'], state.teacher[0]['encoder']
    assert np.abs(ours['Dense_0']['kernel'] - theirs['Dense_0']['kernel']).max() > 0.1


def test_a_teacher_without_a_classifier_is_refused():
    method = distillation(Linear(), CLASSES, simclr(Linear(), projector=(4,)))
    with pytest.raises(Problem, match=r'config\.teacher\.workdir has no classifier') as raised:
        jax.eval_shape(lambda: method.init(jax.random.key(0), batch()))
    assert raised.value.code == CONFIG


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({'temperature': 0.0}, ('config.method.temperature=0.0',)),
        ({'constant': 'oficial'}, ('config.method.constant', 'did you mean "official"?')),
        ({'head_layers': 1}, ('config.method.head_layers=1',)),
        ({'teacher': None}, ('config.teacher.workdir is empty',)),
    ],
)
def test_a_wrong_setting_is_named(settings, words):
    found = {'encoder': Linear(), 'classes': 3, 'teacher': settings.pop('teacher', big())}
    with pytest.raises(Problem) as raised:
        load('clr_jax.methods', {'name': 'distillation', **settings}, **found)
    assert raised.value.code == CONFIG
    assert all(word in str(raised.value) for word in words), raised.value
