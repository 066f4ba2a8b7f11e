"""A run that is killed at any instant, or whose newest checkpoint is damaged, and started again by the same command
ends in the same bits as the run that was left alone; and each part of the state is needed for that.

The runs are real ones: `python -m clr_jax.main` as processes of their own, on other devices than this one.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from clr_jax import config as configs
from clr_jax import networks, parallel, train
from clr_jax.checkpoint import Checkpoints, checksum, paths
from clr_jax.data import pipeline, sources
from clr_jax.entry import CONFIG, INPUT, Problem
from clr_jax.train import TrainState, describe, make_state, make_step, restore
from tests.conftest import ROOT, config

STEPS, LOG_EVERY, CHECKPOINT_EVERY, JUDGE_EVERY = 100, 2, 4, 20
TINY = {
    'steps': STEPS,
    'batch_size': 64,
    'log_every': LOG_EVERY,
    'checkpoint_every': CHECKPOINT_EVERY,
    'encoder.widths': (4, 8),
    'encoder.dropout': 0.1,
    'method.projector': (8, 4),
    'evaluation.every': JUDGE_EVERY,
    'evaluation.train_examples': 100,
    'evaluation.test_examples': 50,
}
SEED = 20  # of the moments of the kills


class Runs:
    """Starts runs of one config; they share a cache of compiled programs, as each takes most of its time to compile."""

    def __init__(self, folder):
        self.folder = folder
        cache = {
            'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache'),
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
            'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
        }
        devices = {'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
        self.environment = os.environ | cache | devices

    def start(self, module, *flags):
        return subprocess.Popen(
            [sys.executable, '-m', module, *flags],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train(self, workdir):
        overrides = [f'--config.{key}={value}' for key, value in TINY.items()]
        return self.start(
            'clr_jax.main', '--config=configs/simclr_digits.py', f'--workdir={workdir}', *overrides
        )


def finish(process) -> tuple[str, str]:
    """Its stdout and stderr, after it ended well."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out, err


def committed(workdir) -> list[int]:
    folder = workdir / 'checkpoints'
    return (
        sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.exists() else []
    )


def kill(process, workdir, after: int, delay: float) -> int:
    """kill -9, `delay` seconds after step `after` was committed. -> the newest step then."""
    while max(committed(workdir), default=0) < after:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.communicate()
    assert process.returncode == -9, 'it ended before it could be killed: give it more steps'
    print(f'killed {delay:.3f} s after step {after}; committed: {committed(workdir)}')
    return committed(workdir)[-1]


def flip_a_bit(workdir, step: int):
    """In the file with most of the arrays' bytes, which Orbax alone need not notice."""
    path = max(
        (workdir / 'checkpoints' / str(step) / 'state' / 'd').iterdir(),
        key=lambda p: p.stat().st_size,
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def metrics(workdir) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    clocks = ('examples_per_second', 'step_seconds', 'data_wait', 'seconds', 'goodput', 'processes')
    return [{name: value for name, value in line.items() if name not in clocks} for line in lines]


def leaves(tree) -> dict:
    """{path: bytes}"""
    return {path: np.asarray(x).tobytes() for path, x in paths(tree).items()}


def differing(tree, other) -> list[str]:
    a, b = leaves(tree), leaves(other)
    assert a.keys() == b.keys()
    return [path for path in a if a[path] != b[path]]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp('runs'))


@pytest.fixture(scope='module')
def straight(runs):
    """The workdir of the run that was left alone."""
    finish(runs.train(runs.folder / 'straight'))
    return runs.folder / 'straight'


@pytest.fixture(scope='module')
def killed(runs, straight):
    """The workdir of the run that was killed twice, after which a bit of its newest checkpoint changed."""
    workdir, rng = runs.folder / 'killed', random.Random(SEED)
    kill(runs.train(workdir), workdir, rng.randrange(4, 24, 4), rng.uniform(0, 0.2))
    newest = kill(runs.train(workdir), workdir, rng.randrange(28, 44, 4), rng.uniform(0, 0.2))
    flip_a_bit(workdir, newest)
    _, err = finish(runs.train(workdir))
    assert f'warning: a checkpoint is damaged, trying an older one: step {newest}' in err
    assert f'resumed from step {newest - CHECKPOINT_EVERY}\n' in err
    assert 'Traceback' not in err
    return workdir


def test_every_leaf_of_the_resumed_run_is_that_of_the_straight_run(straight, killed, pieces):
    (_, expected, step), (_, found, also) = restore(straight), restore(killed)
    assert step == also == int(expected.step) == STEPS
    assert differing(expected, found) == []
    assert differing(expected, pieces.fresh) == list(
        leaves(expected)
    )  # none is equal for want of training


def test_the_resumed_run_keeps_the_same_checkpoints(straight, killed):
    assert committed(straight) == committed(killed)
    assert committed(straight)[-3:] == [STEPS - 8, STEPS - 4, STEPS]
    for step in committed(straight):
        assert differing(restore(straight, step)[1], restore(killed, step)[1]) == []
    assert configs.saved(straight) == configs.saved(killed)


def test_each_logged_step_is_there_once_with_the_same_values(straight, killed):
    expected = metrics(straight)
    assert [line['step'] for line in expected] == [*range(LOG_EVERY, STEPS + 1, LOG_EVERY)]
    assert metrics(killed) == expected
    judged = [line['step'] for line in expected if 'knn_top1' in line]
    assert judged == [*range(JUDGE_EVERY, STEPS + 1, JUDGE_EVERY)]
    assert all(
        {'loss', 'learning_rate', 'std', 'probe_top1', 'gradient_norm'} <= line.keys()
        for line in expected
    )


def test_what_a_run_leaves_behind(straight):
    events = [p.name for p in straight.iterdir() if p.name.startswith('events.out.tfevents')]
    assert len(events) == 1
    left = {p.name for p in straight.iterdir()} - {*events, 'results.jsonl'}  # of an evaluation
    assert left == {'config.json', 'metrics.jsonl', 'checkpoints'}
    assert (
        configs.saved(straight)['encoder'] | {'widths': [4, 8], 'dropout': 0.1}
        == configs.saved(straight)['encoder']
    )


def test_the_command_evaluates_a_finished_run(runs, straight):
    before = checksum(restore(straight)[1])
    out, _ = finish(
        runs.start('clr_jax.evaluate', f'--workdir={straight}', '--protocol=knn', '--baselines')
    )
    records = [json.loads(line) for line in out.splitlines()]  # nothing else is on stdout
    assert [r['source'] for r in records] == ['encoder', 'random', 'pixels']
    assert [
        json.loads(line) for line in (straight / 'results.jsonl').read_text().splitlines()
    ] == records
    run, ts, _ = restore(straight)
    assert checksum(ts) == before
    assert records[0]['weights'] == checksum(
        networks.select(run.method.variables(ts.params, ts.state), ['encoder'])
    )
    assert [r['step'] for r in records] == [STEPS, 0, 0]


def test_a_run_does_not_go_on_with_other_data(straight, monkeypatch):
    load = sources.load
    monkeypatch.setattr(
        sources, 'load', lambda *args: load(*args)._replace(fingerprint='0123456789abcdef')
    )
    with pytest.raises(Problem, match='was trained on other data .*0123456789abcdef') as error:
        train.fit(configs.saved(straight), str(straight))
    assert error.value.code == CONFIG


# The negative control: what is left out is missed.


class Pieces:
    """What `fit` is made of, to run a few steps of the same run in this process."""

    def __init__(self, config, workdir):
        data = sources.load(config['data'], 'train')
        run, self.mesh = (
            describe(config, data.size, data.classes),
            parallel.make_mesh(jax.devices()[:2]),
        )
        pace = {'steps_per_epoch': run.steps_per_epoch, 'total_steps': run.total_steps}
        self.step = make_step(
            run.method, run.optimizer, self.mesh, seed=0, health_every=1000, **pace
        )
        batches = pipeline.train_batches(data, run.views, seed=0, batch_size=config['batch_size'])
        self.batches = [next(batches) for _ in range(5)]
        blank = train.blank_batch(run, 2)
        self.fresh = jax.device_get(make_state(run.method, run.optimizer, self.mesh, blank, seed=0))
        self.straight = self.train(self.fresh)
        checkpoints = Checkpoints(workdir)
        checkpoints.save(3, self.train(self.fresh, until=3), {})
        checkpoints.wait()
        self.restored = jax.device_get(checkpoints.restore(self.placed(self.fresh))[0])
        checkpoints.close()

    def placed(self, ts):
        return jax.device_put(ts, parallel.replicated(self.mesh))

    def train(self, ts, until=5) -> TrainState:
        """From a state on; it names its batches by its step, as `fit` does."""
        ts = self.placed(ts)
        while int(ts.step) < until:
            ts, _ = self.step(ts, parallel.spread(self.batches[int(ts.step)], self.mesh))
        return ts


@pytest.fixture(scope='module')
def pieces(straight, tmp_path_factory):
    return Pieces(configs.saved(straight), tmp_path_factory.mktemp('pieces'))


def test_a_state_restored_whole_goes_on_to_the_same_bits(pieces):
    assert int(pieces.restored.step) == 3
    assert differing(pieces.train(pieces.restored), pieces.straight) == []


@pytest.mark.parametrize('field', TrainState._fields)
def test_a_part_left_out_of_what_is_restored_is_missed(pieces, field):
    without = pieces.restored._replace(**{field: getattr(pieces.fresh, field)})
    assert differing(pieces.train(without), pieces.straight)


def test_each_leaf_left_out_of_what_is_restored_is_missed(pieces):
    (values, tree), firsts = jax.tree.flatten(pieces.restored), jax.tree.leaves(pieces.fresh)
    unmissed = []
    for n, (path, first) in enumerate(zip(paths(pieces.restored), firsts, strict=True)):
        without = jax.tree.unflatten(tree, [*values[:n], first, *values[n + 1 :]])
        if not differing(pieces.train(without), pieces.straight):
            unmissed.append(path)
    assert unmissed == []


# From another run's weights.


def beginning(config, workdir, monkeypatch) -> TrainState:
    """What `fit` has before its first step."""
    before = []

    def compiled(step, ts, batch, options):
        before.append(ts)
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(train, 'compiled', compiled)
        with pytest.raises(InterruptedError):
            train.fit(config, str(workdir))
    return before[0]


def parts_of(run, ts, parts):
    return networks.select(run.method.variables(ts.params, ts.state), parts)


def starting_from(workdir, parts=('encoder',), **changes) -> dict:
    """The config of the straight run, begun with another seed from parts of what is in `workdir`."""
    pretrained = {'workdir': str(workdir), 'step': -1, 'parts': parts, 'weights': ''}
    return configs.saved(workdir) | {'seed': 7, 'pretrained': pretrained} | changes


@pytest.mark.parametrize('parts', [('encoder',), ['projector'], ('encoder', 'projector')])
def test_a_run_starts_from_parts_of_another(straight, tmp_path, monkeypatch, parts):
    """Before its first step these are the other run's, all else new."""
    source, donor, _ = restore(straight)
    config = starting_from(straight, parts)
    data = sources.load(config['data'], 'train')
    run = describe(config, data.size, data.classes)
    fresh = make_state(
        run.method, run.optimizer, parallel.make_mesh(), train.blank_batch(run, 2), seed=7
    )
    started = beginning(config, tmp_path / 'run', monkeypatch)
    ours, theirs = (parts_of(source, ts, parts) for ts in (started, donor))
    assert differing(ours, theirs) == []
    assert ours['params'].keys() == ours['batch_stats'].keys() == set(parts)
    assert set(differing(started, fresh)) == {
        path
        for path in paths(fresh)
        if re.match(f'(params/method|state/stats)/({"|".join(parts)})/', path)
    }


def test_the_step_to_start_from_can_be_chosen(straight):
    run, mesh = restore(straight)[0], parallel.make_mesh()
    taken = {}
    for step in committed(straight)[-2:]:
        _, ts, _ = restore(straight, step)
        config = starting_from(straight)
        config['pretrained'] |= {'step': step}
        taken[step] = train.others(config, run, mesh)
        assert differing(taken[step], parts_of(run, ts, ['encoder'])) == []
    assert differing(*taken.values())
    assert train.others(configs.saved(straight), run, mesh) is None


def finetuning(head_layers=1) -> dict:
    return {'name': 'finetune', 'projector': (8, 4), 'head_layers': head_layers}


def test_of_a_head_the_layers_that_are_kept_are_taken(straight, tmp_path, monkeypatch):
    _, donor, _ = restore(straight)
    config = starting_from(straight, ('encoder', 'projector'), method=finetuning())
    started = beginning(config, tmp_path / 'run', monkeypatch)
    ours, theirs = started.params['method'], donor.params['method']
    assert ours['projector'].keys() == {'dense1', 'bn1'} < theirs['projector'].keys()
    kept = {name: theirs['projector'][name] for name in ('dense1', 'bn1')}
    assert differing(ours['projector'], kept) == []
    assert differing(ours['encoder'], theirs['encoder']) == []
    stats = {'bn1': donor.state.stats['projector']['bn1']}
    assert differing(started.state.stats['projector'], stats) == []
    assert not any(leaf.any() for leaf in jax.tree.leaves(ours['predictor']))


@pytest.mark.parametrize(
    ('widths', 'projector', 'words'),
    [
        ((4, 12), (8, 4), ('batch_stats/encoder/bn2/mean', 'float32[8]', 'float32[12]')),
        ((4, 8, 8), (8, 4), ('lacks batch_stats/encoder/bn3/mean',)),
        ((4,), (8, 4), ('has batch_stats/encoder/bn2/mean',)),
        ((4, 8), (8, 4, 4), ('lacks batch_stats/projector/bn3/mean',)),
        ((4, 8), (6, 4), ('batch_stats/projector/bn1/mean', 'float32[8]', 'float32[6]')),
    ],
)
def test_another_architecture_is_refused_by_the_name_of_a_leaf(
    straight, tmp_path, widths, projector, words
):
    config = starting_from(straight, ('encoder', 'projector'))
    config['encoder'] |= {'widths': widths}
    config['method'] |= {'projector': projector}
    with pytest.raises(Problem) as error:
        train.fit(config, str(tmp_path / 'run'))
    assert error.value.code == CONFIG
    for word in (str(straight), f'step {STEPS}', *words):
        assert word in str(error.value)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('parts', [('encodr',), ('encoder', 'predictor'), ('encoder,projector',)])
def test_a_part_that_the_run_does_not_have_is_refused(straight, tmp_path, parts):
    """Nothing would be taken, and nothing said."""
    with pytest.raises(Problem) as error:
        train.fit(starting_from(straight, parts), str(tmp_path / 'run'))
    assert error.value.code == CONFIG
    assert f'config.pretrained.parts: no "{parts[-1]}"; ' in str(error.value)
    assert 'Known: encoder, projector' in str(error.value)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('section', ['pretrained', 'teacher'])
def test_a_folder_that_is_no_run_is_refused(straight, tmp_path, section):
    config = configs.saved(straight)
    config[section] |= {'workdir': str(tmp_path)}
    with pytest.raises(Problem, match=f'{tmp_path} is not the workdir of a run') as error:
        train.fit(config, str(tmp_path / 'run'))
    assert error.value.code == INPUT


SHORT = {'steps': 4, 'checkpoint_every': 2, 'log_every': 2}


def without_evaluation(config) -> dict:
    return config | SHORT | {'evaluation': config['evaluation'] | {'every': 0}}


def go_on_without(gone, config, workdir):
    """The state at the end of a run, and of the same run when after its second step the folder
    `gone` was deleted, and it was killed and started again."""
    train.fit(config, str(workdir))
    _, expected, _ = restore(workdir)
    shutil.rmtree(gone)
    shutil.rmtree(workdir / 'checkpoints' / '4')
    train.fit(config, str(workdir))
    _, found, step = restore(workdir)
    assert step == 4
    return expected, found


def test_a_run_that_goes_on_does_not_need_what_it_started_from(straight, tmp_path, capsys):
    donor = shutil.copytree(straight, tmp_path / 'donor')
    config = without_evaluation(starting_from(donor, ('encoder', 'projector')))
    expected, found = go_on_without(donor, config, tmp_path / 'run')
    assert 'resumed from step 2' in capsys.readouterr().err
    assert differing(expected, found) == []


# A method that refreshes its state before every epoch


CLUSTERED = {  # epochs of four steps, the last one shorter
    'steps': 10,
    'batch_size': 32,
    'log_every': 2,
    'checkpoint_every': 2,
    'keep': 5,
    'subset': {'fraction': 0.1},
    'encoder': {'widths': (4, 8)},
    'method': {'clusters': 12},
    'evaluation': {'every': 0},
}


@pytest.fixture(scope='module')
def clustered(tmp_path_factory):
    """-> (config, workdir) of a run of DeepCluster that was left alone."""
    of, workdir = config('deepcluster_cifar10_small', 'smoke'), tmp_path_factory.mktemp('clustered')
    of.update(CLUSTERED)
    train.fit(of.to_dict(), str(workdir / 'run'))
    return of.to_dict(), workdir / 'run'


def test_clusters_are_found_before_the_first_step_of_each_epoch(clustered):
    """The labels in a checkpoint are those of the epoch that its last step belongs to."""
    steps = 2, 4, 6, 8, 10
    label = {step: np.asarray(restore(clustered[1], step)[1].state.label) for step in steps}
    same = [np.array_equal(label[step], label[step + 2]) for step in (2, 4, 6, 8)]
    assert same == [True, False, True, False]
    for found in label.values():
        assert np.any(found != np.arange(144) % 12)  # as they are until the first refresh
    nmi = [line['nmi'] for line in metrics(clustered[1])]
    assert nmi[0] == nmi[1] != nmi[2] == nmi[3] != nmi[4]


# In the middle of an epoch, and at the end of one: before the clusters of the next are found.
@pytest.mark.parametrize('at', [6, 4])
def test_a_run_killed_around_a_refresh_goes_on_to_the_same_bits(clustered, tmp_path, at, capsys):
    of, straight = clustered
    workdir = shutil.copytree(straight, tmp_path / 'run')
    for step in committed(workdir):
        if step > at:
            shutil.rmtree(workdir / 'checkpoints' / str(step))
    train.fit(of, str(workdir))
    said = capsys.readouterr().err
    assert f'resumed from step {at}\n' in said
    assert re.findall(r'epoch (\d): features of 144 examples', said) == ['1', '2'][at // 5 :]
    (_, expected, _), (_, found, step) = restore(straight), restore(workdir)
    assert step == 10
    assert differing(expected, found) == []
    assert metrics(workdir) == metrics(straight)


# A teacher


@pytest.fixture(scope='module')
def teacher(straight, tmp_path_factory):
    """The workdir of a run that classifies."""
    workdir = tmp_path_factory.mktemp('teacher') / 'run'
    config = starting_from(straight, ('encoder', 'projector'), method=finetuning())
    train.fit(without_evaluation(config), str(workdir))
    return workdir


def taught(workdir, **changes) -> dict:
    """The config of a smaller network that learns from the run in `workdir`."""
    config = without_evaluation(configs.saved(workdir))
    config |= {'seed': 8, 'method': {'name': 'distillation', 'temperature': 1.0}}
    config['encoder'] |= {'widths': (4,)}
    config['pretrained'] |= {'workdir': ''}
    return config | {'teacher': {'workdir': str(workdir), 'step': -1}} | changes


def test_a_student_has_its_teachers_parameters_and_state(teacher, tmp_path, monkeypatch):
    _, theirs, _ = restore(teacher)
    started = beginning(taught(teacher), tmp_path / 'run', monkeypatch)
    assert differing(started.state.teacher, (theirs.params, theirs.state)) == []
    assert len(paths(started.state.teacher)) > 10
    saved = configs.saved(tmp_path / 'run')['teacher']
    assert saved == {
        'workdir': str(teacher),
        'step': -1,
        'run': configs.saved(teacher),
        'examples': 1437,
        'classes': 10,
    }
    config = taught(teacher)
    config['teacher'] |= {'step': 2}
    earlier = beginning(config, tmp_path / 'earlier', monkeypatch)
    _, then, _ = restore(teacher, 2)
    assert differing(earlier.state.teacher, (then.params, then.state)) == []
    assert differing(earlier.state.teacher, started.state.teacher)


def test_a_student_that_goes_on_does_not_need_its_teacher(teacher, tmp_path, capsys):
    """Nor does it when it is evaluated: its own folder has all."""
    gone = shutil.copytree(teacher, tmp_path / 'teacher')
    expected, found = go_on_without(gone, taught(gone), tmp_path / 'run')
    assert 'resumed from step 2' in capsys.readouterr().err
    assert differing(expected, found) == []
    _, theirs, _ = restore(teacher)
    assert differing(found.state.teacher, (theirs.params, theirs.state)) == []  # it never changes


def test_a_teacher_is_described_by_its_own_data(teacher):
    """A student on fewer examples than a batch of its teacher's, of more classes: its classifier has
    the teacher's classes, the probe those of the data."""
    config = taught(teacher, batch_size=32)
    config = train.with_teacher(config, '/absent')
    run = describe(config, examples=40, classes=13)
    params, state = (lambda ts: (ts.params, ts.state))(
        train.state_shapes(run, parallel.make_mesh())
    )
    assert params['method']['predictor']['bias'].shape == (10,)
    assert params['probe']['bias'].shape == (13,)
    assert state.teacher[0]['probe']['bias'].shape == (10,)
    config['teacher'] |= {'classes': 0}
    with pytest.raises(Problem, match='needs labels'):
        describe(config, examples=40, classes=13)
