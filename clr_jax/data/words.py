"""Other wordings of a text: words deleted, swapped or replaced.

Each is a pure function of a text and a `key` (uint64, `index.key`), from which it takes draws of its
own name. A word is what stands between spaces.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath

from clr_jax.data import index
from clr_jax.entry import DATA, INPUT, Problem

PARTS = ('noun', 'verb', 'adj', 'adv')  # of speech: WordNet's files data.<part>


def delete(text: str, key, rate: float = 0.1) -> str:
    """Each word is deleted with probability `rate`; of a text that would lose all, one stays (Wei &
    Zou, 2019; arXiv:1901.11196)."""
    words = text.split()
    kept = index.uniform(key, 'delete', len(words)) >= rate
    if not words or kept.any():
        return ' '.join(word for word, keep in zip(words, kept, strict=True) if keep)
    return words[int(index.uniform(key, 'left') * len(words))]


def swap(text: str, key, rate: float = 0.1) -> str:
    """So many times as there are words times `rate`, at least once, two words change places (Wei &
    Zou, 2019)."""
    words = text.split()
    n = len(words)
    if n < 2:
        return text
    for one, other in index.uniform(key, 'swap', 2 * some(rate, n)).reshape(-1, 2):
        i = int(one * n)
        j = (i + 1 + int(other * (n - 1))) % n  # another
        words[i], words[j] = words[j], words[i]
    return ' '.join(words)


def synonyms(text: str, key, thesaurus: dict, rate: float = 0.1) -> str:
    """Of the words that `thesaurus` has, so many as there are words in all times `rate`, at least one,
    are each replaced by one of its synonyms (Wei & Zou, 2019, without their list of stop words).

    Punctuation around a word stays, and its first letter's case. Inflected words are replaced where
    the thesaurus has them as they are: not 'dogs' by 'dog'.
    """
    words = text.split()
    parts = [re.fullmatch(r'(\W*)(.*?)(\W*)', word) for word in words]
    known = [i for i, part in enumerate(parts) if part and part[2].lower() in thesaurus]
    order = np.argsort(index.uniform(key, 'order', len(known)), kind='stable')
    which = index.uniform(key, 'synonym', len(known))
    for n in order[: some(rate, len(words))]:
        before, word, after = parts[known[n]].groups()
        choice = thesaurus[word.lower()]
        new = choice[int(which[n] * len(choice))]
        new = new[:1].upper() + new[1:] if word[:1].isupper() else new
        words[known[n]] = f'{before}{new}{after}'
    return ' '.join(words)


def some(rate: float, n: int) -> int:
    """A share of n, at least 1."""
    return max(1, int(rate * n))


def synsets(path) -> Iterator[tuple[list[str], str]]:
    """(words, gloss) of every set of synonyms in the folder of WordNet's data.noun, data.verb and so
    on (wndb(5WN)), in order."""
    for part in PARTS:
        file = epath.Path(path) / f'data.{part}'
        try:
            lines = file.read_text().splitlines()
        except OSError as error:
            raise Problem(f'WordNet: {file} cannot be read: {error.strerror}', INPUT) from error
        for number, line in enumerate(lines, 1):
            if line.startswith('  '):  # the licence
                continue
            try:
                fields, gloss = line.split(' | ', 1)
                _, _, _, count, *rest = fields.split()
                words = rest[: 2 * int(count, 16) : 2]
            except ValueError:
                raise Problem(f'WordNet: {file}, line {number} is not a synset', DATA) from None
            # an adjective may say where it stands: 'galore(ip)'
            yield [re.sub(r'\(\w+\)$', '', word).replace('_', ' ') for word in words], gloss.strip()


def thesaurus(path) -> dict[str, tuple[str, ...]]:
    """{word in lower case: the other members of all its sets of synonyms, sorted} of WordNet."""
    found: dict[str, set[str]] = defaultdict(set)
    for words, _ in synsets(path):
        for word in words:
            found[word.lower()].update(words)
    others = {
        word: sorted(other for other in every if other.lower() != word)
        for word, every in found.items()
    }
    return {word: tuple(every) for word, every in others.items() if every}


class Frequencies(NamedTuple):
    """How much the words of a corpus say."""

    idf: dict[str, float]  # log(texts / texts with the word)
    unseen: float  # of a word that no text has: as of one text's
    words: tuple[str, ...]
    cumulative: np.ndarray  # [words] of the probabilities of being chosen as a replacement


def frequencies(texts: Iterable[str]) -> Frequencies:
    """Of a word, S = frequency * idf; words that say little replace others: their probability is
    proportional to max S - S."""
    count: Counter[str] = Counter()
    within: Counter[str] = Counter()
    number = 0
    for text in texts:
        count.update(text.split())
        within.update(set(text.split()))
        number += 1
    words = tuple(sorted(count))
    idf = {word: math.log(number / within[word]) for word in words}
    score = np.array([count[word] * idf[word] for word in words])
    weight = score.max(initial=0) - score
    weight = weight if weight.any() else np.ones_like(weight)
    total = np.cumsum(weight)
    return Frequencies(idf, math.log(max(number, 1)), words, total / total[-1:])


def tf_idf(text: str, key, table: Frequencies, rate: float = 0.1) -> str:
    """Words that say little are replaced by others that say little (Xie et al., UDA, 2019;
    arXiv:1904.12848): word i with probability min(1, rate (C - s_i) / Z), s its tf-idf in the text,
    C their maximum, Z the mean of C - s, so that a share `rate` of the words is, on average."""
    words = text.split()
    within = Counter(words)
    score = np.array(
        [within[word] / len(words) * table.idf.get(word, table.unseen) for word in words]
    )
    gap = score.max(initial=0) - score
    if not gap.any() or not table.words:
        return text
    replaced = index.uniform(key, 'replace', len(words)) < rate * gap / gap.mean()
    places = np.searchsorted(table.cumulative, index.uniform(key, 'word', len(words)), 'right')
    pairs = zip(words, places, replaced, strict=True)
    return ' '.join(table.words[place] if new else word for word, place, new in pairs)
