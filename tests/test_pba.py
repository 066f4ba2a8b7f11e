"""The command: flags in, the path of a schedule out; the search is made up."""

import sys

import pytest
from absl import flags

import clr_jax.main  # noqa: F401 - defines the flags that all programs share, once in a process
from clr_jax import entry, pba, trials
from tests.conftest import ROOT

DIGITS = f'--config={ROOT}/configs/pba_cifar10_small.py:smoke'


@pytest.fixture(scope='module', autouse=True)
def defined():
    before = set(flags.FLAGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, 'define_config', lambda: None)
        patch.setattr(entry, 'define_flags', lambda: None)
        patch.setattr(flags, 'DEFINE_string', lambda *_: None)  # workdir, which main has defined
        pba.define_flags()
    yield
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@pytest.fixture
def run(monkeypatch, capsys):
    """run(*flags) -> (exit code, stdout, stderr)."""
    said = lambda config, workdir, **how: f'{workdir} {config["epochs"]} {how}'
    monkeypatch.setattr(trials, 'search', said)
    monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)

    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['pba', *words])
        code = entry._guarded(pba.main)
        flags.FLAGS.unparse_flags()
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
        return code, *capsys.readouterr()

    return run


def test_flags_reach_the_search(run, tmp_path):
    code, out, err = run(DIGITS, f'--workdir={tmp_path}', '--trials=3', '--config.epochs=7')
    assert (code, out, err) == (0, f"{tmp_path} 7.0 {{'trials': 3, 'interval': 3}}\n", '')
    code, out, _ = run(DIGITS, '--interval=2')
    assert code == 0
    assert "runs/pba_cifar10_small_smoke_pba 4.0 {'trials': 8, 'interval': 2}" in out


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        ((), '--config is missing'),
        ((DIGITS, '--trials=1'), '--trials=1: 1 is not integer >= 2'),
        ((DIGITS, '--interval=0'), '--interval=0: 0 is not a positive integer'),
    ],
)
def test_wrong_flags_are_one_line(run, words, said):
    code, out, err = run(*words)
    assert (code, out) == (entry.USAGE, '')
    assert said in err
    assert err.count('\n') == 1
