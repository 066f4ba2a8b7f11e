"""What every method keeps, whatever it computes: nothing here knows one.

Each is built from its configs' smoke form, as `fit` builds it (with the online probe), around a
tiny encoder, and trained in float64 for that form's epochs of ten steps each, all on the same 16
examples, at the learning rate of the full config.
"""

import importlib
import inspect
import pkgutil
import re
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import methods, parallel, schedules, train
from clr_jax.checkpoint import Checkpoints, paths
from clr_jax.data import pipeline, sources, text
from clr_jax.method import make_time
from tests.conftest import ROOT, config, resolved
from tests.steps import double, kinds

BATCH, EPOCH = 16, 10
COMPARED = 3  # steps in a row, each time: rounding grows with every one
TINY = {
    'name': 'convnet',
    'widths': (8, 16),
    'dropout': 0.02,
}  # instead of an encoder of images by convolution


def cases() -> dict[str, str]:
    """{case: config} of every method, published recipes first and ImageNet's before others, and
    again with each setting that is on where its default is off or off where it is on, with groups
    and with a transformer. A rate of 0 is a number like any other; which of several losses a method has
    is for their own tests."""
    found: dict[tuple, str] = {}
    paths = (ROOT / 'configs').glob('*.py')
    for name in sorted(
        (p.stem for p in paths),
        key=lambda name: (name.endswith('small'), 'imagenet' not in name, name),
    ):
        c = config(name, 'smoke').to_dict()
        method = c['method']
        factory = getattr(
            importlib.import_module(f'clr_jax.methods.{method["name"]}'), method['name']
        )
        words = ['vit'] if c['encoder']['name'] == 'vit' else []
        words += ['groups'] if c['bn_groups'] > 1 else []
        for parameter in inspect.signature(factory).parameters.values():
            default, value = parameter.default, method.get(parameter.name)
            settable = parameter.kind is parameter.KEYWORD_ONLY and default is not None
            if settable and not isinstance(default, float) and bool(value) != bool(default):
                words.append(parameter.name if value else f'no_{parameter.name}')
        found.setdefault((method['name'], *words), name)
    return {'-'.join(words): name for words, name in found.items()}


CASES = cases()


def small(name: str) -> dict:
    """The config `name`:smoke, smaller still, exact, at the peak learning rate of the full one."""
    full, c = config(name).to_dict(), resolved(name, 'smoke')
    if c['encoder']['name'] not in ('vit', 'bert', 'wave', 'pixel'):  # not of images by convolution
        c['encoder'] = TINY | {'bn_groups': c['encoder']['bn_groups']}
    for section in (c['encoder'], c['text_encoder'], c['method']):
        section |= {'dtype': None} if 'dtype' in section else {}
    rate, scaling = full['optimizer']['learning_rate'], full['optimizer']['scaling']
    rate = schedules.scaled(rate, full['batch_size'], scaling)
    c['optimizer'] |= {'learning_rate': rate, 'scaling': 'none'}
    for section in (
        c['optimizer'],
        *c['groups'].values(),
    ):  # what moves is then moved by a gradient
        section |= {'weight_decay': 0.0} if 'weight_decay' in section else {}
    return c | {'batch_size': BATCH}


class Trained(NamedTuple):
    """A whole run on two devices, and what it takes to go on from any of its steps."""

    config: dict
    run: train.Run
    batch: dict  # NumPy, the 16 examples
    states: list[Any]  # TrainStates in NumPy, before the first step and after each
    metrics: list[dict]
    kinds: list[dict]
    programs: list[int]  # compiled so far, after each step
    step: Any

    def again(self, step, state, steps: int) -> list:
        """The states after each of `steps` steps from `state`, which lies where `step` runs."""
        mesh, found = state.step.sharding.mesh, []
        for _ in range(steps):
            state, _ = step(state, parallel.spread(self.batch, mesh))
            found.append(jax.tree.map(np.array, state))
        return found


def make_step(c, run, mesh):
    pace = {'steps_per_epoch': run.steps_per_epoch, 'total_steps': run.total_steps}
    return train.make_step(run.method, run.optimizer, mesh, seed=c['seed'], **pace)


def taught(state):
    """With a teacher that says something: a fresh one finds all classes equally likely."""
    rng = np.random.default_rng(0)
    teacher = jax.tree.map(lambda x: x + rng.random(x.shape), state.state.teacher)
    return state._replace(state=state.state._replace(teacher=teacher))


@cache
def trained(case: str) -> Trained:
    """Only ever one run of a case."""
    c = small(CASES[case])
    source = sources.load(c['data'], 'train')
    run = train.describe(c, EPOCH * BATCH, source.classes or 0)
    source = source._replace(tokenizer=text.tokenizer(c, 'none', source))
    source = source._replace(size=EPOCH * BATCH)  # so that numbers of examples stay within
    batch = next(pipeline.train_batches(source, run.views, seed=0, batch_size=BATCH))
    if run.extra:
        others = pipeline.train_batches(source, run.unlabelled, seed=1, batch_size=2 * BATCH)
        batch['unlabelled'] = {'views': next(others)['views']}
    batch = jax.tree.map(lambda x: x / 255 if x.dtype == np.uint8 else x, batch)  # images in 0..1
    mesh = parallel.make_mesh(jax.devices()[:2], c['bn_groups'])
    with jax.enable_x64(True):
        state = double(train.make_state(run.method, run.optimizer, mesh, batch, seed=c['seed']))
        state = taught(state) if c['teacher']['workdir'] else state
        state, batch = jax.device_put(state, parallel.replicated(mesh)), double(batch)
        step = make_step(c, run, mesh)
        result = Trained(
            c, run, batch, [jax.tree.map(np.array, state)], [], [kinds(state)], [], step
        )
        for _ in range(run.total_steps):
            state, metrics = step(state, parallel.spread(batch, mesh))
            result.states.append(jax.tree.map(np.array, state))
            result.metrics.append(jax.device_get(metrics))
            result.kinds.append(kinds(state))
            result.programs.append(step._cache_size())
    return result


# Without batch norm and by plain SGD, DINO's ResNet goes first to where all prototypes are equally
# likely, and is there when these runs end; the transformer has left.
# UDA's views of an unlabelled image agree once its classifier is sure, which is later still. The
# published rates of CPC for LibriSpeech and of SimCSE, which fine-tunes, hardly move anything in so
# few steps; the other cases of both do.
# Whether the views of MoCo v3's transformer agree more by then depends on the 16 examples.
LATE = ('dino', 'uda', 'uda-no_joint', 'cpc-negatives', 'simcse-head_in_features', 'mocov3-vit')

every_case = pytest.mark.parametrize('case', CASES)


def test_every_method_has_a_case():
    files = {module.name for module in pkgutil.iter_modules(methods.__path__)}
    assert files
    assert {case.split('-')[0] for case in CASES} == files


@every_case
def test_the_state_keeps_structure_shape_and_dtype(case):
    """In float64 after every step; in float32, computed as the config says, after one."""
    t = trained(case)
    assert len(t.kinds) == t.run.total_steps + 1 > 2 * EPOCH
    for found in t.kinds:
        assert found == t.kinds[0]
    assert {jax.tree.structure(state) for state in t.states} == {jax.tree.structure(t.states[0])}

    c = resolved(CASES[case], 'smoke') | {'batch_size': BATCH}
    c['encoder'] = t.config['encoder'] | {k: v for k, v in c['encoder'].items() if k == 'dtype'}
    run, mesh = train.describe(c, EPOCH * BATCH, 10), parallel.make_mesh(groups=c['bn_groups'])
    blank = train.blank_batch(run, BATCH)
    before = train.state_shapes(run, mesh)
    after, _ = jax.eval_shape(make_step(c, run, mesh), before, blank)
    assert kinds(after) == kinds(before)
    assert not [path for path, (kind, _) in kinds(after).items() if kind.startswith('float64')]


@every_case
def test_the_step_is_compiled_once(case):
    assert set(trained(case).programs) == {1}


@every_case
@pytest.mark.parametrize('devices', [1, 8])
def test_any_number_of_devices_computes_the_same(case, devices, float64):
    """From the start and from the middle of the run on two devices."""
    t = trained(case)
    mesh = parallel.make_mesh(jax.devices()[:devices], t.config['bn_groups'])
    step = make_step(t.config, t.run, mesh)
    for start in (0, t.run.total_steps // 2):
        state = jax.device_put(t.states[start], parallel.replicated(mesh))
        for number, found in enumerate(t.again(step, state, COMPARED), start + 1):
            found, expected = paths(found), paths(t.states[number])
            for path, leaf in expected.items():
                where = f'{path} after step {number}'
                np.testing.assert_allclose(found[path], leaf, rtol=0, atol=1e-9, err_msg=where)


@every_case
def test_it_learns_what_it_is_for(case, float64):
    """A lower loss, views that agree more, positives that rank higher, all in training mode.

    Parameters before and after are judged with the final state: a target or a queue that moved with
    them is part of their task.
    """
    t = trained(case)
    first, last = t.states[0], t.states[-1]
    key, time = jax.random.key(0), make_time(jnp.array(0), EPOCH, t.run.total_steps)

    @jax.jit
    def judge(params):
        loss, aux = t.run.method.loss(params, last.state, t.batch, key=key, time=time)
        return loss, aux.z

    (before, z0), (after, z1) = jax.device_get([judge(first.params), judge(last.params)])
    assert np.isfinite(before)
    assert np.isfinite(after)
    assert after < before
    assert all(np.isfinite(list(metrics.values())).all() for metrics in t.metrics)
    assert z0.ndim == 3
    if z0.shape[1] > 1 and case not in LATE:
        assert agreement(z1) > agreement(z0)
        assert lead(z1) > lead(z0)


def pairs(z):
    """z [n, v, e] -> cosine similarities [n, n] of the first two views."""
    u = z / np.linalg.norm(z, axis=-1, keepdims=True)
    return u[:, 0] @ u[:, 1].T


def agreement(z) -> float:
    """How much more similar the views of an example are than those of any two: they may begin in a
    narrow cone, where all are similar."""
    similar = pairs(z)
    return float(np.diag(similar).mean() - similar.mean())


def lead(z) -> float:
    """How many standard deviations nearer than any example's second view its own is to a first view,
    on average: the rank of the positive, without the steps that 16 examples would give it."""
    similar = pairs(z)
    return float(np.mean((np.diag(similar) - similar.mean(1)) / similar.std(1)))


@every_case
def test_every_parameter_moves_that_the_config_does_not_freeze(case):
    t = trained(case)
    first, last = paths(t.states[0].params), paths(t.states[-1].params)
    assert first.keys() == last.keys()
    for path in first:
        own = path.removeprefix(
            'method/'
        )  # as the config's patterns see it, without the probe's wrapper
        groups = [g for g in t.config['groups'].values() if re.search(g['pattern'], own)]
        frozen = any(
            g.get('frozen') or (g.get('freeze_until') or 0) >= t.run.total_steps for g in groups
        )
        assert np.array_equal(first[path], last[path]) == (frozen and own != 'probe'), path


@every_case
def test_a_restored_run_ends_as_the_straight_one(case, tmp_path, float64):
    t = trained(case)
    middle, end = t.run.total_steps // 2, t.run.total_steps
    mesh = parallel.make_mesh(jax.devices()[:2], t.config['bn_groups'])
    on_mesh = lambda state: jax.device_put(state, parallel.replicated(mesh))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(middle, on_mesh(t.states[middle]), {'examples': 1})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    state, data, step = checkpoints.restore(on_mesh(t.states[0]))
    checkpoints.close()
    assert (data, step) == ({'examples': 1}, middle)
    for path, leaf in paths(t.states[middle]).items():
        np.testing.assert_array_equal(paths(state)[path], leaf, err_msg=path)
    final = paths(t.again(t.step, state, end - middle)[-1])
    for path, leaf in paths(t.states[end]).items():
        np.testing.assert_array_equal(final[path], leaf, err_msg=path)


@every_case
def test_features_are_computed_in_evaluation_mode(case, float64):
    """The same for an example whoever else is in its batch; and there is an encoder to export."""
    t = trained(case)
    last, method = t.states[-1], t.run.method
    features = jax.jit(lambda batch: method.features(last.params, last.state, batch)['h'])
    h = jax.device_get(features(t.batch))
    assert h.shape[0] == BATCH
    assert h.ndim == 2
    assert np.isfinite(h).all()
    assert np.abs(h - h.mean(0)).max() > 1e-3  # not the same for all
    half = jax.tree.map(lambda x: x[BATCH // 2 :], t.batch)
    np.testing.assert_allclose(features(half), h[BATCH // 2 :], rtol=1e-9, atol=1e-12)
    encoder = paths(method.variables(last.params, last.state))
    assert any(path.startswith('params/') or '/params/' in path for path in encoder)
    assert all(np.isfinite(leaf).all() for leaf in encoder.values())
