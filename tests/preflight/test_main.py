"""The command: flags in, a report and an exit code out; what the compiler says is made up."""

import json
import sys

import pytest
from absl import flags

import clr_jax.main  # noqa: F401 - defines the flags that all programs share, once in a process
from clr_jax import entry
from clr_jax.preflight import __main__ as preflight
from tests.conftest import ROOT
from tests.preflight.test_report import GiB, facts

DIGITS = f'--config={ROOT}/configs/simclr_digits.py:smoke'


@pytest.fixture(scope='module', autouse=True)
def defined():
    before = set(flags.FLAGS)
    with pytest.MonkeyPatch.context() as patch:
        for shared in ('define_config', 'define_flags'):
            patch.setattr(entry, shared, lambda: None)
        preflight.define_flags()
    yield
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@pytest.fixture
def run(monkeypatch, capsys, libtpu):
    """run(*flags) -> (exit code, stdout, stderr); `asked` is what the compiler was asked. A batch above
    500 does not fit."""
    asked = []

    def answer(request, minutes, cache):
        asked.append(request)
        size = request['config']['batch_size']
        if size <= 500:
            return facts(devices=4, hosts=1, cycles=1000 * size)
        return {'fits': False, 'needed': 20 * GiB, 'usable': 16 * GiB, 'devices': 4, 'hosts': 1}

    monkeypatch.setattr(preflight.answers, 'answer', answer)
    monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)

    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['preflight', '--examples=9999', '--classes=9', *words])
        code = entry._guarded(preflight.main)
        flags.FLAGS.unparse_flags()
        for name in preflight.FLAGS:
            flags.FLAGS[name].unparse()
        return code, *capsys.readouterr()

    run.asked = asked
    return run


def test_what_fits_ends_with_0(run):
    code, out, err = run(
        DIGITS, '--topology=v5e:2x2', '--num-slices=3', '--examples=99', '--classes=7'
    )
    assert (code, err) == (0, '')
    assert out.startswith('simclr_digits:smoke on 3 slices of v5e:2x2')
    (asked,) = run.asked
    assert {k: v for k, v in asked.items() if k != 'config'} == {
        'topology': 'v5e:2x2',
        'slices': 3,
        'examples': 99,
        'classes': 7,
    }


def test_what_does_not_fit_ends_with_69_and_flags_change_the_config(run):
    code, out, _ = run(DIGITS, '--config.batch_size=512', '--topology=v5e:2x2', '--json')
    assert code == entry.UNFIT == 69
    found = json.loads(out)
    assert (found['fits'], found['needed']) == (False, 20 * GiB)
    assert found['batch'] == {'global': 512, 'host': 512, 'device': 128}


def test_the_largest_batch(run):
    code, out, err = run(DIGITS, '--topology=v5e:2x2', '--largest-batch')
    assert code == 0
    assert out.startswith('largest batch that fits, in multiples of 4: 500\n')
    assert 'batch 4,096' not in out
    assert 'batch 500 fits' in err
    assert 'batch 512 does not fit' in err
    assert run.asked[0]['config']['batch_size'] == 64
    pieces = '--config.accumulate.exact=3', '--config.accumulate.plain=5'
    _, out, _ = run(DIGITS, '--topology=v5e:2x2', '--largest-batch', *pieces)
    assert out.startswith('largest batch that fits, in multiples of 60: 480\n')


def test_two_configs_by_their_cycles(run):
    configs = f'{ROOT}/configs/simclr_digits.py:smoke,{ROOT}/configs/simclr_cifar10_small.py'
    code, out, _ = run(f'--compare={configs}', '--topology=v5e:2x2')
    assert code == 0
    assert 'simclr_cifar10_small / simclr_digits:smoke on v5e:2x2: 2.000 in estimated cycles' in out
    assert ' ms' not in out
    code, out, _ = run(f'--compare={configs}', '--topology=v5e:2x2', '--json')
    assert json.loads(out)['ratio'] == 2


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        ([DIGITS], 'error: --topology is missing'),
        (['--topology=v5e:2x2'], 'error: --config is missing'),
        ([DIGITS, '--topology=v5e:2x3'], 'v5e does not come in that size; nearest: '),
        ([DIGITS, '--topology=v5e:2x2', '--timeout=-1'], '--timeout=-1'),
        (['--compare=a', '--topology=v5e:2x2'], 'two of them'),
    ],
)
def test_wrong_use_is_one_line(run, words, said):
    code, out, err = run(*words)
    assert (code, out) == (entry.USAGE, '')
    assert said in err
    assert len(err.splitlines()) == 1
    assert run.asked == []


@pytest.mark.parametrize(
    ('word', 'meant'),
    [
        ('--num-slices=2-3', '--num_slices=2-3'),
        ('--no-cache', '--nocache'),
        ('--largest-batch', '--largest_batch'),
        ('--config.data.path=a-b', '--config.data.path=a-b'),
        ('stray-word', 'stray-word'),
    ],
)
def test_flags_may_have_dashes(word, meant):
    assert entry._underscored(word) == meant
