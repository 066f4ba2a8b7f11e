"""Where images come from: scikit-learn's digits, TensorFlow Datasets, your own folder."""

import difflib
import math
import os
import time
from functools import partial
from pathlib import Path

import numpy as np

from clr_jax.data import index, records
from clr_jax.data.augment import tensorflow
from clr_jax.data.damage import Damage
from clr_jax.data.source import (
    Source,
    digest,
    files_below,
    fraction,
    in_memory,
    printable,
    subfolders,
)
from clr_jax.entry import CONFIG, DATA, INPUT, Problem, nearest
from clr_jax.log import say

IN_MEMORY = 2**30  # bytes: data sets of one image size up to this are decoded once
PATIENCE = 10  # seconds between two lines about a pass over the files
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp')


def digits(split: str, *, test_fraction: float = 0.2, colored: bool = False) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8: always the same 1,437 train and 360 test. colored:
    not grey, but each in a colour drawn for it, for methods that look at colours."""
    from sklearn.datasets import load_digits

    data = load_digits()
    n = len(data.target)
    cut = math.ceil(n * fraction(test_fraction))
    order = index.permutation(np.arange(n), n, index.key(0))
    chosen = order[:cut] if split == 'test' else order[cut:]
    grey = np.round(data.images[chosen] * (255 / 16)).astype(np.uint8)  # [n, 8, 8]
    images = np.repeat(grey[..., None], 3, axis=3)  # [n, 8, 8, 3]
    if colored:
        paint = index.uniform(index.key(chosen), 'color', 3)  # [n, 3]
        paint = paint / paint.max(1, keepdims=True)
        images = np.round(images * paint[:, None, None]).astype(np.uint8)
    numbers = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
    return in_memory(f'digits ({split})', images, data.target[chosen], 10, class_names=numbers)


def tfds(
    split: str,
    *,
    dataset: str = 'cifar10',
    data_dir: str | None = None,
    train: str = 'train',
    test: str = 'test',
    text: tuple = (),
    max_bad_fraction: float = 0.01,
    max_pixels: int = records.MAX_PIXELS,
) -> Source:
    """A data set of images, recordings or texts prepared by TensorFlow Datasets: 'name', 'name/config'
    or 'name:version', of which `text` names the features that are an example's texts ('caption', or
    'captions/text' of a sequence).

    Never uses the network. `data_dir` None is TFDS's own default; `train` and `test` are splits in
    TFDS's notation ('train[:90%]'). Small data sets of one image size are decoded into memory, if all
    of them can be read. Up to `max_bad_fraction` of the examples may be damaged, or larger than
    `max_pixels` by their header: `damage.Reader`.
    """
    tf = tensorflow()
    builder = prepared(dataset, data_dir)
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
    first = lambda kind: next((k for k, f in features.items() if type(f).__name__ == kind), None)
    image, sound, label = (first(kind) for kind in ('Image', 'Audio', 'ClassLabel'))
    if not (image or sound or text):
        raise Problem(f'{name} has no images and no audio, only {", ".join(features)}', INPUT)
    absent = [feature for feature in text if feature.split('/')[0] not in features]
    if absent:
        has = nearest(absent[0], features)
        raise Problem(f'config.data.text: {name} has no feature "{absent[0]}"; {has}', CONFIG)
    file = next((k for k in features if k.split('/')[-1] in ('file_name', 'filename')), None)
    rate = features[sound].sample_rate if sound else None  # of recordings, if it is told
    classes = features[label].num_classes if label else None
    class_names = tuple(features[label].names) if label else None

    wanted: dict = {image: tf.io.FixedLenFeature([], tf.string)} if image else {}
    wanted |= {sound: tf.io.RaggedFeature(tf.int64)} if sound else {}
    spoken = {feature: tf.io.RaggedFeature(tf.string) for feature in text}  # of a sequence, or one
    wanted |= spoken
    words = {file: tf.io.FixedLenFeature([], tf.string)} if file else {}
    if label:
        wanted[label] = words[label] = tf.io.FixedLenFeature([], tf.int64)

    def parse(record):
        values = tf.io.parse_single_example(record, wanted)
        example = {'label': tf.cast(values.get(label, -1), tf.int32)}
        if image:
            example['image'] = decode(values[image])
        if sound:
            example['recording'] = tf.cast(values[sound], tf.int16)
        if text:
            example['text'] = tf.concat([values[feature] for feature in text], 0)  # [t]
        return example

    def said(record):
        values = tf.io.parse_single_example(record, spoken)
        every = tf.concat([values[feature] for feature in text], 0)
        return {'label': -1, 'text': tf.strings.reduce_join(every, separator='\0')}

    def texts():
        return [
            x for of in read(said)['text'] for x in of.decode(errors='replace').split('\0') if x
        ]

    def described(record):  # its image is not decoded
        values = tf.io.parse_single_example(record, words)
        return {'label': tf.cast(values.get(label, -1), tf.int32), 'name': values.get(file, '')}

    def about():
        make = lambda: {key: np.array([*x]) for key, x in read(described).items()}
        which = [(p.skip, p.take) for p in parts], label, file
        return records.kept('labels', [p.filename for p in parts], make, which)

    parts = info.file_instructions
    decode, damage = records.decoder(max_pixels), Damage(name, info.num_examples, max_bad_fraction)
    shape = features[image].shape if image and not (sound or text) else (None,)
    read = partial(_read, name, info.num_examples, records.in_order(kind, parts))
    names = (lambda: [os.fsdecode(x) for x in about()['name']]) if file else None
    if None not in shape and info.num_examples * math.prod([*shape[:2], 3]) <= IN_MEMORY:
        try:
            stored = read(parse)
            return in_memory(name, stored['image'], stored['label'], classes, names, class_names)
        except Problem:
            if not damage.most:
                raise
    record = records.by_number(kind, parts)
    content = [
        (Path(p.filename).name, p.skip, p.take, records.status(p.filename)[1]) for p in parts
    ]
    return Source(
        name=name,
        size=info.num_examples,
        classes=classes,
        read=lambda i: parse(record(i)),
        fingerprint=digest(content),
        where=lambda i: f'example {i} of {name}',
        labels=lambda: about()['label'] if label else np.full(info.num_examples, -1, np.int32),
        names=names,
        texts=texts if text else None,
        class_names=class_names,
        rate=(lambda: rate) if rate else None,
        damage=damage,
    )


def folder(
    split: str,
    *,
    path: str = '',
    test_path: str = '',
    test_fraction: float = 0.1,
    max_bad_fraction: float = 0.01,
    max_pixels: int = records.MAX_PIXELS,
) -> Source:
    """Your own images: a directory with JPEG, PNG, BMP, GIF (first frame) and WebP at any depth.

    If all of them lie in subfolders, of which there are two or more, these are the classes; else
    there are no labels. The test split is `test_path`; or `path`/test or `path`/val beside
    `path`/train; or else the `test_fraction` that the hashes of the file names single out.

    Up to `max_bad_fraction` of a split's images may be damaged, no images, or larger than `max_pixels` by
    their header: others are read for them (`damage.Reader`).
    """
    if not path:
        raise Problem('config.data.path is empty: set it to the directory of your images', CONFIG)
    root = Path(path)
    beside = [root / name for name in ('test', 'val', 'validation') if (root / name).is_dir()]
    if not test_path and (root / 'train').is_dir() and beside:
        root, test_path = root / 'train', str(beside[0])
    files = files_below(root, SUFFIXES, 'images', empty=True)
    labels = sorted(subfolders(files))
    if test_path and split == 'test':
        root = Path(test_path)
        files = files_below(root, SUFFIXES, 'images', empty=True)
        own = subfolders(files)
        for strange in sorted(own - set(labels)) if labels else ():
            hint = nearest(strange, labels)
            raise Problem(f'{root}: "{strange}" is no class of the training images; {hint}', INPUT)
        labels = labels if own else []
    elif not test_path:
        held = fraction(test_fraction) * 2**64
        files = [f for f in files if (int(digest(f[0]), 16) < held) == (split == 'test')]
        if not files:
            raise Problem(f'{root}: no image to {split}: change config.data.test_fraction', INPUT)

    tf = tensorflow()
    places = [os.path.join(root, name) for name, _ in files]
    paths = tf.constant([os.fsencode(place) for place in places])
    number = {label: k for k, label in enumerate(labels)}
    numbers = tf.constant([number.get(name.split('/')[0], -1) for name, _ in files], tf.int32)
    name, decode = f'{printable(root)} ({split})', records.decoder(max_pixels)
    return Source(
        name=name,
        size=len(files),
        classes=len(labels) or None,
        read=lambda i: {'image': decode(tf.io.read_file(paths[i])), 'label': numbers[i]},
        fingerprint=digest((labels, files)),
        where=lambda i: printable(places[i]),
        labels=numbers.numpy,
        names=lambda: [file for file, _ in files],
        class_names=tuple(labels) or None,
        damage=Damage(name, len(files), max_bad_fraction),
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


def prepared(dataset: str, data_dir: str | None):
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
