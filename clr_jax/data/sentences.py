"""Where texts come from: lines of a file, neighbours in running text, WordNet's glosses, triples of
sentences, or (for smoke runs) the docstrings of Python's own library."""

import ast
import csv
import os
import sys
from itertools import groupby
from pathlib import Path

import numpy as np

from clr_jax.data.augment import tensorflow
from clr_jax.data.captions import aligned
from clr_jax.data.source import Source, digest, files_below, fraction
from clr_jax.entry import DATA, INPUT, Problem


def lines(
    split: str, *, path: str = '', test_path: str = '', test_fraction: float = 0.01
) -> Source:
    """A text file with a sentence on each line. The test split is `test_path`, or else the share of
    the lines that their hashes single out."""
    if test_path:
        chosen = _lines(test_path if split == 'test' else path)
    else:
        chosen = _part(_lines(path), split, test_fraction)
    return source(f'{path} ({split})', [[line] for line in chosen])


def neighbours(
    split: str, *, path: str = '', test_path: str = '', test_fraction: float = 0.01
) -> Source:
    """Running text: a file, or all files *.txt below a directory, with a sentence on each line in the
    order of the text and an empty line between paragraphs or documents. An example is two sentences
    of a paragraph in a row. The test split is `test_path`, or else the share of the paragraphs that
    their hashes single out.
    """
    place = test_path if test_path and split == 'test' else path
    files = [place]
    if place and Path(place).is_dir():
        below = files_below(Path(place), ('.txt',), 'texts')
        files = [os.path.join(place, name) for name, _ in below]
    found = ['\n'.join(lines) for file in files for lines in _paragraphs(file)]
    if not test_path:
        found = _part(found, split, test_fraction)
    paragraphs = [paragraph.split('\n') for paragraph in found]
    name = f'{place} ({split})'
    every = source(name, [[line] for lines in paragraphs for line in lines])
    last = np.cumsum([len(lines) for lines in paragraphs]) - 1
    first = np.setdiff1d(np.arange(every.size), last)  # who has a neighbour
    if not len(first):
        raise Problem(f'{name}: there are no two sentences in a row', DATA)
    tf = tensorflow()
    held = tf.constant(first)

    def read(i):
        one, other = every.read(held[i]), every.read(held[i] + 1)
        return one | {'text': tf.concat([one['text'], other['text']], 0)}

    return every._replace(
        size=len(first),
        read=read,
        fingerprint=digest((every.fingerprint, first.tolist())),
        labels=lambda: np.full(len(first), -1, np.int32),
    )


def wordnet(split: str, *, path: str = '/usr/share/wordnet', test_fraction: float = 0.01) -> Source:
    """The 117,659 glosses of WordNet 3 (Miller, 1995), without their examples, from its data files
    (Debian: apt install wordnet-base)."""
    glosses = []
    for part in ('noun', 'verb', 'adj', 'adv'):
        for line in _lines(os.path.join(path, f'data.{part}')):
            if '|' in line:  # the licence has none
                gloss = line.split('|', 1)[1].split('; "')[0].strip()
                glosses += [gloss] if gloss else []
    return source(f'WordNet ({split})', [[x] for x in _part(glosses, split, test_fraction)])


def triples(
    split: str, *, path: str = '', test_path: str = '', test_fraction: float = 0.01
) -> Source:
    """A CSV file, or a TSV file (without quoting), with a header and two or three columns: an anchor, a
    positive, and a hard negative (entailment and contradiction, as SimCSE makes them of NLI)."""
    file = test_path if test_path and split == 'test' else path
    text = '\n'.join(_lines(file))
    if file.endswith('.tsv'):
        rows = csv.reader(text.splitlines(), delimiter='\t', quoting=csv.QUOTE_NONE)
    else:
        rows = csv.reader(text.splitlines())
    _, *found = [row for row in rows if row]
    widths = {len(row) for row in found}
    if not widths <= {2, 3} or len(widths) != 1:
        raise Problem(f'{file}: rows of {sorted(widths)} columns, needs 2 or 3 throughout', DATA)
    if not test_path:
        kept = set(_part(['\t'.join(row) for row in found], split, test_fraction))
        found = [row for row in found if '\t'.join(row) in kept]
    return source(f'{file} ({split})', found)


def docstrings(split: str, *, test_fraction: float = 0.1) -> Source:
    """First sentences of the docstrings of Python's standard library, two of a module beside each other
    and one of another module, and where each module comes in the alphabet as its class of ten: smoke
    data, on which nothing is to be reported."""
    modules = sorted(sys.stdlib_module_names)
    found: list = []
    labels: list = []
    for number, name in enumerate(modules):
        file = Path(os.__file__).parent / f'{name}.py'
        if not file.is_file() or name.startswith(('_', 'this', 'antigravity')):
            continue
        tree = ast.parse(file.read_text(encoding='utf-8', errors='replace'))
        documented = (ast.FunctionDef, ast.ClassDef, ast.Module)
        notes = [ast.get_docstring(x) for x in ast.walk(tree) if isinstance(x, documented)]
        first = [' '.join(note.split('\n\n')[0].split()) for note in notes if note]
        first = [sentence for sentence in first if len(sentence.split()) > 3]
        found += [[a, b] for a, b in zip(first[:16], first[1:17], strict=False)]
        labels += [10 * number // len(modules)] * (len(found) - len(labels))
    found = [[*row, found[k - len(found) // 2][0]] for k, row in enumerate(found)]
    kept = set(_part(['\t'.join(row) for row in found], split, test_fraction))
    rows = [k for k, row in enumerate(found) if '\t'.join(row) in kept]
    chosen = np.array([labels[k] for k in rows], np.int32)
    return source(f'docstrings ({split})', [found[k] for k in rows], chosen)


def source(name: str, rows: list, labels=None) -> Source:
    """A source of rows of texts [n][t], in memory."""
    tf = tensorflow()
    if not rows:
        raise Problem(f'{name}: there are no sentences', DATA)
    texts = aligned(rows)
    numbers = np.full(len(rows), -1, np.int32) if labels is None else labels
    held = tf.constant(numbers)
    return Source(
        name=name,
        size=len(rows),
        classes=None if labels is None else int(numbers.max()) + 1,
        read=lambda i: {'text': texts[i], 'label': held[i]},
        fingerprint=digest((rows, numbers.tolist())),
        where=lambda i: f'text {i} of {name}',
        labels=lambda: numbers,
        texts=lambda: [text for row in rows for text in row if text],
    )


def _paragraphs(path: str) -> list[list[str]]:
    """The lines of a file between those that are empty."""
    if not path:
        raise Problem('config.data.path is empty: set it to a file of sentences', INPUT)
    try:
        text = Path(path).read_text(encoding='utf-8')
    except (OSError, UnicodeError) as error:
        raise Problem(f'config.data.path={path} cannot be read: {error}', INPUT) from None
    stripped = (line.strip() for line in text.split('\n'))
    return [[*lines] for filled, lines in groupby(stripped, bool) if filled]


def _lines(path: str) -> list[str]:
    return [line for lines in _paragraphs(path) for line in lines]


def _part(texts: list[str], split: str, test_fraction: float) -> list[str]:
    """Those of the split: equal texts are in the same."""
    held = fraction(test_fraction) * 2**64
    return [text for text in texts if (int(digest(text), 16) < held) == (split == 'test')]
