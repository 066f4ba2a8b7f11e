"""The stored records of a prepared TFDS data set: in order, or any one by its number."""

import functools
import hashlib
import mmap
import os
import struct
from pathlib import Path

import numpy as np

from clr_jax.data.augment import tensorflow
from clr_jax.entry import DATA, INPUT, Problem


def in_order(kind: str, parts):
    """A tf.data.Dataset of the records of `parts`: TFDS's file instructions (filename, skip, take)."""
    tf = tensorflow()
    if kind == 'array_record':
        return tf.data.Dataset.range(sum(part.take for part in parts)).map(by_number(kind, parts))
    files = [tf.data.TFRecordDataset(p.filename).skip(p.skip).take(p.take) for p in parts]
    return functools.reduce(lambda a, b: a.concatenate(b), files)


def by_number(kind: str, parts):
    """The function from a number (int64 []) to its record (string []), for use in a graph."""
    tf = tensorflow()
    if kind == 'array_record':
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        stored = ArrayRecordDataSource(list(parts))
        fetch = lambda i: tf.numpy_function(lambda i: stored[int(i)], [i], tf.string)
        return lambda i: tf.ensure_shape(fetch(i), [])

    taken = [offsets(part.filename)[part.skip : part.skip + part.take] for part in parts]
    files = tf.constant([part.filename for part in parts])
    shard = tf.constant(np.repeat(np.arange(len(taken)), [len(t) for t in taken]))
    offset = tf.constant(np.concatenate(taken))

    def record(i):  # a TFRecordDataset from one offset on: TensorFlow also verifies the checksums
        data = tf.raw_ops.TFRecordDatasetV2(
            filenames=files[shard[i]][None],
            compression_type='',
            buffer_size=2**16,
            byte_offsets=offset[i][None],
        )
        form = {'output_types': [tf.string], 'output_shapes': [[]]}
        data = tf.raw_ops.TakeDataset(input_dataset=data, count=1, **form)
        return tf.raw_ops.DatasetToSingleElement(dataset=data, **form)[0]

    return record


def offsets(file: str):
    """Where each record of a local TFRecord file begins: [n] int64.

    Kept under the user's cache directory, for this very file (place, size, time), if that can be written.
    """
    try:
        status = os.stat(file)
    except OSError as error:
        raise Problem(f'{file} is not on this machine: {error.strerror}', INPUT) from None
    identity = (os.path.realpath(file), status.st_size, status.st_mtime_ns)
    name = hashlib.blake2b(repr(identity).encode(), digest_size=8).hexdigest()
    caches = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    cache = caches / 'clr_jax' / 'tfrecord' / f'{name}.npz'
    try:
        with np.load(cache) as kept:
            return kept['offsets']
    except Exception:  # absent or damaged, in one of many ways
        found = _walk(file)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_suffix(f'.{os.getpid()}.npz')
        np.savez(temporary, offsets=found)
        os.replace(temporary, cache)
    except OSError:
        pass  # found again the next time
    return found


def _walk(file: str):
    """The framing of a record: length (8 bytes), its checksum (4), the data, their checksum (4)."""
    found, position = [], 0
    with open(file, 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
        while position + 16 <= len(content):
            found.append(position)
            position += 16 + struct.unpack_from('<Q', content, position)[0]
        if position != len(content):
            raise Problem(f'{file} is damaged: its last record is not whole', DATA)
    return np.array(found)
