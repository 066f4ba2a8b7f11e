"""Back-translation with a real program in the loop: what it says comes back in order, is kept, and its
failures are named."""

import sys
from pathlib import Path

import pytest

from clr_jax.data.translation import back_translated
from clr_jax.entry import DATA, INPUT, Problem

# A translator of two words, which counts its calls: to and from 'xx' by another wording.
PROGRAM = """
import sys
source, target, sample, calls = sys.argv[1:]
open(calls, 'a').write('.')
words = {'big': 'gross', 'dog': 'hund'} if target == 'xx' else {'gross': 'large', 'hund': 'hound'}
for line in sys.stdin:
    print(*(words.get(word, word) for word in line.split()), 'again' * (sample == '1'))
"""
TEXTS = ['a big dog', 'the  dog\nbarks', '', 'big big']


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    path = tmp_path / 'translate.py'
    path.write_text(PROGRAM)
    return f'{sys.executable} {path} {{source}} {{target}} {{sample}} {tmp_path / "calls"}'


def test_texts_come_back_in_other_words_and_are_kept(command, tmp_path):
    for _ in range(2):  # the second time from the cache
        found = back_translated(TEXTS, command, languages=('xx',), samples=2)
        assert [wordings[0] for wordings in found] == [
            *('a large hound', 'the hound barks', '', 'large large')
        ]
        assert found[3][1] == 'large large again again'
    assert (tmp_path / 'calls').read_text() == '....'  # there and back, two samples
    back_translated([*TEXTS, 'new'], command, languages=('xx',))
    assert (tmp_path / 'calls').read_text() == '......'


def test_a_function_translates_too():
    def upper(texts, source, target, sample):
        return [f'{text} {source}>{target}{sample}' for text in texts]

    found = back_translated(['a'], upper, languages=('fr', 'de'))
    assert found == [['a en>fr0 fr>en0', 'a en>de0 de>en0']]
    with pytest.raises(Problem, match='0 translations of 1 texts'):
        back_translated(['a'], lambda *_: [])


@pytest.mark.parametrize(
    ('program', 'code', 'said'),
    [
        ('print("one line")', DATA, 'gave 1 lines for 4'),
        ('raise SystemExit("no model")', DATA, 'exit code 1: no model'),
        (None, INPUT, 'cannot be run'),
    ],
)
def test_a_translator_that_fails_is_named(tmp_path, monkeypatch, program, code, said):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    path = tmp_path / 'program.py'
    path.write_text(program or '')
    command = f'{sys.executable} {path}' if program else str(Path('/absent/translator'))
    with pytest.raises(Problem) as raised:
        back_translated(TEXTS, command)
    assert raised.value.code == code
    assert said in str(raised.value)
