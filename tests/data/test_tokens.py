"""Tokenizers: fixed lengths with the ends in place, and training that every process repeats."""

import builtins
import json
import subprocess
import sys

import numpy as np
import pytest

from clr_jax.data import tokens
from clr_jax.entry import DATA, INPUT, Problem
from tests.conftest import ROOT

SENTENCES = [
    f'The {a} {b} {c}s over {d} lazy dogs, again and again!'
    for a in ('quick', 'slow', 'naïve')
    for b in ('brown', 'red')
    for c in ('jump', 'leap', 'hurdle')
    for d in ('two', 'seven')
]
TOKENIZER = tokens.train(SENTENCES, 90)


def test_sentences_are_cut_and_padded_to_one_length_with_their_ends():
    rows = tokens.encode(TOKENIZER, ['the dogs jump', '', SENTENCES[0]], 6)
    assert rows.dtype == np.int32
    assert rows.shape == (3, 6)
    number = TOKENIZER.model.token_to_id
    first, last, pad = (number(token) for token in ('[CLS]', '[SEP]', '[PAD]'))
    assert pad == TOKENIZER.padding == 0
    assert rows[1].tolist() == [first, last, 0, 0, 0, 0]
    assert rows[2, 0] == first
    assert rows[2, -1] == last
    whole = TOKENIZER.model.encode(SENTENCES[0]).ids
    assert rows[2].tolist() == [*whole[:5], last]
    np.testing.assert_array_equal(tokens.encode(TOKENIZER, SENTENCES, 40)[0, : len(whole)], whole)


def test_words_are_made_of_pieces_in_lower_case_and_without_accents():
    pieces = TOKENIZER.model.encode('NAIVE again').tokens
    assert ''.join(pieces).replace('##', '') == '[CLS]naiveagain[SEP]'
    assert 'again' in pieces
    assert TOKENIZER.model.encode('☃').tokens == ['[CLS]', '[UNK]', '[SEP]']
    # the pieces are no special tokens: '##s' in a text is not one
    assert tokens.encode(TOKENIZER, ['##s'], 5)[0].tolist()[1:3] == [1, 1]
    assert TOKENIZER.size == len(TOKENIZER.model.get_vocab()) <= 90


def test_every_process_trains_the_same():
    program = (
        'from clr_jax.data import tokens; from tests.data.test_tokens import SENTENCES;'
        'print(tokens.train(SENTENCES, 90).model.to_str())'
    )
    run = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == TOKENIZER.model.to_str()


def test_what_is_saved_is_loaded_and_not_trained_again(tmp_path):
    path = tmp_path / 'cache' / 'tokenizer.json'
    made = tokens.trained(path, SENTENCES, 90)
    assert [p.name for p in path.parent.iterdir()] == ['tokenizer.json']
    again = tokens.trained(path, ['something else'], 70)
    assert made.model.to_str() == again.model.to_str() == TOKENIZER.model.to_str()
    assert again[1:] == made[1:] == TOKENIZER[1:]


def test_the_padding_is_the_files_own(tmp_path):
    path = tmp_path / 'tokenizer.json'
    text = json.loads(TOKENIZER.model.to_str())
    text['padding'] = {
        'strategy': {'Fixed': 50},
        'direction': 'Right',
        'pad_to_multiple_of': None,
        'pad_id': 4,
        'pad_type_id': 0,
        'pad_token': '[MASK]',
    }
    text['truncation'] = {
        'max_length': 3,
        'strategy': 'LongestFirst',
        'stride': 0,
        'direction': 'Right',
    }
    path.write_text(json.dumps(text))
    tokenizer = tokens.load(path)
    assert tokenizer.padding == 4
    rows = tokens.encode(tokenizer, ['the dogs'], 9)
    expected = tokens.encode(TOKENIZER, ['the dogs'], 9)
    np.testing.assert_array_equal(rows, np.where(expected == 0, 4, expected))


def test_clips_tokenizer_pads_with_zero_behind_the_end(tmp_path):
    """A file like CLIP's: byte pairs, with marks of begin and end and no token to pad with."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {'!': 0, 'a': 1, 'b</w>': 2, 'ab</w>': 3, '<|startoftext|>': 4, tokens.END: 5}
    how = {'end_of_word_suffix': '</w>', 'unk_token': tokens.END}
    model = Tokenizer(models.BPE(vocabulary, [('a', 'b</w>')], **how))
    model.normalizer, model.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [('<|startoftext|>', 4), (tokens.END, 5)]
    model.post_processor = processors.RobertaProcessing(ends[1], ends[0])
    path = tmp_path / 'tokenizer.json'
    path.write_text(model.to_str())
    tokenizer = tokens.load(path)
    assert tokenizer[1:] == (0, 6)
    rows = tokens.encode(tokenizer, ['AB ab', 'ab ' * 9], 6)
    np.testing.assert_array_equal(rows, [[4, 3, 3, 5, 0, 0], [4, 3, 3, 3, 3, 5]])
    path.write_text(model.to_str().replace(tokens.END, '<|end|>'))
    with pytest.raises(Problem, match='no token to pad with'):
        tokens.load(path)


def test_mistakes_are_problems_of_one_line(tmp_path):
    path = tmp_path / 'tokenizer.json'
    with pytest.raises(Problem, match='cannot be read: No such file') as problem:
        tokens.load(path)
    assert problem.value.code == INPUT
    path.write_text('{}')
    with pytest.raises(Problem, match='is not one') as problem:
        tokens.load(path)
    assert problem.value.code == DATA
    with pytest.raises(Problem, match='length 2: there is no room'):
        tokens.encode(TOKENIZER, ['a'], 2)
    with pytest.raises(Problem, match='vocabulary of 10 is too small: 3 characters need 11'):
        tokens.train(['abc'], 10)


def test_without_the_library_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == 'tokenizers':
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', absent)
    with pytest.raises(Problem, match=r'pip install clr_jax\[text\]'):
        tokens.train(SENTENCES, 90)
