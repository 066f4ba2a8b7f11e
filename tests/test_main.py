"""The command: its flags reach the run, and each mistake ends in one line, the right exit code and no traces on disk."""

import errno
import json
import os
import signal
import subprocess
import sys
from typing import NamedTuple

import jax
import numpy as np
import pytest
from absl import flags

import clr_jax.main
from clr_jax import config as configs
from clr_jax import entry
from clr_jax import workdir as workdirs
from clr_jax.checkpoint import Checkpoints
from clr_jax.data.augment import tensorflow
from clr_jax.entry import CONFIG, DATA, INPUT, NO_PROGRESS, OUTPUT, PREEMPTED, USAGE
from clr_jax.train import restore
from tests.conftest import ROOT

DIGITS = f'--config={ROOT}/configs/simclr_digits.py'
TINY = """
from clr_jax.config import default, finish

def get_config(variant=''):
    config = default()
    config.batch_size, config.steps = 16, 6
    config.data = {data}
    config.views.view = {{'size': 8, 'jitter': 0.0, 'grayscale': 0.0, 'blur': 0.0}}
    config.encoder.update(name='convnet', widths=(4,))
    config.method.update(projector=(4,))
    config.optimizer = {{'name': 'adamw', 'learning_rate': 1e-3, 'schedule': {{'warmup_epochs': 1.0}}}}
    config.probe.learning_rate = 0.0
    config.log_every = config.checkpoint_every = 1
    config.evaluation.update(train_examples=16, test_examples=8)
    return finish(config, variant)
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def program(monkeypatch, capfd):
    """program(*flags) -> Ended: the command in this process, as `entry.run` runs it."""
    given = flags.FLAGS
    monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)
    monkeypatch.setattr(
        entry, 'keep_memory', lambda: None
    )  # the memory of the tests is not the program's

    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['main.py', *words])
        given.unparse_flags()
        for name in list(given):
            if name.startswith('config.'):
                delattr(given, name)
            elif name in ('config', 'workdir', 'debug'):
                given[name].unparse()
        capfd.readouterr()
        code = entry._guarded(clr_jax.main.main)
        return Ended(code, *capfd.readouterr())

    return run


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / 'run'


@pytest.fixture
def tiny(tmp_path):
    """tiny(data) -> the flag of a config that takes seconds."""

    def write(data=None):
        (tmp_path / 'tiny.py').write_text(TINY.format(data=data or {'name': 'digits'}))
        return f'--config={tmp_path}/tiny.py'

    return write


def one_line(ended: Ended, code: int, *words: str):
    """It ended with `code` and one line, which has these words."""
    assert ended.code == code, ended.err
    assert ended.out == ''
    assert len(ended.err.splitlines()) == 1, ended.err
    assert ended.err.startswith('error: ')
    for word in words:
        assert word in ended.err


# Flags.


@pytest.fixture
def given(program, monkeypatch):
    """given(*flags) -> (config, workdir) that reach `fit`."""
    calls = []
    monkeypatch.setattr('clr_jax.train.fit', lambda *args: calls.append(args))

    def run(*words):
        calls.clear()
        assert program(*words) == (0, '', '')
        return calls[0]

    return run


def test_overrides_reach_the_run(given, workdir):
    config, where = given(
        DIGITS,
        f'--workdir={workdir}',
        '--config.seed=5',
        '--config.epochs=3',
        '--config.optimizer.learning_rate=1e-4',
        '--config.encoder.widths=(8, 16)',
        '--config.encoder.dtype=bfloat16',
        '--config.method.name=other',
        '--config.bn_groups=2',
        '--config.groups={}',
    )
    assert where == str(workdir)
    changed = configs.differences(configs.load(DIGITS.partition('=')[2]).to_dict(), config)
    assert [line.partition(':')[0] for line in changed] == [
        'bn_groups',
        'encoder.bn_groups',
        'encoder.dtype',
        'encoder.widths',
        'epochs',
        'method.bn_groups',
        'method.name',
        'optimizer.learning_rate',
        'seed',
    ]
    assert config['epochs'] == 3.0
    assert (
        config['encoder'] | {'bn_groups': 2, 'dtype': 'bfloat16', 'widths': (8, 16)}
        == config['encoder']
    )
    assert type(config) is dict


@pytest.mark.parametrize(('flag', 'value'), [('', False), ('=true', True), ('=false', False)])
def test_a_flag_that_is_true_or_false(given, workdir, flag, value):
    config = ROOT / 'configs' / 'simclr_cifar10.py'
    word = f'--config.encoder.zero_init{flag}' if flag else '--noconfig.encoder.zero_init'
    assert (
        given(f'--config={config}', f'--workdir={workdir}', word)[0]['encoder']['zero_init']
        is value
    )


def test_the_workdir_is_absolute_and_has_a_default(given, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert given(DIGITS, '--workdir=here')[1] == str(tmp_path / 'here')
    assert given(DIGITS)[1] == str(tmp_path / 'runs' / 'simclr_digits')
    assert given(f'{DIGITS}:smoke')[1] == str(tmp_path / 'runs' / 'simclr_digits_smoke')
    assert list(tmp_path.iterdir()) == []


def test_smoke_is_the_smoke_form(given, workdir):
    config, _ = given(f'{DIGITS}:smoke', f'--workdir={workdir}')
    assert config == configs.load(f'{ROOT}/configs/simclr_digits.py:smoke').to_dict()


# Mistakes, none of which may leave a workdir.


@pytest.mark.parametrize(
    ('words', 'code', 'said'),
    [
        ([], USAGE, ['--config is missing']),
        ([DIGITS, '--confg=3'], USAGE, ["'confg'", 'Did you mean: config']),
        ([DIGITS, 'stray'], USAGE, ["unexpected argument 'stray'"]),
        ([DIGITS, '--processes=x'], USAGE, ['--processes=x']),
        (
            ['--config=configs/absent.py'],
            CONFIG,
            ['--config=configs/absent.py: there is no such file'],
        ),
        ([f'{DIGITS}:smok'], CONFIG, ['":smok"', 'did you mean "smoke"']),
        (
            [DIGITS, '--config.batchsize=3'],
            CONFIG,
            ['config has no "batchsize"', 'did you mean "batch_size"', 'Known: '],
        ),
        (
            [DIGITS, '--config.method.temp=3'],
            CONFIG,
            ['config.method has no "temp"', 'temperature'],
        ),
        ([DIGITS, '--config.method=simclr'], CONFIG, ['config.method is a section', 'temperature']),
        ([DIGITS, '--config.seed.x=3'], CONFIG, ['config.seed is a value']),
        ([DIGITS, '--config.encoder.widths=abc'], CONFIG, ['encoder.widths is a list of numbers']),
        ([DIGITS, '--config.batch_size=many'], CONFIG, ['--config.batch_size=many', 'int']),
        ([DIGITS, '--config.batch_size=1.5'], CONFIG, ['--config.batch_size=1.5', 'int']),
        (
            [DIGITS, '--config.method.temperature=warm'],
            CONFIG,
            ['--config.method.temperature=warm', 'float'],
        ),
        (['--config.seed=3', DIGITS], CONFIG, ['--config.seed=3', 'before']),
    ],
)
def test_wrong_words_on_the_command_line(program, workdir, words, code, said):
    one_line(program(f'--workdir={workdir}', *words), code, *said)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ('override', 'said'),
    [
        ('method.name=simclrr', ["'simclrr'", 'clr_jax/methods/', 'did you mean "simclr"']),
        ('encoder.name=resnett', ["'resnett'", 'clr_jax/encoders/', 'did you mean "resnet"']),
        ('optimizer.name=adam', ['"adam"', 'did you mean "adamw"', 'lars', 'sgd']),
        ('data.name=digit', ["'digit'", 'did you mean "digits"', 'folder', 'tfds']),
        ('optimizer.schedule.name=cosin', ['"cosin"', 'did you mean "cosine"']),
        ('optimizer.scaling=liner', ['"liner"', 'did you mean "linear"']),
        ('method.loss=ntxent', ['"ntxent"', 'did you mean "nt_xent"']),
        ('views.view.interpolation=bicubik', ['"bicubik"', 'did you mean "bicubic"']),
        ('views.view.flip=2', ['flip=2.0', 'probability']),
        ('views.view.size=0', ['size=0']),
        ('method.temperature=0', ['config.method.temperature=0']),
        ('optimizer.learning_rate=-1', ['learning_rate is -1']),
        ('optimizer.learning_rate=nan', ['learning_rate is nan']),
        ('batch_size=60', ['batch_size=60', '8 devices', 'a multiple of 8']),
        ('batch_size=0', ['batch_size=0']),
        ('batch_size=2048', ['batch_size=2048', '1437 training examples']),
        ('bn_groups=3', ['bn_groups=3']),
        ('epochs=0', ['a run of 0', 'config.epochs']),
        ('epochs=nan', ['config.epochs']),
        ('steps=-1', ['a run of -1 steps', 'config.steps']),
        ('data.test_fraction=1.5', ['config.data.test_fraction=1.5']),
        ('pretrained.workdir=/absent', ['/absent is not the workdir of a run']),
    ],
)
def test_wrong_values_in_the_config(program, workdir, override, said):
    code = INPUT if 'pretrained' in override else CONFIG
    one_line(program(DIGITS, f'--workdir={workdir}', f'--config.{override}'), code, *said)
    assert not workdir.exists()


def test_a_mistake_in_the_file(program, workdir, tmp_path):
    for text, said in (
        (
            'def get_config(variant=""):\n    return wrong\n',
            "line 2: NameError: name 'wrong' is not defined",
        ),
        ('def get_config(:\n', 'line 1: SyntaxError'),
    ):
        (tmp_path / 'mine.py').write_text(text)
        ended = program(f'--config={tmp_path}/mine.py', '--config.seed=3', f'--workdir={workdir}')
        one_line(ended, CONFIG, f'{tmp_path}/mine.py', said)
    assert not workdir.exists()


@pytest.mark.parametrize('part', ['method', 'encoder'])
def test_a_wrong_name_in_the_file(program, workdir, tmp_path, tiny, part):
    text = TINY.format(data={'name': 'digits'}).replace(
        'return', f'config.{part}.name = "simclrr"\n    return'
    )
    (tmp_path / 'mine.py').write_text(text)
    one_line(
        program(f'--config={tmp_path}/mine.py', f'--workdir={workdir}'),
        CONFIG,
        f'config.{part}.name',
        'Known: ',
    )
    assert not workdir.exists()


# Data.


def test_data_that_is_not_prepared(program, workdir, tmp_path, tiny):
    data = {'name': 'tfds', 'dataset': 'cifar10', 'data_dir': str(tmp_path)}
    said = ('cifar10 is not prepared', f'"tfds build cifar10 --data_dir={tmp_path}"')
    one_line(program(tiny(data), f'--workdir={workdir}'), INPUT, *said)
    assert not workdir.exists()


def test_folders_without_images(program, workdir, tmp_path, tiny):
    empty = tmp_path / 'empty'
    empty.mkdir()
    (tmp_path / 'file').write_text('not a folder')
    for path, code, said in (
        ('', CONFIG, 'config.data.path is empty'),
        (empty, INPUT, f'{empty} holds no images'),
        (tmp_path / 'absent', INPUT, f'{tmp_path}/absent is not a directory'),
        (tmp_path / 'file', INPUT, 'is not a directory'),
        (tmp_path / 'file' / 'below', INPUT, 'is not a directory'),
    ):
        data = {'name': 'folder', 'path': str(path)}
        one_line(program(tiny(data), f'--workdir={workdir}'), code, said)
    assert not workdir.exists()


def test_a_folder_that_cannot_be_read(program, workdir, tmp_path, tiny, monkeypatch):
    """As the system refuses it to anyone who is not root."""
    locked = tmp_path / 'locked'
    locked.mkdir()
    look = os.scandir

    def scandir(place):
        if os.fspath(place) == str(locked):
            raise PermissionError(13, 'Permission denied', str(locked))
        return look(place)

    monkeypatch.setattr(os, 'scandir', scandir)
    data = {'name': 'folder', 'path': str(locked)}
    one_line(
        program(tiny(data), f'--workdir={workdir}'),
        DATA,
        f'{locked} cannot be read: Permission denied',
    )
    assert not workdir.exists()


def test_an_image_that_cannot_be_decoded(program, workdir, tmp_path, tiny):
    rng = np.random.default_rng(0)
    for n in range(16):
        path = tmp_path / 'images' / 'train' / f'{n}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            tensorflow().io.encode_png(rng.integers(0, 256, (8, 8, 3), np.uint8)).numpy()
        )
    (tmp_path / 'images' / 'test').mkdir()
    (tmp_path / 'images' / 'test' / '0.png').write_bytes(path.read_bytes())
    broken = tmp_path / 'images' / 'train' / '11.png'
    broken.write_bytes(path.read_bytes()[:40])
    words = tiny({'name': 'folder', 'path': str(tmp_path / 'images')}), f'--workdir={workdir}'
    ended = program(*words)
    assert ended.code == DATA
    assert 'Traceback' not in ended.err
    last = ended.err.splitlines()[-1]
    assert last.startswith(f'error: {broken} cannot be read: ')
    assert [line for line in ended.err.splitlines() if line.startswith('error: ')] == [last]
    went_on = program(*words, '--config.data.max_bad_fraction=0.1')
    assert went_on.code == 0, went_on.err
    assert went_on.err.count(f'{broken} is replaced: ') == 1
    assert went_on.err.count(f'1 of 16 examples of {broken.parent} (train) cannot be read') == 1
    records = (workdir / 'metrics.jsonl').read_text().splitlines()
    assert records
    assert {json.loads(line)['bad_examples'] for line in records} == {1}


# Workdirs.


def test_workdirs_that_are_not_for_this_run(program, tmp_path, tiny):
    config = configs.load(tiny().partition('=')[2]).to_dict()
    of_another, foreign, file = (tmp_path / name for name in ('another', 'foreign', 'file'))
    of_another.mkdir()
    configs.save(config | {'seed': 1, 'batch_size': 32}, of_another)
    foreign.mkdir()
    (foreign / 'thesis.tex').write_text('years of work')
    file.write_text('text')
    for place, code, said in (
        (
            of_another,
            CONFIG,
            ['another config', 'batch_size: 32 -> 16; seed: 1 -> 0', 'use another --workdir'],
        ),
        (foreign, CONFIG, ['is not empty and holds no run']),
        (file, CONFIG, [f'--workdir={file} is a file']),
        (file / 'below', OUTPUT, ['cannot be written', 'Not a directory']),
    ):
        one_line(program(tiny(), f'--workdir={place}'), code, *said)
    assert [p.name for p in of_another.iterdir()] == ['config.json']
    assert configs.saved(of_another)['seed'] == 1
    assert [p.name for p in foreign.iterdir()] == ['thesis.tex']
    assert file.read_text() == 'text'


def test_a_run_may_log_and_evaluate_otherwise_when_it_resumes(tmp_path, tiny):
    config = configs.load(tiny().partition('=')[2]).to_dict()
    configs.save(config, tmp_path)
    for key, value in {'log_every': 7, 'checkpoint_every': 9, 'keep': 1}.items():
        workdirs.check(tmp_path, config | {key: value})
    evaluation = config['evaluation'] | {'every': 3, 'crop': 0.5}
    workdirs.check(tmp_path, config | {'evaluation': evaluation})
    workdirs.check(tmp_path, config)
    for key in ('seed', 'steps', 'epochs', 'batch_size', 'bn_groups'):
        with pytest.raises(entry.Problem, match=f'{key}: {config[key]} -> {config[key] + 1}'):
            workdirs.check(tmp_path, config | {key: config[key] + 1})


# A run that fails on its way.


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_its_checkpoints(program, workdir, tiny):
    """The rate rises from zero: the first step changes nothing, the second makes weights of 1e28, the third meets them."""
    ended = program(tiny(), f'--workdir={workdir}', '--config.optimizer.learning_rate=1e30')
    assert ended.code == NO_PROGRESS
    assert 'Traceback' not in ended.err
    last = ended.err.splitlines()[-1]
    assert last.startswith('error: the loss is not finite at step 3 ')
    assert 'config.optimizer.learning_rate' in last
    assert Checkpoints(workdir, read_only=True).steps() == [1, 2]
    _, ts, step = restore(workdir)
    assert step == 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(ts)))
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == [1, 2]


def test_a_run_that_is_told_to_leave_saves_and_goes_on_from_there(
    program, workdir, tiny, monkeypatch
):
    """Steps that were not to be logged leave no line; the lock is gone."""
    flags = tiny(), f'--workdir={workdir}', '--config.log_every=2', '--config.checkpoint_every=6'
    before = clr_jax.train.Profile.before
    leave = lambda self, step: step == 3 and os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setattr(clr_jax.train.Profile, 'before', leave)
    ended = program(*flags)
    assert ended.code == PREEMPTED
    said = 'preempted: step 3 of 6 is saved: the same command goes on from there'
    assert ended.err.splitlines()[-1] == said
    assert Checkpoints(workdir, read_only=True).steps() == [3]
    assert not (workdir / 'lock').exists()
    monkeypatch.setattr(clr_jax.train.Profile, 'before', before)
    ended = program(*flags)
    assert ended.code == 0
    assert 'resumed from step 3\n' in ended.err
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == [2, 4, 6]


def test_a_disk_that_fills_is_one_line(program, workdir, tiny, monkeypatch):
    """Orbax tells of it in words of its own, from a thread, when the next checkpoint is asked for."""
    save = Checkpoints.wait

    def wait(self):
        save(self)
        if self.steps() == [1, 2]:
            raise ValueError(f'RESOURCE_EXHAUSTED: {os.strerror(errno.ENOSPC)} [tensorstore]')

    monkeypatch.setattr(Checkpoints, 'wait', entry.writing('a checkpoint')(wait))
    ended = program(tiny(), f'--workdir={workdir}')
    assert ended.code == OUTPUT
    assert (
        ended.err.splitlines()[-1]
        == 'error: a checkpoint cannot be written: No space left on device'
    )
    assert 'Traceback' not in ended.err
    monkeypatch.undo()
    assert restore(workdir)[2] == 2


# As a process of its own.


def command(*words, module='clr_jax.main'):
    return subprocess.run(
        [sys.executable, '-m', module, *words], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ('module', 'words', 'code', 'said'),
    [
        (
            'clr_jax.main',
            [],
            USAGE,
            'error: --config is missing, e.g. --config=configs/simclr_digits.py',
        ),
        ('clr_jax.evaluate', [], USAGE, 'error: --workdir is missing'),
        ('clr_jax.evaluate', ['--workdir=/absent', '--draws=x'], USAGE, 'error: flag --draws=x'),
    ],
)
def test_the_exit_code_of_the_process(module, words, code, said):
    ended = command(*words, module=module)
    assert (ended.returncode, ended.stdout) == (code, '')
    assert ended.stderr.startswith(said)
    assert len(ended.stderr.splitlines()) == 1


def test_debug_shows_where(workdir):
    wrong = '--config.method.temprature=1'
    ended = command('--debug', '--config=configs/simclr_digits.py', f'--workdir={workdir}', wrong)
    assert ended.returncode == CONFIG
    lines = ended.stderr.splitlines()
    assert lines[0] == 'Traceback (most recent call last):'
    assert any('in check_override' in line for line in lines)
    assert lines[-1].startswith(f'error: {wrong.partition("=")[0]}: ')
    assert not workdir.exists()


@pytest.mark.parametrize('module', ['clr_jax.main', 'clr_jax.evaluate'])
def test_help_is_quick(module):
    """It answers before anything that takes seconds is imported."""
    script = (
        'import runpy, sys\n'
        f'sys.argv = ["x", "--help"]\n'
        'try:\n'
        f'    runpy.run_module("{module}", run_name="__main__", alter_sys=True)\n'
        'except SystemExit as end:\n'
        '    heavy = {"jax", "flax", "optax", "orbax", "tensorflow", "tensorflow_datasets", "sklearn"}\n'
        '    print(end.code, sorted(heavy & set(sys.modules)), file=sys.stderr)\n'
    )
    ended = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr == '0 []\n'
    for flag in ('--workdir:', '--[no]debug:'):
        assert flag in ended.stdout
    own = {'clr_jax.main': '--config:', 'clr_jax.evaluate': '--protocol:'}[module]
    assert own in ended.stdout
