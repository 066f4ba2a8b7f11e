"""Where images come from: the tar files of a WebDataset, read at random where they lie."""

import json
import os
import re
import tarfile
import time
from typing import NamedTuple

import numpy as np

from clr_jax.data import records
from clr_jax.data.augment import tensorflow
from clr_jax.data.captions import aligned
from clr_jax.data.damage import Damage
from clr_jax.data.images import PATIENCE, SUFFIXES
from clr_jax.data.source import Source, digest, fraction
from clr_jax.entry import CONFIG, DATA, INPUT, Problem
from clr_jax.log import say

WRITTEN = ('cls', 'txt', 'text', 'json')  # endings of members that an index keeps whole


def tars(
    split: str,
    *,
    path: str = '',
    test_path: str = '',
    label: str = 'cls',
    text: tuple = (),
    test_fraction: float = 0.1,
    max_bad_fraction: float = 0.01,
    max_pixels: int = records.MAX_PIXELS,
) -> Source:
    """A WebDataset: tar files in which the members of an example have one name up to the first dot, its
    image ('a/1.jpg', any ending of `folder`), and beside it 'a/1.cls', 'a/1.txt', 'a/1.json'.

    path: the files, here or on a bucket: 'data/train-{0000..0146}.tar', or with * and ?. label: the ending
    of the members that tell the class, a number or a name, or the key of a JSON object, 'json/label'.
    text: those of an example's texts, ('txt',) or ('json/caption',), a string or a list of them.
    The test split is `test_path`, or the share of the names that their hashes single out.

    Nothing is unpacked: members are read from where they lie by an index, which one pass over a file
    makes and which is kept (`records.kept`); from a bucket the pass reads it whole. Up to
    `max_bad_fraction` of a split's images may be damaged, or larger than `max_pixels` by their header
    (`damage.Reader`).
    """
    if not path:
        raise Problem('config.data.path is empty: set it to your tar files', CONFIG)
    asked = test_path if test_path and split == 'test' else path
    here = examples(asked, label, text)
    number = classes((examples(path, label) if asked != path else here).values, label)
    name = f'{asked} ({split})'
    if not test_path:
        held = fraction(test_fraction) * 2**64
        mine = [(int(digest(key), 16) < held) == (split == 'test') for key in here.keys]
        here = here.only(np.flatnonzero(mine))
    if not here.keys:
        raise Problem(f'{name}: no image to {split}: change config.data.test_fraction', INPUT)
    strange = next((v for v in here.values if v is not None and v not in number), None)
    if strange is not None:
        raise Problem(f'{name}: "{strange}" is no class of the training images', INPUT)
    tf = tensorflow()
    labels = tf.constant([-1 if v is None else number[v] for v in here.values], tf.int32)
    written = aligned(here.texts) if text else {}
    data, decode = records.by_place(here.files, here.places), records.decoder(max_pixels)

    def read(i):
        example = {'image': decode(data(i)), 'label': labels[i]}
        return example | ({'text': written[i]} if text else {})

    content = [[*map(os.path.basename, here.files)], here.keys, here.places.tolist(), here.texts]
    return Source(
        name=name,
        size=len(here.keys),
        classes=max(number.values()) + 1 if number else None,
        read=read,
        fingerprint=digest((content, sorted(number.items()), here.values)),
        where=lambda i: f'{here.keys[i]} in {here.files[here.places[i, 0]]}',
        labels=labels.numpy,
        names=lambda: here.keys,
        texts=(lambda: [t for of in here.texts for t in of]) if text else None,
        class_names=None if all(map(str.isdecimal, number)) else tuple(number),
        damage=Damage(name, len(here.keys), max_bad_fraction),
    )


class Examples(NamedTuple):
    """Those with an image, in order."""

    files: list[str]
    keys: list[str]  # [n]
    places: np.ndarray  # [n, 3] int64: number of the file, offset, size
    values: list  # [n] what names the class, or None
    texts: list  # [n] lists

    def only(self, rows):
        """Those in the rows [m]."""
        pick = lambda column: [column[row] for row in rows]
        columns = pick(self.keys), self.places[rows], pick(self.values), pick(self.texts)
        return Examples(self.files, *columns)


def classes(values: list, label: str) -> dict:
    """The number of each class: itself, or if one is a name, its place among the sorted names."""
    found = {v for v in values if v is not None}
    if not found and label not in ('', 'cls'):
        raise Problem(f'config.data.label={label!r}: no example has it', CONFIG)
    if all(v.isdecimal() for v in found):
        return {v: int(v) for v in sorted(found, key=int)}
    return {v: k for k, v in enumerate(sorted(found))}


def spoken(example: dict, place: str) -> list:
    """The strings that an example has at `place`."""
    ending, _, key = place.partition('/')
    if ending not in WRITTEN:
        raise Problem(f'config.data: "{place}" begins with none of {", ".join(WRITTEN)}', CONFIG)
    content = example.get(ending)
    if content is None:
        return []
    try:
        found = json.loads(content)[key] if key else content.decode()
    except (ValueError, KeyError, TypeError) as error:
        where = f'{example["key"]} in {example["file"]}'
        raise Problem(f'{where}: {place} cannot be read: {error!r}', DATA) from None
    found = found if isinstance(found, list) else [found]
    return [str(x) for x in found if x is not None and str(x).strip()]


def examples(path: str, label: str, text: tuple = ()) -> Examples:
    """What all files that `path` names hold."""
    gfile, told = tensorflow().io.gfile, time.monotonic()
    found = Examples([], [], np.zeros((0, 3), np.int64), [], [])
    places = [found.places]
    for pattern in expanded(path):
        files = sorted(gfile.glob(pattern))
        if not files:
            raise Problem(f'{pattern} is not there: config.data.path names your tar files', INPUT)
        for file in files:
            index = records.kept('tar', [file], lambda file=file: walk(file), WRITTEN)
            of = grouped(file, index)
            own = [(len(found.files), *example['image']) for example in of]
            places.append(np.array(own, np.int64).reshape(-1, 3))
            found.files.append(file)
            found.keys.extend(example['key'] for example in of)
            said = [spoken(example, label) if label else [] for example in of]
            found.values.extend(x[0].strip() if x and x[0].strip() != '-1' else None for x in said)
            texts = [[t for place in text for t in spoken(example, place)] for example in of]
            found.texts.extend(texts)
            if text and not all(texts):
                mute = of[[*map(bool, texts)].index(False)]['key']
                what = f'has no text in {", ".join(text)} (config.data.text)'
                raise Problem(f'{mute} in {file} {what}', DATA)
            if time.monotonic() > told + PATIENCE:
                told = time.monotonic()
                say(f'looking through {file}: {len(found.keys):,} images so far')
    if not found.keys:
        raise Problem(f'{path} holds no images ({" ".join(SUFFIXES)})', INPUT)
    return found._replace(places=np.concatenate(places))


def expanded(pattern: str) -> list[str]:
    """'a-{08..10}.tar' -> a-08.tar, a-09.tar, a-10.tar."""
    found = re.search(r'\{(\d+)\.\.(\d+)\}', pattern)
    if not found:
        return [pattern]
    first, last = found.groups()
    numbers = (str(k).zfill(len(first)) for k in range(int(first), int(last) + 1))
    start, rest = pattern[: found.start()], expanded(pattern[found.end() :])
    return [f'{start}{number}{end}' for number in numbers for end in rest]


def walk(file: str) -> dict:
    """The index of a tar file: of each of its files 'names', 'offsets' and 'sizes' [n], and of those
    that are WRITTEN the content, one after the other, 'content' [bytes] uint8."""
    remote = '://' in file
    opened = tensorflow().io.gfile.GFile if remote else open
    names, places, content = [], [], []
    try:
        # a bucket is read in one stream: to seek there takes longer
        with opened(file, 'rb') as f, tarfile.open(fileobj=f, mode='r|' if remote else 'r:') as tar:
            for member in tar:
                if not member.isreg() or member.issparse():
                    continue
                names.append(os.fsencode(member.name))
                places.append((member.offset_data, member.size))
                if parts(names[-1])[1] in WRITTEN:
                    part = tar.extractfile(member)
                    content.append(part.read() if part else b'')
            end = tar.offset
        with opened(file, 'rb') as f:
            f.seek(end)
            if any(f.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f'no header at byte {end:,}')
    except tarfile.TarError as error:
        raise Problem(f'{file} is damaged, or no plain tar file: {error}', DATA) from None
    offsets, sizes = np.array(places, np.int64).reshape(-1, 2).T
    joined = np.frombuffer(b''.join(content), np.uint8)
    return {'names': np.array(names, bytes), 'offsets': offsets, 'sizes': sizes, 'content': joined}


def parts(name: bytes) -> tuple[str, str]:
    """'a.b/1.seg.PNG' -> 'a.b/1', 'seg.png': an example's key, and which of its members it is."""
    folder, _, last = os.fsdecode(name).rpartition('/')
    key, _, ending = last.partition('.')
    return f'{folder}/{key}' if folder else key, ending.lower()


def grouped(file: str, index: dict) -> list[dict]:
    """The examples with an image of an index: {'key', 'file', 'image': (offset, size), and of 'cls', 'txt',
    'text' and 'json' what there is, bytes}."""
    found: dict = {}
    content, at = index['content'].tobytes(), 0
    columns = (index[key].tolist() for key in ('names', 'offsets', 'sizes'))
    for name, offset, size in zip(*columns, strict=True):
        key, ending = parts(name)
        example = found.setdefault(key, {'key': key, 'file': file})
        if ending in WRITTEN:
            example[ending] = content[at : at + size]
            at += size
        elif f'.{ending}' in SUFFIXES:
            example.setdefault('image', (offset, size))
    return [example for example in found.values() if 'image' in example]
