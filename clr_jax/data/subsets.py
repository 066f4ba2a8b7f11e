"""Fewer examples of a source: a share, so many of each class, or those that a list names."""

import math
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
from etils import epath

from clr_jax.data import index
from clr_jax.data.augment import tensorflow
from clr_jax.data.balance import balanced, weighted
from clr_jax.data.source import Source, digest, printable
from clr_jax.entry import CONFIG, INPUT, Problem


def subset(
    source: Source,
    *,
    fraction: float = 1.0,
    per_class: int = 0,
    list: str = '',
    seed: int = 0,
    repeat: int = 1,
    balance: float = 0.0,
    weights: str = '',
) -> Source:
    """Fewer examples of `source`, by one of the three, in its order; by none, `source` itself.

    fraction: of n examples round(fraction * n), by turns one of each class as long as it has more;
    `seed` decides which examples, and which classes give the last ones. Without labels it is a
    plain draw. per_class: exactly so many of each class. The draws of one seed contain each other.

    list: a text file with an example on each line: its file name or relative path in a folder, its
    file name in a TFDS data set that keeps them, its number in any other. Such are the published
    1 % and 10 % of ImageNet (imagenet_subsets/ in the code of SimCLR; Chen et al., 2020,
    arXiv:2002.05709); TFDS also prepares these, as config.data.dataset='imagenet2012_subset/1pct'.

    repeat: so many times each of them, as an example of its own each time, where they are fewer than
    a batch holds (UDA's 20 labels).

    balance: how far an epoch's places are shared out by class instead of by example, from 0 to 1
    (`balance.balanced`): 0.5 is square-root sampling, 1 class-balanced. Not for methods with a row for
    each example (a memory), which would be written twice in a batch.

    weights: a text file with a weight, at least 0, on each line: of every example of `source` in its
    order, or after its name as in `list`. An epoch's places are shared out by them
    (`balance.weighted`); an example of 0 never comes. Not for those methods either.

    The labels and names of a large TFDS data set take one pass over its files, whose result is kept.
    Raises Problem for settings that exclude each other, and for what the source cannot give.
    """
    if (fraction != 1) + (per_class != 0) + bool(list) > 1:
        raise Problem('config.subset has fraction, per_class and list: set one of them', CONFIG)
    if not 0 < fraction <= 1:
        raise Problem(f'config.subset.fraction={fraction}: above 0 and at most 1', CONFIG)
    if per_class < 0:
        raise Problem(f'config.subset.per_class={per_class} is negative', CONFIG)
    if repeat < 1:
        raise Problem(f'config.subset.repeat={repeat}: at least 1', CONFIG)
    if not 0 <= balance <= 1:
        raise Problem(f'config.subset.balance={balance}: from 0 to 1', CONFIG)
    if balance and not source.classes:
        raise Problem(f'config.subset.balance: {source.name} has no labels', CONFIG)
    if balance and weights:
        raise Problem('config.subset has balance and weights: set one of them', CONFIG)
    own, part = _weights(source, weights) if weights else None, source
    if fraction < 1 or per_class or list or repeat > 1:
        chosen = np.repeat(np.sort(_chosen(source, fraction, per_class, list, seed)), repeat)
        part, own = _only(source, chosen), None if own is None else own[chosen]
    if balance:
        return part._replace(order=balanced(part.labels(), balance))
    if own is None:
        return part
    if not own.any():
        raise Problem(f'config.subset.weights={weights}: all of them are 0', CONFIG)
    seen = digest((part.fingerprint, own.tolist()))
    return part._replace(order=weighted(own), fingerprint=seen)


def rest(source: Source, *, fraction, per_class, list, seed, **_) -> Source:
    """The examples that `subset` with the same settings leaves out, in their order."""
    chosen = _chosen(source, fraction, per_class, list, seed)
    return _only(source, np.setdiff1d(np.arange(source.size), chosen))


def _chosen(source: Source, fraction, per_class, list, seed):
    """The numbers of the examples that `subset` takes, in any order."""
    if list:
        return _listed(source, list)
    if per_class:
        if not source.classes:
            raise Problem(f'config.subset.per_class: {source.name} has no labels', CONFIG)
        return draw(source.labels(), seed, per_class=per_class, where='config.subset.per_class')
    if fraction == 1:
        return np.arange(source.size)
    chosen = draw(source.labels(), seed, count=math.floor(fraction * source.size + 0.5))
    if not len(chosen):
        few = f'{source.name} has {source.size} examples'
        raise Problem(f'config.subset.fraction={fraction} is too small: {few}', CONFIG)
    return chosen


def _only(source: Source, chosen) -> Source:
    """The examples of `source` with these numbers, in this order."""
    numbers = tensorflow().constant(chosen, 'int64')
    names, targets = source.names, source.targets
    return source._replace(
        name=f'{len(chosen)} of {source.name}',
        size=len(chosen),
        read=lambda i: source.read(numbers[i]),
        fingerprint=digest((source.fingerprint, chosen.tolist())),
        where=lambda i: source.where(int(chosen[i])),
        labels=lambda: source.labels()[chosen],
        names=names and (lambda: np.array(names(), object)[chosen].tolist()),
        targets=targets and (lambda: targets()[chosen]),
        images=None if source.images is None else source.images[chosen],
    )


def draw(labels, seed: int, *, per_class: int = 0, count: int = 0, where: str = ''):
    """Numbers of examples with `labels` [n], in an order drawn by `seed`: class after class
    `per_class` of each, or else `count` in all, by turns one of each class (no label is one, too).

    Raises Problem, which names the setting `where`, for a class with fewer than `per_class`.
    """
    order = index.permutation(np.arange(len(labels)), len(labels), index.key(seed, 'labels'))
    by_class = order[np.argsort(labels[order], kind='stable')]
    found, first, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.empty(len(labels), np.int64)  # of an example within its class, in the drawn order
    turn[by_class] = np.arange(len(labels)) - np.repeat(first, sizes)
    if not per_class:
        return order[np.argsort(turn[order], kind='stable')][:count]
    for label, size in zip(found, sizes, strict=True):
        if 0 <= label and size < per_class:
            raise Problem(f'{where}={per_class}: class {label} has {size} examples', CONFIG)
    return by_class[(turn[by_class] < per_class) & (labels[by_class] >= 0)]


def _listed(source: Source, path: str):
    """The numbers of the examples that the lines of a file name."""
    return np.sort(_numbers(source, _lines(path, 'list'), f'config.subset.list={path}'))


def _weights(source: Source, path: str):
    """The weights that a file gives the examples: float64 [n]."""
    what = f'config.subset.weights={path}'
    lines = [line.rsplit(maxsplit=1) for line in _lines(path, 'weights')]
    named = bool(lines) and all(len(line) == 2 for line in lines)
    if len(lines) != source.size or not (named or all(len(line) == 1 for line in lines)):
        need = f'one for each of the {source.size} examples of {source.name}'
        raise Problem(
            f'{what} has {len(lines)} lines: {need}, "<weight>" or "<name> <weight>"', CONFIG
        )
    weights = np.empty(source.size)
    numbers = _numbers(source, [line[0] for line in lines], what) if named else slice(None)
    try:
        weights[numbers] = [float(line[-1]) for line in lines]
    except ValueError as error:
        raise Problem(f'{what}: {error}', CONFIG) from None
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise Problem(f'{what}: a weight is a number, at least 0', CONFIG)
    return weights


def _lines(path: str, setting: str):
    try:
        text = epath.Path(path).read_bytes().decode('utf-8-sig', 'surrogateescape')
    except OSError as error:
        reason = f'cannot be read: {error.strerror}'
        raise Problem(f'config.subset.{setting}={path} {reason}', INPUT) from None
    return [line.strip() for line in text.split('\n') if line.strip()]


def _numbers(source: Source, lines: Sequence[str], what: str):
    """The numbers of the examples with these names, each once."""
    names = source.names() if source.names else [str(i) for i in range(source.size)]
    short = [os.path.basename(name) for name in names]
    often = Counter(short)
    number = {name: i for i, name in enumerate(short) if often[name] == 1}
    number |= {name: i for i, name in enumerate(names)}
    strange = [line for line in lines if line not in number]
    if strange or not lines:
        first = f', the first "{printable(strange[0])}"' if strange else ''
        wrong = f'{len(strange)} of {len(lines)} lines name no single example of {source.name}'
        raise Problem(f'{what}: {wrong}{first}', CONFIG)
    numbers = np.array([number[line] for line in lines])
    chosen, times = np.unique(numbers, return_counts=True)
    if times.max() > 1:
        raise Problem(f'{what} has {printable(names[chosen[times.argmax()]])} twice', CONFIG)
    return numbers
