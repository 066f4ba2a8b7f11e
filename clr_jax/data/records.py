"""What is stored: the records of a prepared TFDS data set, any one by its number, and image files."""

import errno
import functools
import hashlib
import io
import mmap
import os
import re
import struct
from pathlib import Path

import numpy as np

from clr_jax.data.augment import tensorflow
from clr_jax.entry import CONFIG, DATA, INPUT, Problem

INDEX = '.offsets.npy'  # beside a file of records on a bucket: where each begins, and its size
MAX_PIXELS = 100_000_000  # of one image, by default: some kilobytes of PNG can unpack to gigabytes


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
        try:
            from array_record.python.array_record_data_source import ArrayRecordDataSource
        except ImportError as error:
            what = f'data stored as array_record needs that library ({error})'
            raise Problem(
                f'{what}: pip install array_record, or prepare it as tfrecord', INPUT
            ) from None

        stored = ArrayRecordDataSource(list(parts))
        fetch = lambda i: tf.numpy_function(lambda i: stored[int(i)], [i], tf.string)
        return lambda i: tf.ensure_shape(fetch(i), [])

    taken = [offsets(part.filename)[part.skip : part.skip + part.take] for part in parts]
    for part, own in zip(parts, taken, strict=True):
        if len(own) != part.take:
            raise Problem(f'{part.filename} is damaged: records are missing', DATA)
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


def by_place(files, places):
    """The function from a number (int64 []) to the bytes at its place (string []), for use in a graph.
    places: [n, 3] number of the file, offset, size."""
    tf = tensorflow()

    def fetch(i):
        number, offset, size = places[i].tolist()
        file = files[number]
        with (tf.io.gfile.GFile if '://' in file else open)(file, 'rb') as f:
            f.seek(offset)
            return f.read(size)

    return lambda i: tf.ensure_shape(tf.numpy_function(fetch, [i], tf.string), [])


def decoder(max_pixels: int):
    """`decode` of images up to so many pixels, the setting of a data set."""
    if max_pixels < 1:
        raise Problem(f'config.data.max_pixels={max_pixels}: at least 1', CONFIG)
    return functools.partial(decode, max_pixels=max_pixels)


def decode(data, max_pixels: int = MAX_PIXELS):
    """An image file's bytes, whatever its name says -> uint8 [h, w, 3].

    Of what moves, the first frame; of 16 bits, the upper 8. An image of more than `max_pixels` by its
    header is an error before it is unpacked.
    """
    tf = tensorflow()

    def allow(sides):
        pixels = tf.abs(tf.reduce_prod(tf.cast(sides, tf.int64)))
        much = f'the image is too large for config.data.max_pixels={max_pixels}'
        tf.debugging.assert_less_equal(pixels, np.int64(max_pixels), much)

    def jpeg():
        allow(tf.io.extract_jpeg_shape(data)[:2])
        return tf.io.decode_jpeg(data, channels=3, dct_method='INTEGER_ACCURATE')  # as libjpeg does

    def unknown():
        tf.debugging.assert_equal(tf.strings.length(data), 0, 'no JPEG, PNG, GIF, BMP or WebP')
        return tf.zeros([2], tf.int32)

    def other():
        padded = tf.strings.join([tf.strings.substr(data, 0, 30), b'\0' * 30])
        part = lambda start, length: tf.strings.substr(padded, start, length)
        raw = lambda start, length, *how: tf.io.decode_raw(part(start, length), *how)
        read = lambda *place: tf.cast(raw(*place), tf.int32)
        b = tf.unstack(read(0, 30, tf.uint8), 30)

        def webp():  # of the chunks VP8 (lossy), VP8L and VP8X, by the last letter of the name
            lossy = b[26] + b[27] % 64 * 256, b[28] + b[29] % 64 * 256
            lossless = 1 + b[21] + b[22] % 64 * 256, 1 + b[22] // 64 + b[23] * 4 + b[24] % 16 * 1024
            sides = [1 + b[k] + b[k + 1] * 2**8 + b[k + 2] * 2**16 for k in (24, 27)]
            kinds = {' ': lossy, 'L': lossless, 'X': sides}
            cases = [(tf.equal(b[15], ord(k)), lambda v=v: tf.stack(v)) for k, v in kinds.items()]
            return tf.case(cases, default=unknown)

        sizes = {
            b'\x89P': lambda: read(16, 8, tf.int32, False),  # PNG
            b'GI': lambda: read(6, 4, tf.uint16),
            b'BM': lambda: read(18, 8, tf.int32),
            b'RI': webp,
        }
        cases = [(tf.equal(part(0, 2), start), sides) for start, sides in sizes.items()]
        allow(tf.case(cases, default=unknown))
        return tf.cond(tf.equal(part(8, 4), b'WEBP'), lambda: of_webp(b), lambda: picture(data, 3))

    def picture(data, channels):
        return tf.io.decode_image(data, channels, expand_animations=False)

    def of_webp(b):
        """TensorFlow takes it in no other channels than its own, and, if it moves, with alpha only:
        without that flag it fails, or writes beyond its memory."""
        extended, flags = tf.equal(b[15], ord('X')), b[20]
        moving = tf.logical_and(extended, flags // 2 % 2 > 0)
        rest = lambda: tf.strings.substr(data, 21, tf.strings.length(data) - 21)
        flagged = lambda: tf.strings.join([tf.strings.substr(data, 0, 20), b'\x12', rest()])
        clear = tf.where(extended, flags // 16, tf.where(tf.equal(b[15], ord('L')), b[24] // 16, 0))
        alpha = tf.logical_or(moving, clear % 2 > 0)
        whole = tf.cond(moving, flagged, lambda: data)
        return tf.cond(alpha, lambda: picture(whole, 4)[..., :3], lambda: picture(whole, 3))

    return tf.ensure_shape(tf.cond(tf.io.is_jpeg(data), jpeg, other), [None, None, 3])


def reason(error) -> str:
    """The first line of what TensorFlow says, without the name of the operation."""
    line = re.sub(r'\{\{.*?\}\} ?', '', error.message.splitlines()[0])
    return re.sub(r'( \[Op:\w+\])? name: *$', '', line)


def offsets(file: str):
    """Where each record of a TFRecord file begins: [n] int64. On a bucket (gs://...), what lies beside
    the file tells: `bucket.py`."""
    try:
        size = status(file)[1]
    except OSError as error:
        raise Problem(f'{file} is not there: {error.strerror}', INPUT) from None
    if not size:
        raise Problem(f'{file} is empty', DATA)
    if '://' in file:
        return _beside(file, size)
    return kept('tfrecord', [file], lambda: {'offsets': _walk(file)})['offsets']


def status(file: str) -> tuple:
    """Place, size in bytes and time of a file, here or on a bucket."""
    if '://' in file:
        tf = tensorflow()
        try:
            found = tf.io.gfile.stat(file)
        except tf.errors.NotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        return file, found.length, found.mtime_nsec
    local = os.stat(file)
    return os.path.realpath(file), local.st_size, local.st_mtime_ns


def _beside(file: str, size: int):
    tf = tensorflow()
    copy = 'copy the data set there with python -m clr_jax.data.bucket'
    try:
        with tf.io.gfile.GFile(file + INDEX, 'rb') as stored:
            *found, end = np.load(io.BytesIO(stored.read()))
    except tf.errors.NotFoundError:
        raise Problem(f'{file} has no index beside it: {copy}', INPUT) from None
    if end != size:
        raise Problem(f'{file} is not what its index tells of: {copy}', DATA)
    return np.array(found)


def kept(kind: str, files, make, also=()) -> dict:
    """`make()`: arrays, by name, that follow from the content of `files` and from `also`.

    Kept under the user's cache directory, for these very files (place, size, time), if that can be
    written.
    """
    identity = [status(file) for file in files]
    name = hashlib.blake2b(repr((identity, also)).encode(), digest_size=8).hexdigest()
    caches = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    cache = caches / 'clr_jax' / kind / f'{name}.npz'
    try:
        with np.load(cache) as stored:
            return dict(stored)
    except Exception:  # absent or damaged, in one of many ways
        made = make()
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_suffix(f'.{os.getpid()}.npz')
        np.savez(temporary, **made)
        os.replace(temporary, cache)
    except OSError:
        pass  # found again the next time
    return made


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
