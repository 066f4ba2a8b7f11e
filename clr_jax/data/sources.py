"""Where images come from: a Source is a size and a function from an example's number to its image.

In a config, `name` is a function of this file and the other keys are its keyword arguments;
`config.subset` holds those of `subset`.
"""

import difflib
import hashlib
import math
import os
import stat
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath

from clr_jax.data import index, records
from clr_jax.data.augment import tensorflow
from clr_jax.entry import CONFIG, DATA, INPUT, Problem, nearest
from clr_jax.log import say
from clr_jax.method import check_keywords

IN_MEMORY = 2**30  # bytes: data sets of one image size up to this are decoded once
PATIENCE = 10  # seconds between two lines about a pass over the files
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp')


class Source(NamedTuple):
    """One split of a data set."""

    name: str
    size: int  # examples
    classes: int | None  # None: no labels
    read: (
        Callable  # int64 [] -> {'image': uint8 [h, w, 3], 'label': int32 [] (-1: none)}, in a graph
    )
    fingerprint: str  # 16 hex digits; other content, other digits
    where: Callable  # number -> what an error calls that example
    labels: Callable  # () -> int32 [n] (-1: none)
    names: Callable | None = None  # () -> a list of the examples' names; None: they have none
    images: np.ndarray | None = None  # uint8 [n, h, w, 3], when all are in memory


def load(section: dict, split: str) -> Source:
    """The 'train' or 'test' split of the data set that the section `config.data` describes."""
    factories = {f.__name__: f for f in (digits, tfds, folder)}
    section = dict(section)
    name = section.pop('name', None)
    if name not in factories:
        raise Problem(f'config.data.name={name!r}: {nearest(name, factories)}', CONFIG)
    check_keywords(factories[name], section, 'config.data')
    return factories[name](split, **section)


def subset(
    source: Source, *, fraction: float = 1.0, per_class: int = 0, list: str = '', seed: int = 0
) -> Source:
    """Fewer examples of `source`, by one of the three, in its order; by none, `source` itself.

    fraction: of n examples round(fraction * n), by turns one of each class as long as it has more;
    `seed` decides which examples, and which classes give the last ones. Without labels it is a
    plain draw. per_class: exactly so many of each class. The draws of one seed contain each other.

    list: a text file with an example on each line: its file name or relative path in a folder, its
    file name in a TFDS data set that keeps them, its number in any other. Such are the published
    1 % and 10 % of ImageNet (imagenet_subsets/ in the code of SimCLR; Chen et al., 2020,
    arXiv:2002.05709); TFDS also prepares these, as config.data.dataset='imagenet2012_subset/1pct'.

    The labels and names of a large TFDS data set take one pass over its files, whose result is kept.
    Raises Problem for settings that exclude each other, and for what the source cannot give.
    """
    if (fraction != 1) + (per_class != 0) + bool(list) > 1:
        raise Problem('config.subset has fraction, per_class and list: set one of them', CONFIG)
    if not 0 < fraction <= 1:
        raise Problem(f'config.subset.fraction={fraction}: above 0 and at most 1', CONFIG)
    if per_class < 0:
        raise Problem(f'config.subset.per_class={per_class} is negative', CONFIG)
    if list:
        chosen = _listed(source, list)
    elif per_class:
        if not source.classes:
            raise Problem(f'config.subset.per_class: {source.name} has no labels', CONFIG)
        chosen = draw(source.labels(), seed, per_class=per_class, where='config.subset.per_class')
    elif fraction < 1:
        chosen = draw(source.labels(), seed, count=math.floor(fraction * source.size + 0.5))
        if not len(chosen):
            few = f'{source.name} has {source.size} examples'
            raise Problem(f'config.subset.fraction={fraction} is too small: {few}', CONFIG)
    else:
        return source
    chosen = np.sort(chosen)
    numbers = tensorflow().constant(chosen, 'int64')
    names = source.names
    return source._replace(
        name=f'{len(chosen)} of {source.name}',
        size=len(chosen),
        read=lambda i: source.read(numbers[i]),
        fingerprint=_hash((source.fingerprint, chosen.tolist())),
        where=lambda i: source.where(int(chosen[i])),
        labels=lambda: source.labels()[chosen],
        names=names and (lambda: np.array(names(), object)[chosen].tolist()),
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


def digits(split: str, *, test_fraction: float = 0.2, colored: bool = False) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8: always the same 1,437 train and 360 test. colored:
    not grey, but each in a colour drawn for it, for methods that look at colours."""
    from sklearn.datasets import load_digits

    data = load_digits()
    n = len(data.target)
    cut = math.ceil(n * _fraction(test_fraction))
    order = index.permutation(np.arange(n), n, index.key(0))
    chosen = order[:cut] if split == 'test' else order[cut:]
    grey = np.round(data.images[chosen] * (255 / 16)).astype(np.uint8)  # [n, 8, 8]
    images = np.repeat(grey[..., None], 3, axis=3)  # [n, 8, 8, 3]
    if colored:
        paint = index.uniform(index.key(chosen), 'color', 3)  # [n, 3]
        paint = paint / paint.max(1, keepdims=True)
        images = np.round(images * paint[:, None, None]).astype(np.uint8)
    return _in_memory(f'digits ({split})', images, data.target[chosen], 10)


def tfds(
    split: str,
    *,
    dataset: str = 'cifar10',
    data_dir: str | None = None,
    train: str = 'train',
    test: str = 'test',
) -> Source:
    """An image data set prepared by TensorFlow Datasets: 'name', 'name/config' or 'name:version'.

    Never uses the network. `data_dir` None is TFDS's own default; `train` and `test` are splits in
    TFDS's notation ('train[:90%]'). Small data sets of one image size are decoded into memory.
    """
    tf = tensorflow()
    builder = _builder(dataset, data_dir)
    chosen = test if split == 'test' else train
    try:
        info = builder.info.splits[chosen]
    except ValueError:
        known = ', '.join(builder.info.splits)
        raise Problem(f'config.data.{split}={chosen!r}: {dataset} has {known}', CONFIG) from None
    name = f'{builder.info.full_name} ({chosen})'
    kind = builder.info.file_format.value
    if kind not in ('tfrecord', 'array_record'):
        raise Problem(f'{name} is stored as {kind}: prepare it as tfrecord or array_record', INPUT)
    features = dict(builder.info.features)
    image = next((k for k, f in features.items() if type(f).__name__ == 'Image'), None)
    label = next((k for k, f in features.items() if type(f).__name__ == 'ClassLabel'), None)
    if image is None:
        raise Problem(f'{name} has no images, only {", ".join(features)}', INPUT)
    file = next((k for k in features if k.split('/')[-1] in ('file_name', 'filename')), None)
    classes = features[label].num_classes if label else None

    wanted = {image: tf.io.FixedLenFeature([], tf.string)}
    words = {file: tf.io.FixedLenFeature([], tf.string)} if file else {}
    if label:
        wanted[label] = words[label] = tf.io.FixedLenFeature([], tf.int64)

    def parse(record):
        values = tf.io.parse_single_example(record, wanted)
        return {
            'image': records.decode(values[image]),
            'label': tf.cast(values.get(label, -1), tf.int32),
        }

    def described(record):  # its image is not decoded
        values = tf.io.parse_single_example(record, words)
        return {'label': tf.cast(values.get(label, -1), tf.int32), 'name': values.get(file, '')}

    def about():
        make = lambda: {key: np.array([*x]) for key, x in read(described).items()}
        which = [(p.skip, p.take) for p in parts], label, file
        return records.kept('labels', [p.filename for p in parts], make, which)

    parts, shape = info.file_instructions, features[image].shape
    read = partial(_read, name, info.num_examples, records.in_order(kind, parts))
    names = (lambda: [os.fsdecode(x) for x in about()['name']]) if file else None
    if None not in shape and info.num_examples * math.prod([*shape[:2], 3]) <= IN_MEMORY:
        stored = read(parse)
        return _in_memory(name, stored['image'], stored['label'], classes, names)
    record = records.by_number(kind, parts)
    content = [(Path(p.filename).name, p.skip, p.take, os.path.getsize(p.filename)) for p in parts]
    return Source(
        name=name,
        size=info.num_examples,
        classes=classes,
        read=lambda i: parse(record(i)),
        fingerprint=_hash(content),
        where=lambda i: f'example {i} of {name}',
        labels=lambda: about()['label'] if label else np.full(info.num_examples, -1, np.int32),
        names=names,
    )


def folder(
    split: str, *, path: str = '', test_path: str = '', test_fraction: float = 0.1
) -> Source:
    """Your own images: a directory with JPEG, PNG, BMP, GIF (first frame) and WebP at any depth.

    If all of them lie in subfolders, of which there are two or more, these are the classes; else
    there are no labels. The test split is `test_path`; or `path`/test or `path`/val beside
    `path`/train; or else the `test_fraction` that the hashes of the file names single out.
    """
    if not path:
        raise Problem('config.data.path is empty: set it to the directory of your images', CONFIG)
    root = Path(path)
    beside = [root / name for name in ('test', 'val', 'validation') if (root / name).is_dir()]
    if not test_path and (root / 'train').is_dir() and beside:
        root, test_path = root / 'train', str(beside[0])
    files = _files(root)
    labels = sorted(_subfolders(files))
    if test_path and split == 'test':
        root = Path(test_path)
        files = _files(root)
        own = _subfolders(files)
        for strange in sorted(own - set(labels)) if labels else ():
            hint = nearest(strange, labels)
            raise Problem(f'{root}: "{strange}" is no class of the training images; {hint}', INPUT)
        labels = labels if own else []
    elif not test_path:
        held = _fraction(test_fraction) * 2**64
        files = [f for f in files if (int(_hash(f[0]), 16) < held) == (split == 'test')]
        if not files:
            raise Problem(f'{root}: no image to {split}: change config.data.test_fraction', INPUT)

    tf = tensorflow()
    places = [os.path.join(root, name) for name, _ in files]
    paths = tf.constant([os.fsencode(place) for place in places])
    number = {label: k for k, label in enumerate(labels)}
    numbers = tf.constant([number.get(name.split('/')[0], -1) for name, _ in files], tf.int32)
    return Source(
        name=f'{_printable(root)} ({split})',
        size=len(files),
        classes=len(labels) or None,
        read=lambda i: {'image': records.decode(tf.io.read_file(paths[i])), 'label': numbers[i]},
        fingerprint=_hash((labels, files)),
        where=lambda i: _printable(places[i]),
        labels=numbers.numpy,
        names=lambda: [name for name, _ in files],
    )


def _in_memory(name: str, images, labels, classes, names=None) -> Source:
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
    )


def _read(name: str, size: int, stored, parse) -> dict:
    """`parse` of every record of the dataset `stored`, which has `size` of them: arrays [n, ...]."""
    tf = tensorflow()
    parse = tf.autograph.experimental.do_not_convert(parse)
    batches, done = stored.map(parse, tf.data.AUTOTUNE, deterministic=True).batch(1000), []
    told = time.monotonic()
    try:
        for batch in batches.as_numpy_iterator():
            done.append(batch)
            if time.monotonic() > told + PATIENCE:
                told = time.monotonic()
                say(f'reading {name}: {min(1000 * len(done), size):,} of {size:,}')
    except tf.errors.OpError as error:
        first = 1000 * len(done)
        where = f'{name}, among the examples {first} to {first + 999}'
        raise Problem(f'{where}: {records.reason(error)}', DATA) from None
    found = sum(len(batch['label']) for batch in done)
    if found != size:
        raise Problem(f'{name} is damaged: it has {found} of {size} records', DATA)
    return {key: np.concatenate([batch[key] for batch in done]) for key in done[0]}


def _builder(dataset: str, data_dir: str | None):
    """TFDS's reader of a prepared data set; it needs no code of that data set."""
    import tensorflow_datasets
    from tensorflow_datasets.core import read_only_builder

    try:
        return read_only_builder.builder_from_files(dataset, data_dir=data_dir)
    except ValueError:
        known = tensorflow_datasets.list_builders(with_community_datasets=False)  # those are online
        if data_dir and os.path.isdir(data_dir):
            known += os.listdir(data_dir)
    base = dataset.split('/')[0].split(':')[0]
    close = difflib.get_close_matches(base, known, n=1)
    if base not in known and close:
        raise Problem(f'config.data.dataset={dataset!r}: did you mean "{close[0]}"?', INPUT)
    place, option = (f' in {data_dir}', f' --data_dir={data_dir}') if data_dir else ('', '')
    hint = f'run "tfds build {dataset}{option}" once, or set config.data.data_dir'
    raise Problem(f'the data set {dataset} is not prepared{place}: {hint}', INPUT)


def _files(root: Path) -> list:
    """The images below `root`: sorted pairs (path relative to it, bytes)."""
    if not root.is_dir():
        hint = 'config.data.path is the directory of your images'
        raise Problem(f'{_printable(root)} is not a directory: {hint}', INPUT)

    def fail(error):
        raise Problem(f'{_printable(error.filename)} cannot be read: {error.strerror}', DATA)

    found, seen = [], set()
    for place, folders, names in os.walk(root, onerror=fail, followlinks=True):
        here = os.stat(place)
        if (here.st_dev, here.st_ino) in seen:  # links can run in circles
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in names:
            if name.startswith('.') or not name.lower().endswith(SUFFIXES):
                continue
            path = os.path.join(place, name)
            try:
                status = os.stat(path)
            except OSError as error:
                fail(error)
            if not stat.S_ISREG(status.st_mode):
                continue
            if not status.st_size:
                raise Problem(f'{_printable(path)} is empty', DATA)
            found.append((os.path.relpath(path, root), status.st_size))
    if not found:
        raise Problem(f'{_printable(root)} holds no images ({" ".join(SUFFIXES)})', INPUT)
    return sorted(found)


def _subfolders(files) -> set:
    """The classes: what the paths begin with, if all are in subfolders and these are at least two."""
    first = {name.split('/')[0] for name, _ in files}
    return first if len(first) > 1 and all('/' in name for name, _ in files) else set()


def _listed(source: Source, path: str):
    """The numbers of the examples that the lines of a file name."""
    try:
        text = epath.Path(path).read_bytes().decode('utf-8-sig', 'surrogateescape')
    except OSError as error:
        reason = f'cannot be read: {error.strerror}'
        raise Problem(f'config.subset.list={path} {reason}', INPUT) from None
    lines = [line.strip() for line in text.split('\n') if line.strip()]
    names = source.names() if source.names else [str(i) for i in range(source.size)]
    short = [os.path.basename(name) for name in names]
    often = Counter(short)
    number = {name: i for i, name in enumerate(short) if often[name] == 1}
    number |= {name: i for i, name in enumerate(names)}
    strange = [line for line in lines if line not in number]
    if strange or not lines:
        first = f', the first "{_printable(strange[0])}"' if strange else ''
        wrong = f'{len(strange)} of {len(lines)} lines name no single example of {source.name}'
        raise Problem(f'config.subset.list={path}: {wrong}{first}', CONFIG)
    chosen, times = np.unique([number[line] for line in lines], return_counts=True)
    if times.max() > 1:
        twice = names[chosen[times.argmax()]]
        raise Problem(f'config.subset.list={path} has {_printable(twice)} twice', CONFIG)
    return chosen


def _fraction(value: float) -> float:
    if not 0 < value < 1:
        raise Problem(f'config.data.test_fraction={value}: use a number between 0 and 1', CONFIG)
    return value


def _hash(value) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()


def _printable(path) -> str:
    return os.fsencode(path).decode(errors='backslashreplace')
