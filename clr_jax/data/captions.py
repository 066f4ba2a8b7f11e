"""Where images with texts come from: your own folder, or (for smoke runs) captioned digits."""

import json
import os
from pathlib import Path

import numpy as np

from clr_jax.data import images, records
from clr_jax.data.augment import tensorflow
from clr_jax.data.damage import Damage
from clr_jax.data.source import Source, digest, fraction, printable
from clr_jax.entry import DATA, INPUT, Problem, known


def captions(
    split: str,
    *,
    path: str = '',
    test_path: str = '',
    file: str = 'captions.jsonl',
    label: str = '',
    test: str = 'held_out',
    test_fraction: float = 0.1,
    max_bad_fraction: float = 0.01,
    max_pixels: int = records.MAX_PIXELS,
) -> Source:
    """Your own images with captions: a directory, and in it (or anywhere) a `file` of JSON lines, or a
    JSON list, of {"image": "a/b.jpg", "caption": "a cat"}, or with "captions": ["a cat", ...].

    label: the key of a record that names its class. The hashes of the names single out a
    `test_fraction` that is never trained on; test='held_out' tests on these, 'seen' on the others,
    'all' on both. test_path: a directory with other pictures under the same names, for the test
    split. Up to `max_bad_fraction` of a split's images may be damaged, or larger than `max_pixels` by
    their header: another image is then read, with its own captions (`damage.Reader`).
    """
    known([test], ('held_out', 'seen', 'all'), 'config.data.test')
    if not path:
        raise Problem('config.data.path is empty: set it to the directory of your images', INPUT)
    listed = _records(Path(path) / file)
    classes = sorted({str(r[label]) for r in listed if label in r}) if label else []
    held = fraction(test_fraction) * 2**64
    out = [int(digest(r['image']), 16) < held for r in listed]
    root = test_path if test_path and split == 'test' else path
    wanted = {'held_out': (True,), 'seen': (False,), 'all': (True, False)}[test]
    wanted = wanted if split == 'test' else (False,)
    listed = [r for r, of in zip(listed, out, strict=True) if of in wanted]
    if not listed:
        raise Problem(f'{path}: no image to {split}: change config.data.test_fraction', INPUT)
    places = [os.path.join(root, r['image']) for r in listed]
    absent = [place for place in places if not os.path.isfile(place)]
    if absent:
        count = f'{len(absent)} of {len(places)} images of {file} are missing'
        raise Problem(f'{printable(root)}: {count}, the first {printable(absent[0])}', INPUT)
    numbers = [classes.index(str(r[label])) if label and label in r else -1 for r in listed]
    texts = [r['captions'] for r in listed]
    tf = tensorflow()
    paths = tf.constant([os.fsencode(place) for place in places])
    held_texts, held_numbers = aligned(texts), tf.constant(numbers, tf.int32)
    name, decode = f'{printable(root)} ({split})', records.decoder(max_pixels)
    return Source(
        name=name,
        size=len(listed),
        classes=len(classes) or None,
        read=lambda i: {
            'image': decode(tf.io.read_file(paths[i])),
            'text': held_texts[i],
            'label': held_numbers[i],
        },
        fingerprint=digest((classes, listed, [os.path.getsize(place) for place in places])),
        where=lambda i: printable(places[i]),
        labels=held_numbers.numpy,
        names=lambda: [r['image'] for r in listed],
        texts=lambda: [text for of in texts for text in of],
        class_names=tuple(classes) or None,
        damage=Damage(name, len(listed), max_bad_fraction),
    )


def captioned_digits(split: str, *, test_fraction: float = 0.2) -> Source:
    """scikit-learn's digits, each with two captions that name it: smoke data, on which nothing is to
    be reported."""
    source = images.digits(split, test_fraction=test_fraction)
    names = source.class_names or ()
    written = [(f'a handwritten {name}', f'the digit {name}') for name in names]
    spoken = aligned(written)

    def read(i):
        example = source.read(i)
        return example | {'text': spoken[example['label']]}

    texts = lambda: [text for i in source.labels() for text in written[i]]
    return source._replace(name=f'captioned {source.name}', read=read, texts=texts)


def aligned(texts: list):
    """Lists of texts -> a string tensor [n, most texts of one], filled up with empty ones."""
    most = max(map(len, texts))
    rows = [[*of, *[''] * (most - len(of))] for of in texts]
    return tensorflow().constant(np.array(rows, object))


def _records(path: Path) -> list[dict]:
    """The records of a caption file, each with 'captions', a list."""
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeError) as error:
        what = 'config.data.file is a list of {"image": ..., "caption": ...}'
        raise Problem(f'{path} cannot be read ({error}): {what}', INPUT) from None
    try:
        if path.suffix == '.json':
            found = list(enumerate(json.loads(text), 1))
        else:
            lines = enumerate(text.splitlines(), 1)
            found = [(n, json.loads(line)) for n, line in lines if line.strip()]
    except ValueError as error:
        raise Problem(f'{path} is not JSON: {error}', DATA) from None
    listed = []
    for number, record in found:
        right = isinstance(record, dict) and isinstance(record.get('image'), str)
        of = record.get('captions', [record.get('caption')]) if right else []
        of = [of] if isinstance(of, str) else of
        if not of or not all(isinstance(text, str) and text.strip() for text in of):
            raise Problem(f'{path}, record {number}: needs "image" and "caption"', DATA)
        listed.append(record | {'captions': of})
    if not listed:
        raise Problem(f'{path} has no records', DATA)
    return listed
