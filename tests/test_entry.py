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
    for name in ('debug', 'coordinator', 'processes', 'process', 'multihost'):
        flags.FLAGS[name].unparse()


def failing(error):
    def main():
        raise error

    return main


def test_codes_are_those_of_sysexits():
    """The contract with launchers; `sysexits.h` has the names."""
    codes = entry.USAGE, entry.DATA, entry.INPUT, entry.CONFIG
    assert codes == (os.EX_USAGE, os.EX_DATAERR, os.EX_NOINPUT, os.EX_CONFIG)
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


@pytest.mark.parametrize(
    ('words', 'joined'),
    [
        ([], []),
        (['--multihost'], [()]),
        (
            ['--coordinator=10.0.0.1:8476', '--processes=4', '--process=3'],
            [('10.0.0.1:8476', 4, 3)],
        ),
    ],
)
def test_processes_are_joined_when_asked(run, monkeypatch, words, joined):
    calls = []
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *args: calls.append(args))
    monkeypatch.setattr(entry, 'keep_memory', lambda: None)
    assert run(entry.start_devices, *words)[0] == 0
    assert calls == joined


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
