"""Augmentation of words: a function of the key, at the rates it says."""

import math
from collections import Counter

import numpy as np
import pytest

from clr_jax.data import index, words
from clr_jax.entry import DATA, INPUT, Problem

TEXT = 'one two three four five six seven eight nine ten'
TIMES = 3000
LICENCE = '  1 This software is provided by Nobody.  \n'
NOUNS = (
    '00001740 03 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 001 @ 00000001 n 0000 | a pet; "it barks"  \n'
    '00001930 03 n 02 dog 0 frump 0 000 | a dull person  \n'
)
VERBS = (
    '00002000 30 v 02 chase 0 dog 0 001 @ 00000001 v 0000 01 + 08 00 | go after | with a bar  \n'
)
ADJECTIVES = '00003000 00 s 02 Galore(ip) 0 many 0 000 | in great numbers  \n'


def keys(n=TIMES):
    return index.key(0, np.arange(n))


@pytest.fixture
def wordnet(tmp_path):
    files = {'noun': NOUNS, 'verb': VERBS, 'adj': ADJECTIVES, 'adv': ''}
    for part, text in files.items():
        (tmp_path / f'data.{part}').write_text(LICENCE + text)
    return tmp_path


def within(rate, expected, n=TIMES):
    """Up to 5 standard deviations."""
    return np.abs(rate - expected) <= 5 * np.sqrt(expected * (1 - expected) / n)


def test_each_word_is_deleted_at_the_rate():
    found = [words.delete(TEXT, key, 0.3).split() for key in keys()]
    for word in TEXT.split():
        assert within(np.mean([word not in left for left in found]), 0.3)
    order = TEXT.split().index
    assert all(list(map(order, left)) == sorted(map(order, left)) for left in found)


def test_one_word_stays_at_least():
    found = Counter(words.delete('a b c', key, 1.0) for key in keys())
    assert found.keys() == {'a', 'b', 'c'}
    assert all(within(count / TIMES, 1 / 3) for count in found.values())
    assert words.delete('', keys()[0], 0.5) == ''


def test_words_change_places():
    for key in keys(50):
        once = words.swap(TEXT, key, 0.1).split()
        assert sum(a != b for a, b in zip(once, TEXT.split(), strict=True)) == 2
        assert sorted(words.swap(TEXT, key, 0.5).split()) == sorted(TEXT.split())
    pairs = Counter(words.swap('a b c', key) for key in keys())
    assert pairs.keys() == {'b a c', 'c b a', 'a c b'}
    assert all(within(count / TIMES, 1 / 3) for count in pairs.values())
    assert words.swap('alone', keys()[0]) == 'alone'


def test_wordnet_is_read(wordnet):
    found = list(words.synsets(wordnet))
    assert found[0] == (['dog', 'domestic dog', 'Canis familiaris'], 'a pet; "it barks"')
    assert found[2] == (['chase', 'dog'], 'go after | with a bar')
    assert found[3][0] == ['Galore', 'many']
    table = words.thesaurus(wordnet)
    assert table['dog'] == ('Canis familiaris', 'chase', 'domestic dog', 'frump')
    assert table['galore'] == ('many',)
    assert table['canis familiaris'] == ('dog', 'domestic dog')


def test_what_is_not_wordnet_is_a_problem(wordnet):
    (wordnet / 'data.adv').write_text('nonsense | of a sort\n')
    with pytest.raises(Problem, match='data.adv, line 1 is not a synset') as problem:
        words.thesaurus(wordnet)
    assert problem.value.code == DATA
    (wordnet / 'data.noun').unlink()
    with pytest.raises(Problem, match='data.noun cannot be read: No such file') as problem:
        words.thesaurus(wordnet)
    assert problem.value.code == INPUT


def test_words_are_replaced_by_their_synonyms():
    table = {'dog': ('frump', 'hound'), 'many': ('galore',)}
    text = 'Many a "Dog," and a dog'
    found = Counter(words.synonyms(text, key, table) for key in keys())
    # one of three words, of which two have two synonyms
    expected = {'Galore a "Dog," and a dog': 1 / 3}
    for new in ('frump', 'hound'):
        expected[f'Many a "{new.title()}," and a dog'] = 1 / 6
        expected[f'Many a "Dog," and a {new}'] = 1 / 6
    assert found.keys() == expected.keys()
    assert all(within(found[text] / TIMES, p) for text, p in expected.items())
    every = words.synonyms(text, keys()[0], table, 0.9).split()
    assert every[0] == 'Galore'
    assert 'dog' not in ' '.join(every).lower()
    assert words.synonyms('!? ...', keys()[0], table) == '!? ...'


CORPUS = ['a cat sat', 'a dog sat', 'a dog ran', 'a cat cat']


def test_scores_are_those_of_the_equations():
    table = words.frequencies(iter(CORPUS))
    idf = {'a': 0, 'cat': math.log(2), 'sat': math.log(2), 'dog': math.log(2), 'ran': math.log(4)}
    assert table.idf == pytest.approx(idf, rel=1e-12)
    assert table.unseen == math.log(4)
    assert table.words == ('a', 'cat', 'dog', 'ran', 'sat')
    score = np.array([4 * 0, 3 * math.log(2), 2 * math.log(2), math.log(4), 2 * math.log(2)])
    p = (score.max() - score) / (score.max() - score).sum()
    np.testing.assert_allclose(np.diff(table.cumulative, prepend=0), p, rtol=1e-12, atol=1e-15)


def test_words_that_say_little_are_replaced():
    table = words.frequencies(CORPUS)
    text = 'a cat ran unheard'
    gap = np.array([2, 1, 0, 0])  # in half log 2: idf are 0, log 2, log 4 and, unseen, log 4
    expected = 0.4 * gap / gap.mean()  # 1.07 becomes 1
    found = [words.tf_idf(text, key, table, 0.4).split() for key in keys()]
    chosen = np.diff(table.cumulative, prepend=0)
    for n, word in enumerate(text.split()):
        share = dict(zip(table.words, chosen, strict=True)).get(word, 0)
        changed = np.mean([left[n] != word for left in found])
        assert within(changed, min(1, expected[n]) * (1 - share))
    drawn = Counter(left[0] for left in found)
    assert all(within(drawn[word] / TIMES, p) for word, p in zip(table.words, chosen, strict=True))
    assert words.tf_idf('cat', keys()[0], table) == 'cat'
    assert words.tf_idf('', keys()[0], table) == ''


GROWING = [' '.join(TEXT.split()[:n]) for n in range(1, 11)]
CHANGES = {
    'delete': words.delete,
    'swap': words.swap,
    'synonyms': lambda text, key, rate: words.synonyms(
        text, key, dict.fromkeys(text.split(), ('x', 'y')), rate
    ),
    'tf_idf': lambda text, key, rate: words.tf_idf(text, key, words.frequencies(GROWING), rate),
}


@pytest.mark.parametrize('name', CHANGES)
def test_a_text_and_a_key_decide(name):
    change, (one, other) = CHANGES[name], keys(2)
    assert change(TEXT, one, 0.5) == change(TEXT, one, 0.5)
    assert change(TEXT, one, 0.5) != change(TEXT, other, 0.5)
