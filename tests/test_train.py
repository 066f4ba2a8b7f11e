"""The step: exact on any number of devices, compiled once, returning the like of its state.

Devices are compared in float64, where correct programs agree to 1e-12; what a step must compute is
compared with NumPy.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clr_jax import parallel, train
from clr_jax.checkpoint import paths
from clr_jax.data import index, sources, subsets
from clr_jax.encoders.convnet import convnet
from clr_jax.entry import Problem
from clr_jax.evaluate.online import online_judge
from clr_jax.method import Aux, Method, Time
from clr_jax.methods.simclr import simclr
from tests.conftest import config
from tests.steps import all_reduced, arguments, check_gradients_in_float32, double, kinds

BATCH, STEPS = 16, 6
PACE = {'seed': 5, 'steps_per_epoch': 4, 'total_steps': STEPS}
SGD = optax.sgd(0.02, momentum=0.9)  # no norms and no signs: the scale of a gradient shows


def simclr_batch(step: int, dtype=np.float64) -> dict:
    rng = np.random.default_rng(step)
    images = rng.random((BATCH, 8, 8, 3))
    views = tuple((images + 0.3 * rng.random(images.shape)).astype(dtype) for _ in range(2))
    number = rng.permutation(BATCH).astype(np.int32)
    return {'views': views, 'label': number % 3, 'index': number}


def tiny_simclr(bn_groups: int = 1, dtype=None) -> Method:
    encoder = convnet(widths=(4, 8), dropout=0.3, bn_groups=bn_groups, dtype=dtype)
    return simclr(encoder, projector=(8, 4), temperature=0.5, bn_groups=bn_groups, dtype=dtype)


class Run(NamedTuple):
    """A few steps of SimCLR."""

    states: list[dict]  # leaves by path, before the first step and after each
    metrics: list[dict]
    kinds: list[dict]
    programs: list[int]  # compiled so far, after each step


def run_simclr(start: train.TrainState, devices: int, bn_groups: int) -> Run:
    mesh = parallel.make_mesh(jax.devices()[:devices], bn_groups)
    with jax.enable_x64(True):
        ts = jax.device_put(double(start), parallel.replicated(mesh))
        step = train.make_step(tiny_simclr(bn_groups), SGD, mesh, health_every=4, **PACE)
        run = Run([jax.device_get(paths(ts))], [], [kinds(ts)], [])
        for number in range(STEPS):
            ts, metrics = step(ts, parallel.spread(simclr_batch(number), mesh))
            run.states.append(jax.device_get(paths(ts)))
            run.metrics.append(jax.device_get(metrics))
            run.kinds.append(kinds(ts))
            run.programs.append(step._cache_size())
    return run


@pytest.fixture(scope='module')
def runs():
    """{(devices, bn_groups): Run}."""
    start = jax.device_get(
        train.make_state(tiny_simclr(), SGD, parallel.make_mesh(), simclr_batch(0), seed=5)
    )
    return {(n, groups): run_simclr(start, n, groups) for groups in (1, 2) for n in (1, 2, 8)}


@pytest.mark.parametrize('bn_groups', [1, 2])
@pytest.mark.parametrize('devices', [2, 8])
def test_every_leaf_is_the_same_on_any_number_of_devices(runs, devices, bn_groups):
    one, many = runs[1, bn_groups], runs[devices, bn_groups]
    for path, leaf in one.states[-1].items():
        np.testing.assert_allclose(many.states[-1][path], leaf, rtol=0, atol=1e-9, err_msg=path)
        assert np.all(np.isfinite(leaf)), path
    still = [
        path for path in one.states[0] if np.array_equal(one.states[0][path], one.states[-1][path])
    ]
    assert not still  # equal because nothing happened would prove nothing


def test_groups_of_batch_statistics_matter(runs):
    path = 'params/encoder/conv1/kernel'
    np.testing.assert_array_equal(runs[1, 1].states[0][path], runs[1, 2].states[0][path])
    assert np.abs(runs[1, 1].states[-1][path] - runs[1, 2].states[-1][path]).max() > 1e-4


@pytest.mark.parametrize('bn_groups', [1, 2])
def test_metrics_are_of_the_global_batch(runs, bn_groups):
    for step in range(STEPS):
        for devices in (2, 8):
            expected, found = (
                runs[1, bn_groups].metrics[step],
                runs[devices, bn_groups].metrics[step],
            )
            assert found.keys() == expected.keys()
            for name in expected:
                np.testing.assert_allclose(
                    found[name], expected[name], rtol=0, atol=1e-9, err_msg=f'{name} of {step}'
                )


def test_health_is_measured_every_fourth_step_and_at_the_last(runs):
    for step, metrics in enumerate(runs[2, 1].metrics, 1):
        for name in ('std', 'uniformity', 'effective_rank', 'alignment'):
            assert np.isfinite(metrics[name]) == (step in (4, 6)), (name, step)
        assert all(np.isfinite(metrics[name]) for name in ('loss', 'gradient_norm', 'information'))


def test_options_of_the_compiler():
    step, x = jax.jit(lambda ts, batch: ts + batch), jnp.ones(2)
    known = 'xla_cpu_enable_fast_min_max=true, xla_backend_optimization_level=1'
    assert (train.compiled(step, x, x, known)(x, x) == 2).all()
    wrong = {
        'xla_bogus=1': "No such compile option: 'xla_bogus'",
        'xla_cpu_enable_fast_min_max=maybe': "'maybe' is not a valid bool value",
        'xla_cpu_enable_fast_min_max': 'is not name=value',
    }
    for words, said in wrong.items():
        with pytest.raises(Problem, match=said):
            train.compiled(step, x, x, words)


def test_a_step_returns_the_like_of_its_state_and_is_compiled_once(runs):
    for run in runs.values():
        assert run.programs == [1] * STEPS  # what the first step returns, the second takes as it is
        assert all(now == run.kinds[0] for now in run.kinds)
        assert [int(state['step']) for state in run.states] == list(range(STEPS + 1))


@pytest.mark.parametrize(
    'name', ['simclr_digits', 'simclr_imagenet']
)  # AdamW, LARS in groups under bfloat16
def test_the_state_keeps_structure_shape_dtype_and_weakness(name):
    resolved = config(name, 'smoke').to_dict()
    run = train.describe(resolved, examples=1437, classes=10)
    mesh = parallel.make_mesh(jax.devices()[:2])
    blank = train.blank_batch(run, BATCH)
    ts = train.state_shapes(run, mesh)
    step = train.make_step(run.method, run.optimizer, mesh, **PACE)
    after, metrics = jax.eval_shape(step, *arguments(mesh, ts, blank))
    assert kinds(after) == kinds(ts)
    assert jax.tree.structure(after) == jax.tree.structure(ts)
    assert {kind for kind, _ in kinds(metrics).values()} == {'float32[]'}


def test_gradients_are_summed_in_float32_under_bfloat16_compute(monkeypatch):
    """Read before XLA compiles: its CPU backend widens every all-reduce and hides a narrow one."""
    mesh = parallel.make_mesh(jax.devices()[:2])
    method, batch = tiny_simclr(dtype='bfloat16'), simclr_batch(0, np.float32)
    init = train.initializer(method, SGD, mesh, batch)
    ts = jax.eval_shape(init, jax.random.key(0), None)

    def lowered():
        step = train.make_step(method, SGD, mesh, **PACE)
        return step.lower(*arguments(mesh, ts, batch)).as_text()

    text = lowered()
    assert 'x8x4xbf16' in text  # it does compute in bfloat16: a convolution's kernel
    check_gradients_in_float32(text, ts.params)

    monkeypatch.setattr(parallel, 'vary', lambda tree, axes=parallel.DATA: tree)
    monkeypatch.setattr(
        parallel, 'reduce', lambda grads: grads
    )  # differentiation itself then sums, in bfloat16
    assert [kind for kind in all_reduced(lowered()) if kind.endswith('bf16')]


class Seen(NamedTuple):
    """When the parts of a step believe it to be."""

    loss: Time
    update: Time


def regression() -> Method:
    """Least squares on views [b, 4] and labels, with a state that remembers the time."""

    def init(key, batch, pretrained=None):
        blank = Time(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), jnp.zeros(()))
        return {'w': jnp.ones(4)}, Seen(blank, blank)

    def loss(params, state, batch, *, key, time):
        x = batch['views'][0]
        error = x @ params['w'] - batch['label']  # [b]
        value = jnp.square(error).mean()
        return value, Aux(
            state._replace(loss=time),
            {'index': batch['index'].astype(x.dtype).mean()},
            x[:, None],
            x[:, None],
        )

    def features(params, state, batch):
        return {'h': batch['views'][0]}

    def update(params, state, *, key, time):
        return params, state._replace(update=time)

    return Method(init, loss, features, update)


def regression_batch() -> dict:
    rng = np.random.default_rng(0)
    number = np.arange(BATCH, dtype=np.int32)
    return {'views': (rng.normal(size=(BATCH, 4)),), 'label': number % 5, 'index': 3 * number}


def regression_step(devices: int, start: int, **pace):
    """One step of `regression` from step `start`: the new state, metrics, the old state."""
    mesh, optimizer, batch = (
        parallel.make_mesh(jax.devices()[:devices]),
        optax.sgd(0.1),
        regression_batch(),
    )
    ts = double(train.make_state(regression(), optimizer, mesh, batch, seed=0))
    old = jax.device_put(ts._replace(step=jnp.array(start, jnp.int32)), parallel.replicated(mesh))
    ts, metrics = train.make_step(regression(), optimizer, mesh, seed=0, **pace)(
        old, parallel.spread(batch, mesh)
    )
    return jax.device_get(ts), jax.device_get(metrics), old


@pytest.mark.parametrize('devices', [1, 8])
def test_a_step_is_one_of_gradient_descent_on_the_global_batch(float64, devices):
    ts, metrics, old = regression_step(devices, 0, steps_per_epoch=1, total_steps=2)
    batch = regression_batch()
    x, y = batch['views'][0], batch['label']
    error = x.sum(1) - y  # w = 1
    gradient = 2 * x.T @ error / BATCH
    np.testing.assert_allclose(ts.params['w'], 1 - 0.1 * gradient, rtol=1e-12)
    np.testing.assert_allclose(metrics['loss'], np.square(error).mean(), rtol=1e-12)
    np.testing.assert_allclose(metrics['gradient_norm'], np.linalg.norm(gradient), rtol=1e-12)
    np.testing.assert_allclose(metrics['index'], batch['index'].mean(), rtol=1e-12)
    assert old.step.is_deleted()  # its memory is the new state's
    assert old.params['w'].is_deleted()


def test_the_loss_sees_this_step_and_update_the_next(float64):
    """At the last step of the last but one of 800 epochs, by integers."""
    start, total = 312 * 799 - 1, 312 * 800
    ts, *_ = regression_step(2, start, steps_per_epoch=312, total_steps=total)
    assert (ts.step, ts.state.loss.step, ts.state.update.step) == (start + 1, start, start + 1)
    assert (ts.state.loss.epoch, ts.state.update.epoch) == (798, 799)
    np.testing.assert_allclose(ts.state.loss.progress, start / total, rtol=1e-6)
    np.testing.assert_allclose(ts.state.update.progress, (start + 1) / total, rtol=1e-6)
    assert ts.state.loss.progress < ts.state.update.progress < 1


class Refreshed(NamedTuple):
    """What a method's `refresh` was given."""

    w: np.ndarray
    features: np.ndarray
    key: np.ndarray
    time: tuple


def refreshing(seen: list) -> Method:
    """`regression` whose features are pixels times the first weight, and whose weights grow by 1
    before every epoch."""

    def features(params, state, batch):
        return {'h': batch['views'][0].reshape(len(batch['label']), -1) * params['w'][0]}

    def refresh(params, state, features, *, key, time):
        given = np.array(params['w']), features, jax.random.key_data(key), tuple(map(float, time))
        seen.append(Refreshed(*given))
        return {'w': np.array(params['w']) + 1}, state

    return regression()._replace(features=features, refresh=refresh)


@pytest.mark.parametrize('devices', [1, 8])
def test_a_refresh_has_the_features_of_all_examples_in_order(devices):
    """Of the weights as they are, once for each, also where the last batch is not full; what it
    returns lies where the step needs it."""
    seen: list = []
    of = {'seed': 3, 'sharded': False, 'views': {'view': {}}}
    of['evaluation'] = {'size': 8, 'crop': 1.0}
    data = subsets.subset(sources.load({'name': 'digits'}, 'train'), fraction=0.25)
    mesh, sgd = parallel.make_mesh(jax.devices()[:devices]), optax.sgd(0.0)
    run = train.Run(refreshing(seen), sgd, lambda step: 0.0, [], 4, 12)
    refresh = train.refresher(of, run, mesh, data)
    ts = train.make_state(run.method, sgd, mesh, regression_batch(), seed=0)
    ts = ts._replace(step=jnp.full_like(ts.step, 8), params={'w': 2 * ts.params['w']})
    ts = jax.device_put(ts, parallel.replicated(mesh))
    new = refresh(ts)
    assert kinds(new) == kinds(ts)
    assert new.params['w'].sharding == ts.params['w'].sharding
    np.testing.assert_array_equal(new.params['w'], 3)
    assert (new.step, new.opt, new.state.loss.step) == (8, ts.opt, 0)
    assert seen[0].time == (8, 2, pytest.approx(8 / 12))
    images = [data.read(i)['image'].numpy().reshape(-1) for i in range(data.size)]
    assert len(images) == 359
    np.testing.assert_array_equal(seen[0].features, 2 * np.float32(images))
    assert seen[0].features.dtype == np.float32

    refresh(ts)  # as after a resume
    jax.tree.map(np.testing.assert_array_equal, seen[1], seen[0])
    refresh(ts._replace(step=ts.step + 4))
    assert np.any(seen[2].key != seen[0].key)

    # the step takes the new state as it takes any other
    pace = {'steps_per_epoch': 4, 'total_steps': 12, 'seed': 0}
    step, batch = train.make_step(run.method, sgd, mesh, **pace), regression_batch()
    batch = jax.tree.map(lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, batch)
    for state in (jax.tree.map(jnp.copy, ts), new):
        after, _ = step(state, parallel.spread(batch, mesh))
    assert step._cache_size() == 1
    np.testing.assert_array_equal(after.params['w'], 3)


@pytest.mark.parametrize('classifies', [True, False])
def test_a_classifier_is_judged_by_its_own_answers(classifies):
    """Those of every fourth example are right; of any other method, by its neighbours."""
    section = {'size': 8, 'crop': 1.0, 'train_examples': 40, 'test_examples': 101}
    of = {'views': {'view': {}}, 'evaluation': section}
    data, test = (sources.load({'name': 'digits'}, split) for split in ('train', 'test'))

    def features(params, state, batch):
        answer = (batch['label'] + jnp.where(batch['index'] % 4 == 0, 0, 1)) % 10
        known = {'h': batch['views'][0].reshape(len(answer), -1) / 255}
        return known | ({'logits': jax.nn.one_hot(answer, 10)} if classifies else {})

    method = regression()._replace(features=features)
    found = online_judge(of, method, parallel.make_mesh(), data, test)({}, {})
    chosen = index.permutation(np.arange(101), test.size, index.key(0))
    if classifies:
        assert found == {'test_top1': pytest.approx(np.mean(chosen % 4 == 0))}
    else:
        assert found.keys() == {'knn_top1'}
        assert found['knn_top1'] > 0.5
