"""How programs end: a user's mistake in one line with a code that means something, a bug in a traceback, and at once."""

import os
import subprocess
import sys
import textwrap

import jax
import pytest
from absl import flags

import clr_jax.main
from clr_jax import entry
from clr_jax.entry import Problem, absolute, default_workdir, known, nearest
from tests.conftest import ROOT


@pytest.fixture
def run(monkeypatch, capsys):
    """run(main, *flags) -> (exit code, stdout, stderr), in this process."""
    monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)

    def run(main, *words):
        monkeypatch.setattr(sys, 'argv', ['program', *words])
        code = entry._guarded(main)
        return code, *capsys.readouterr()

    yield run
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS.flags_by_module_dict()[entry.__name__]:
        name = name.name
        flags.FLAGS[name].unparse()


def failing(error):
    def main():
        raise error

    return main


def test_codes_are_those_of_sysexits():
    """The contract with launchers; `sysexits.h` has the names."""
    codes = entry.USAGE, entry.DATA, entry.INPUT, entry.OUTPUT, entry.CONFIG
    known = os.EX_USAGE, os.EX_DATAERR, os.EX_NOINPUT, os.EX_CANTCREAT, os.EX_CONFIG
    assert codes == known
    assert (entry.PREEMPTED, entry.NO_PROGRESS, entry.STUCK) == (42, 70, 75)


def test_a_program_that_ends_well(run):
    assert run(lambda: print('result')) == (0, 'result\n', '')


@pytest.mark.parametrize(
    'code', [entry.USAGE, entry.DATA, entry.INPUT, entry.CONFIG, entry.NO_PROGRESS]
)
def test_a_problem_is_one_line_and_its_code(run, code):
    assert run(failing(Problem('first\n  second\tthird', code))) == (
        code,
        '',
        'error: first second third\n',
    )


def test_a_problem_is_one_of_the_config_unless_it_says_otherwise():
    assert Problem('x').code == entry.CONFIG


def test_debug_adds_the_traceback(run):
    code, _, err = run(failing(Problem('what', entry.DATA)), '--debug')
    assert code == entry.DATA
    lines = err.splitlines()
    assert lines[0] == 'Traceback (most recent call last):'
    assert any('in main' in line for line in lines)
    assert lines[-1] == 'error: what'


@pytest.mark.parametrize(
    'error', [RuntimeError('surprise'), KeyError('surprise'), MemoryError('surprise')]
)
def test_a_bug_keeps_its_traceback(run, error):
    code, _, err = run(failing(error))
    assert code == 1
    assert err.startswith('Traceback (most recent call last):')
    assert 'surprise' in err.splitlines()[-1]


@pytest.mark.parametrize(('given', 'code'), [(None, 0), (0, 0), (3, 3), ('message', 1)])
def test_an_exit_keeps_its_code(run, given, code):
    assert run(failing(SystemExit(given)))[0] == code


def test_an_interrupt_is_no_crash(run):
    assert run(failing(KeyboardInterrupt())) == (130, '', 'interrupted\n')


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--nonsense=1'], "Unknown command line flag 'nonsense'"),
        (['--confg=x'], 'Did you mean: config'),
        (['stray'], "unexpected argument 'stray'"),
        (['--debug', 'stray'], "unexpected argument 'stray'"),
        (['--process=many'], '--process=many'),
        (['--debug=perhaps'], '--debug=perhaps'),
        (['--workdir'], 'Missing value for flag --workdir'),
        (['--config.seed=3'], "Unknown command line flag 'config.seed'"),
    ],
)
def test_wrong_flags_are_a_usage_error(run, words, said):
    code, out, err = run(failing(AssertionError('main ran')), *words)
    assert code == entry.USAGE
    assert out == ''
    line = err.splitlines()[-1]
    assert line.startswith('error: ')
    assert said in line
    assert ('Traceback' in err) == ('--debug' in words)
    assert len(err.splitlines()) == 1 or '--debug' in words


@pytest.mark.parametrize('word', ['--help', '-h', '-help'])
def test_help_names_the_flags_and_runs_nothing(run, monkeypatch, word):
    monkeypatch.setitem(sys.modules, '__main__', clr_jax.main)
    code, out, err = run(failing(AssertionError('main ran')), word)
    assert (code, err) == (0, '')
    assert out.startswith(clr_jax.main.__doc__)
    for flag in (
        '--config:',
        '--config.<key>=<value>',
        '--workdir:',
        '--[no]debug:',
        '--coordinator:',
        '--processes:',
    ):
        assert flag in out


# The process itself.

PROGRAM = """
    import atexit, sys, threading, time
    from clr_jax import entry

    entry.define_flags()
    atexit.register(lambda: print('tidied up', flush=True))

    def main():
        threading.Thread(target=time.sleep, args=(600,), daemon={daemon}).start()  # as a peer that waits for us
        print('said before')
        {act}

    entry.run(main)
"""


def process(folder, act: str, daemon: bool = False):
    path = folder / 'program.py'
    path.write_text(textwrap.dedent(PROGRAM).format(act=act, daemon=daemon))
    return subprocess.run(
        [sys.executable, path],
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ('act', 'code', 'last'),
    [
        ('raise entry.Problem("why", entry.INPUT)', 66, 'error: why'),
        ('raise ValueError("why")', 1, 'ValueError: why'),
        ('sys.exit(42)', 42, ''),
    ],
)
def test_an_error_ends_the_process_at_once(tmp_path, act, code, last):
    """It waits for no thread and no exit handler: jax.distributed's would wait for processes that wait for this one."""
    done = process(tmp_path, act)
    assert done.returncode == code
    assert done.stdout == 'said before\n'
    assert done.stderr.strip().rsplit('\n')[-1] == last


def test_a_good_end_is_an_ordinary_one(tmp_path):
    done = process(tmp_path, 'pass', daemon=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'said before\ntidied up\n', '')


# Devices.


@pytest.fixture
def devices(monkeypatch):
    """devices(platform): what JAX finds; nothing of it lasts."""
    monkeypatch.setattr(entry, 'keep_memory', lambda: None)
    monkeypatch.setattr(entry, 'glob', lambda pattern: [])
    monkeypatch.delenv('JAX_PLATFORMS')
    return lambda kind: monkeypatch.setattr(jax, 'default_backend', lambda: kind)


@pytest.mark.parametrize(
    ('words', 'joined'),
    [
        ([], []),
        (['--multihost', '--heartbeat_timeout=7'], [((), 1800, 7)]),
        (
            ['--coordinator=10.0.0.1:8476', '--processes=4', '--process=3', '--start_timeout=60'],
            [(('10.0.0.1:8476', 4, 3), 60, 100)],
        ),
    ],
)
def test_processes_are_joined_when_asked(run, monkeypatch, devices, words, joined):
    calls = []

    def initialize(*args, initialization_timeout, heartbeat_timeout_seconds):
        calls.append((args, initialization_timeout, heartbeat_timeout_seconds))

    devices('tpu')
    monkeypatch.setattr(jax.distributed, 'initialize', initialize)
    assert run(entry.start_devices, *words)[0] == 0
    assert calls == joined


def test_a_cpu_does_not_take_the_place_of_a_tpu(run, monkeypatch, devices):
    """On a pod, or where there is one in the machine, unless JAX_PLATFORMS says so."""
    monkeypatch.setattr(jax.distributed, 'initialize', lambda **_: None)
    devices('cpu')
    assert run(entry.start_devices)[0] == 0
    code, _, err = run(entry.start_devices, '--multihost')
    assert (code, len(err.splitlines())) == (entry.CONFIG, 1)
    assert err.startswith('error: a TPU is expected and JAX finds a CPU alone: install')
    monkeypatch.setattr(
        entry, 'glob', lambda pattern: ['/dev/accel0'] if 'accel' in pattern else []
    )
    assert run(entry.start_devices)[0] == entry.CONFIG
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    assert run(entry.start_devices)[0] == 0


def test_devices_that_cannot_be_used_are_one_line_and_worth_another_try(run, monkeypatch, devices):
    """Another process may hold them still."""

    def fails():
        raise RuntimeError("Unable to initialize backend 'tpu': it is in use\nby process 3")

    monkeypatch.setenv('JAX_PLATFORMS', 'tpu')
    monkeypatch.setattr(jax, 'default_backend', fails)
    code, _, err = run(entry.start_devices)
    assert (code, len(err.splitlines())) == (1, 1)
    assert err.startswith('error: JAX_PLATFORMS=tpu: no such device can be used: Unable to')


def test_compiled_programs_are_kept_where_asked(run, monkeypatch, devices, tmp_path):
    given = {}
    devices('cpu')
    monkeypatch.setattr(jax.config, 'update', given.__setitem__)
    assert run(entry.start_devices, f'--compilation_cache={tmp_path}/a/b')[0] == 0
    assert given == {'jax_compilation_cache_dir': f'{tmp_path}/a/b'}
    assert (tmp_path / 'a' / 'b').is_dir()
    assert run(entry.start_devices, '--compilation_cache=gs://bucket/x')[0] == entry.USAGE
    (tmp_path / 'file').touch()
    code, _, err = run(entry.start_devices, f'--compilation_cache={tmp_path}/file/x')
    assert (code, 'cannot be written: Not a directory' in err) == (entry.OUTPUT, True)


@entry.writing('the log')
def write(error):
    try:
        raise error
    except OSError as cause:  # as libraries wrap it
        raise ValueError('could not save') from cause


def test_what_cannot_be_written_is_one_line():
    with pytest.raises(Problem, match='the log cannot be written: No space left') as error:
        write(OSError(28, 'No space left on device'))
    assert error.value.code == entry.OUTPUT
    with pytest.raises(ValueError, match='a bug'):
        write(ValueError('a bug'))


# Small things.


def test_the_nearest_word_is_named_and_all_that_are_known():
    assert nearest('smok', ['smoke', 'full']) == 'did you mean "smoke"? Known: full, smoke'
    assert nearest('zzz', ['smoke', 'full']) == 'Known: full, smoke'
    assert nearest(3, [1, 2]) == 'Known: 1, 2'


def test_words_that_are_not_allowed_are_refused():
    known(['a', 'b'], ('a', 'b', 'c'), 'here')
    with pytest.raises(
        Problem, match='here: no "momentun"; did you mean "momentum"[?] Known: lars, momentum'
    ) as error:
        known(['lars', 'momentun'], ('momentum', 'lars'), 'here')
    assert error.value.code == entry.CONFIG


@pytest.mark.parametrize(
    ('config', 'workdir'),
    [
        ('configs/simclr_digits.py', 'runs/simclr_digits'),
        ('configs/simclr_digits.py:smoke', 'runs/simclr_digits_smoke'),
        ('/elsewhere/my.config.py', 'runs/my.config'),
    ],
)
def test_the_workdir_is_named_after_the_config(config, workdir):
    assert default_workdir(config) == workdir


def test_a_workdir_is_absolute_or_a_bucket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', '/home/somebody')
    assert absolute('runs/x') == str(tmp_path / 'runs' / 'x')
    assert absolute('../x') == str(tmp_path.parent / 'x')
    assert absolute('~/x') == '/home/somebody/x'
    assert absolute('gs://bucket/x') == 'gs://bucket/x'
