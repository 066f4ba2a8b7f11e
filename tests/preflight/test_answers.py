"""The process that compiles: its limits, its words, and the answers that are kept."""

import json
import sys

import pytest

from clr_jax.entry import CONFIG, STUCK, Problem
from clr_jax.preflight import answers

ASKED = {'config': {'batch_size': 8}, 'topology': 'v5e:2x2', 'slices': 1}


@pytest.fixture
def python(monkeypatch, tmp_path, libtpu):
    """python(lines) makes the process run these lines of a shell instead; $4 is where it answers. What is
    kept goes to a folder of the test."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    script = tmp_path / 'python'

    def python(lines: str):
        script.write_text(f'#!/bin/sh\necho asked >>{tmp_path}/asked\n{lines}\n')
        script.chmod(0o755)
        monkeypatch.setattr(sys, 'executable', str(script))
        return lambda: len((tmp_path / 'asked').read_text().split())

    return python


def test_an_answer_is_asked_for_once(python, monkeypatch):
    asked = python("""echo '{"fits": true}' >"$4" """)
    assert answers.answer(ASKED, 1) == answers.answer(ASKED, 1) == {'fits': True}
    assert asked() == 1
    answers.answer(ASKED | {'slices': 2}, 1)
    assert asked() == 2
    answers.answer(ASKED, 1, cache=False)
    assert asked() == 3
    versions = answers.versions()
    monkeypatch.setattr(answers, 'versions', lambda: versions | {'libtpu': '0'})
    answers.answer(ASKED, 1)
    assert asked() == 4


def test_the_process_is_told_what_is_asked_and_nothing_of_the_users_run(python, monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--loud')
    monkeypatch.setenv('LIBTPU_INIT_ARGS', '--loud')
    monkeypatch.setenv('JAX_ENABLE_X64', '1')
    python("""
        [ -z "$XLA_FLAGS$LIBTPU_INIT_ARGS$JAX_ENABLE_X64" ] || exit 9
        [ "$JAX_PLATFORMS $ALLOW_MULTIPLE_LIBTPU_LOAD $2" = "cpu 1 clr_jax.preflight.program" ] || exit 8
        cat "$3" >"$4"
    """)
    assert answers.answer(ASKED, 1, cache=False) == ASKED


@pytest.mark.parametrize(
    ('lines', 'code', 'said'),
    [
        ('exec sleep 60', STUCK, 'the TPU compiler has not ended after --timeout=0.005 minutes'),
        ('echo one >&2; echo two >&2; exit 3', 1, 'ended with exit code 3: two'),
        ("""echo '{"problem": "no such method", "code": 78}' >"$4" """, CONFIG, 'no such method'),
    ],
)
def test_what_goes_wrong_is_one_line_and_is_not_kept(python, lines, code, said):
    python(lines)
    with pytest.raises(Problem, match=said) as problem:
        answers.answer(ASKED, 0.005 if code == STUCK else 1)
    assert problem.value.code == code
    assert not answers.folder().exists()


def test_without_libtpu_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(answers.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(Problem, match=r"pip install 'clr_jax\[preflight\]'"):
        answers.versions()


def test_versions_name_what_compiles(libtpu):
    assert answers.versions().keys() == {'libtpu', 'jax', 'jaxlib', 'clr_jax'}


def test_a_request_has_a_key_of_its_contents(libtpu):
    other = json.loads(json.dumps(ASKED))
    assert answers.key(ASKED) == answers.key(other)
    other['config']['batch_size'] = 16
    assert answers.key(ASKED) != answers.key(other)
