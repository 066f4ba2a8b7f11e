"""What a data set is to the rest: a size and a function from an example's number to the example."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clr_jax.data.augment import tensorflow
from clr_jax.entry import CONFIG, DATA, INPUT, Problem


class Source(NamedTuple):
    """One split of a data set."""

    name: str
    size: int  # examples
    classes: int | None  # None: no labels
    # int64 [] -> a dict, in a graph: 'label' int32 [] (-1: none) and of these what it has:
    # 'image' uint8 [h, w, 3], 'text' string [t], 'recording' int16 [samples], 'frames' uint8 [h, w, c]
    read: Callable
    fingerprint: str  # 16 hex digits; other content, other digits
    where: Callable  # number -> what an error calls that example
    labels: Callable  # () -> int32 [n] (-1: none)
    names: Callable | None = None  # () -> a list of the examples' names; None: they have none
    images: np.ndarray | None = None  # uint8 [n, h, w, 3], when all are in memory
    texts: Callable | None = None  # () -> a list of all its texts, for a tokenizer to learn from
    class_names: tuple | None = None  # in the order of their numbers
    targets: Callable | None = None  # () -> float [n, k]: what is measured beside each example
    rate: Callable | None = None  # () -> how many samples of a recording are a second
    tokenizer: Any = None  # what makes tokens of its texts: tokens.prepare
    order: Callable | None = None  # of an epoch: what `balance` makes; None: a permutation
    damage: Any = None  # damage.Damage: what cannot be read is replaced; None: it is a Problem


def in_memory(name: str, images, labels, classes, names=None, class_names=None) -> Source:
    """images: uint8 [n, h, w, 3]; labels: int [n]."""
    tf = tensorflow()
    images, labels = tf.constant(images, tf.uint8), tf.constant(labels, tf.int32)
    array = np.asarray(memoryview(images))  # no copy
    content = hashlib.blake2b(repr(array.shape).encode(), digest_size=8)
    content.update(memoryview(images))
    content.update(memoryview(labels))
    return Source(
        name=name,
        size=len(array),
        classes=classes,
        read=lambda i: {'image': images[i], 'label': labels[i]},
        fingerprint=content.hexdigest(),
        where=lambda i: f'example {i} of {name}',
        labels=labels.numpy,
        names=names,
        images=array,
        class_names=class_names,
    )


def fraction(value: float) -> float:
    if not 0 < value < 1:
        raise Problem(f'config.data.test_fraction={value}: use a number between 0 and 1', CONFIG)
    return value


def digest(value) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()


def printable(path) -> str:
    return os.fsencode(path).decode(errors='backslashreplace')


def files_below(root: Path, suffixes: tuple, what: str, empty: bool = False) -> list:
    """The files below `root` that end so: sorted pairs (path relative to it, bytes). what: they are,
    for an error. Empty ones are an error, too, unless `empty`."""
    if not root.is_dir():
        hint = f'config.data.path is the directory of your {what}'
        raise Problem(f'{printable(root)} is not a directory: {hint}', INPUT)

    def fail(error):
        raise Problem(f'{printable(error.filename)} cannot be read: {error.strerror}', DATA)

    found, seen = [], set()
    for place, folders, names in os.walk(root, onerror=fail, followlinks=True):
        here = os.stat(place)
        if (here.st_dev, here.st_ino) in seen:  # links can run in circles
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in names:
            if name.startswith('.') or not name.lower().endswith(suffixes):
                continue
            path = os.path.join(place, name)
            try:
                status = os.stat(path)
            except OSError as error:
                fail(error)
            if not stat.S_ISREG(status.st_mode):
                continue
            if not (status.st_size or empty):
                raise Problem(f'{printable(path)} is empty', DATA)
            found.append((os.path.relpath(path, root), status.st_size))
    if not found:
        raise Problem(f'{printable(root)} holds no {what} ({" ".join(suffixes)})', INPUT)
    return sorted(found)


def subfolders(files) -> set:
    """The classes: what the paths begin with, if all are in subfolders and these are at least two."""
    first = {name.split('/')[0] for name, _ in files}
    return first if len(first) > 1 and all('/' in name for name, _ in files) else set()
