"""Data sets: what is read is what was written, and each mistake ends in one line that names it."""

import hashlib
import os
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from clr_jax.data import bucket, images, pipeline, records, sources
from clr_jax.data.augment import Central, View, tensorflow
from clr_jax.entry import CONFIG, DATA, INPUT, Problem


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def read(source, i):
    example = source.read(tensorflow().constant(i, 'int64'))
    assert (example['image'].dtype, example['label'].dtype) == ('uint8', 'int32')
    return example['image'].numpy(), int(example['label'])


def problem(code, *words, **section):
    """The Problem that `section` ends in has this code, and its one line these words."""
    split = section.pop('split', 'train')
    with pytest.raises(Problem) as raised:
        sources.load(section, split)
    assert raised.value.code == code
    assert '\n' not in str(raised.value)
    for word in words:
        assert str(word) in str(raised.value)


# digits


def test_digits_are_scikit_learns_split_once_and_for_all():
    train, test = (sources.load({'name': 'digits'}, split) for split in ('train', 'test'))
    assert (train.size, test.size, train.classes) == (1437, 360, 10)
    assert (train.fingerprint, test.fingerprint) == ('903dc3b0d34b9241', '01abea3bfa0b7572')
    data = load_digits()
    known = {}
    for image, label in zip(data.images, data.target, strict=True):
        known.setdefault(image.tobytes(), []).append(int(label))
    for source in (train, test):
        assert source.images.shape == (source.size, 8, 8, 3)
        for i in range(source.size):
            image = source.images[i]
            assert (image == image[..., :1]).all()
            grey = np.round(image[..., 0] / 255 * 16).astype(float)
            label = read(source, i)[1] if i < 20 else None
            labels = known[grey.tobytes()]
            assert label is None or label in labels
            labels.pop()  # each of the 1,797 once
    assert not any(known.values())
    np.testing.assert_array_equal(read(test, 7)[0], test.images[7])


def test_colored_digits_are_the_same_in_a_colour_of_their_own():
    grey, colored = (
        sources.load({'name': 'digits', 'colored': colored}, 'test').images.astype(float)
        for colored in (False, True)
    )
    ink = grey.max((1, 2))  # [n, 3]
    paint = colored.max((1, 2)) / ink
    np.testing.assert_allclose(paint.max(1), 1)
    assert len(np.unique(paint.round(3), axis=0)) > len(grey) - 5
    assert paint.min(1).mean() < 0.5
    assert np.abs(colored - grey * paint[:, None, None]).max() <= 1  # rounding, twice


def test_unknown_names_and_keys():
    problem(CONFIG, 'digitz', 'did you mean "digits"', name='digitz')
    problem(CONFIG, 'config.data.fraction', name='digits', fraction=0.1)
    problem(CONFIG, 'test_fraction=1.5', name='digits', test_fraction=1.5)


# folder


def write(path, image=None, encode='png'):
    tf = tensorflow()
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture(20, 30) if image is None else image
    path.write_bytes(getattr(tf.io, f'encode_{encode}')(image).numpy())


def folder(path, split='train', **section):
    return sources.load({'name': 'folder', 'path': str(path)} | section, split)


@pytest.fixture
def zoo(tmp_path):
    """Two classes of images of several kinds, among what is none."""
    write(tmp_path / 'cat' / 'a.png', picture(20, 30, 1))
    write(tmp_path / 'cat' / 'deep' / 'b.PNG', picture(21, 30, 2))
    write(tmp_path / 'dog' / 'grey.png', picture(22, 30, 3)[..., :1])
    write(tmp_path / 'dog' / 'is_png.jpg', picture(23, 30, 4))
    write(tmp_path / 'dog' / 'photo.jpeg', picture(24, 30, 5), 'jpeg')
    (tmp_path / 'dog' / '.hidden.png').write_bytes(b'')
    (tmp_path / '.git').mkdir()
    (tmp_path / '.git' / 'x.png').write_bytes(b'')
    (tmp_path / 'dog' / 'notes.txt').write_text('no image')
    os.mkfifo(tmp_path / 'dog' / 'pipe.png')
    (tmp_path / 'dog' / 'circle').symlink_to(tmp_path)
    return tmp_path


def test_subfolders_are_classes(zoo):
    source = folder(zoo, test_fraction=1e-9)
    assert (source.size, source.classes, source.images) == (5, 2, None)
    names = [os.path.relpath(source.where(i), zoo) for i in range(5)]
    assert names == [
        'cat/a.png',
        'cat/deep/b.PNG',
        'dog/grey.png',
        'dog/is_png.jpg',
        'dog/photo.jpeg',
    ]
    assert [read(source, i)[1] for i in range(5)] == [0, 0, 1, 1, 1]
    for i in (0, 1, 3):
        np.testing.assert_array_equal(read(source, i)[0], picture(20 + i, 30, 1 + i))
    grey = picture(22, 30, 3)[..., :1].repeat(3, 2)
    np.testing.assert_array_equal(read(source, 2)[0], grey)
    tf = tensorflow()
    expected = tf.io.decode_jpeg(
        (zoo / 'dog/photo.jpeg').read_bytes(), dct_method='INTEGER_ACCURATE'
    )
    np.testing.assert_array_equal(read(source, 4)[0], expected)


def test_a_bmp_and_the_first_frame_of_a_gif(tmp_path):
    image = picture(3, 4)  # rows of 12 bytes need no padding
    header = struct.pack(
        '<2sIHHIIiiHHIIiiII', b'BM', 54 + 36, 0, 0, 54, 40, 4, 3, 1, 24, 0, 36, 0, 0, 0, 0
    )
    (tmp_path / 'a.bmp').write_bytes(header + image[::-1, :, ::-1].tobytes())
    colours = bytes([10, 20, 30, 200, 100, 50])
    frame = lambda data: b',' + struct.pack('<HHHHB', 0, 0, 1, 1, 0) + b'\x02\x02' + data + b'\x00'
    screen = b'GIF89a' + struct.pack('<HHBBB', 1, 1, 0x80, 0, 0) + colours
    (tmp_path / 'b.gif').write_bytes(screen + frame(b'\x44\x01') + frame(b'\x4c\x01') + b';')
    source = folder(tmp_path, test_fraction=1e-9)
    np.testing.assert_array_equal(read(source, 0)[0], image)
    np.testing.assert_array_equal(read(source, 1)[0], [[[10, 20, 30]]])


def test_a_flat_folder_has_no_labels(tmp_path):
    for k in range(40):
        write(tmp_path / f'{k}.png')
    train, test = (folder(tmp_path, split, test_fraction=0.3) for split in ('train', 'test'))
    assert (train.classes, test.classes, read(train, 0)[1]) == (None, None, -1)
    names = [{source.where(i) for i in range(source.size)} for source in (train, test)]
    assert (len(names[0] | names[1]), names[0] & names[1]) == (40, set())
    expected = [
        int(hashlib.blake2b(f"'{k}.png'".encode(), digest_size=8).hexdigest(), 16) < 0.3 * 2**64
        for k in range(40)
    ]
    assert 4 < test.size == sum(expected)
    write(tmp_path / 'another.png')  # moves no image to the other side
    assert names[1] <= {
        s.where(i) for s in [folder(tmp_path, 'test', test_fraction=0.3)] for i in range(s.size)
    }
    assert folder(tmp_path, test_fraction=0.3).fingerprint != train.fingerprint
    one = tmp_path / 'only'
    write(one / 'folder' / 'a.png')
    assert folder(one, test_fraction=1e-9).classes is None


def test_train_and_test_folders(tmp_path):
    for name in ('train/a/1.png', 'train/b/2.png', 'val/b/3.png', 'val/a/4.png', 'val/b/5.png'):
        write(tmp_path / name)
    train, test = folder(tmp_path), folder(tmp_path, 'test')
    assert (train.size, test.size, train.classes, test.classes) == (2, 3, 2, 2)
    assert [read(test, i)[1] for i in range(3)] == [0, 1, 1]
    explicit = folder(tmp_path / 'train', 'test', test_path=str(tmp_path / 'val'))
    assert explicit.fingerprint == test.fingerprint
    write(tmp_path / 'val' / 'c' / '6.png')
    problem(INPUT, '"c" is no class', name='folder', path=str(tmp_path), split='test')


def test_what_is_no_folder_of_images(tmp_path):
    problem(CONFIG, 'config.data.path', name='folder')
    problem(INPUT, tmp_path / 'no', 'not a directory', name='folder', path=str(tmp_path / 'no'))
    problem(INPUT, tmp_path, 'no images', name='folder', path=str(tmp_path))
    write(tmp_path / 'a.png')
    problem(
        INPUT, 'test_fraction', name='folder', path=str(tmp_path), test_fraction=1e-9, split='test'
    )
    (tmp_path / 'b.png').symlink_to(tmp_path / 'gone')
    problem(DATA, tmp_path / 'b.png', name='folder', path=str(tmp_path))


def damaged(path):
    """The Problem that training on a folder with a damaged image ends in names that image."""
    source = folder(path, test_fraction=1e-9)
    view = View(size=8, jitter=0.0)
    batches = pipeline.train_batches(source, [view], seed=0, batch_size=source.size)
    with pytest.raises(Problem) as raised:
        next(batches)
    assert raised.value.code == DATA
    assert '\n' not in str(raised.value)
    return str(raised.value)


def test_a_damaged_image_is_named(tmp_path):
    for k in range(3):
        write(tmp_path / f'{k}.jpg', picture(40, 40, k), 'jpeg')
    path = tmp_path / '1.jpg'
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b'\x00' * 99, b'\xff', b''):
        path.write_bytes(content)
        assert damaged(tmp_path).startswith(f'{path} cannot be read: ')
    source = folder(tmp_path, test_fraction=1e-9)
    path.unlink()
    with pytest.raises(Problem, match='1.jpg cannot be read'):
        next(pipeline.eval_batches(source, [Central(8, 1.0)], batch_size=3))


def test_an_image_too_large_is_refused_unread(tmp_path):
    chunk = lambda kind, data: (
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    )
    side = 20_000
    header = struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0)
    start = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
    data = zlib.compress(bytes(side + 1) * 10)
    (tmp_path / 'bomb.png').write_bytes(start + chunk(b'IDAT', data) + chunk(b'IEND', b''))
    assert 'too large' in damaged(tmp_path)
    (tmp_path / 'bomb.png').unlink()
    write(tmp_path / 'a.jpg', picture(16, 16), 'jpeg')
    jpeg = bytearray((tmp_path / 'a.jpg').read_bytes())
    at = jpeg.index(b'\xff\xc0') + 5
    jpeg[at : at + 4] = struct.pack('>HH', side, side)
    (tmp_path / 'a.jpg').write_bytes(jpeg)
    assert 'too large' in damaged(tmp_path)


# tfds


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """Prepared data sets: `small` of one size, `photos` of several, `packed` as array_record."""
    import tensorflow_datasets

    place = tmp_path_factory.mktemp('tfds')
    feature = tensorflow_datasets.features

    def store(name, shape, size, kind, **features):
        images = [picture(*size(k), seed=k)[..., : shape[2]] for k in range(9)]
        examples = [(k, {'image': x, 'label': k % 3}) for k, x in enumerate(images)]
        if not features:
            examples = [(k, {'image': example['image']}) for k, example in examples]
        image = feature.Image(shape=shape, encoding_format='png')
        tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
            name=name,
            version='1.0.0',
            features=feature.FeaturesDict({'image': image} | features),
            split_datasets={'train': examples, 'test': examples[:4]},
            data_dir=place,
            file_format=kind,
            disable_shuffling=True,
        )

    label = feature.ClassLabel(num_classes=3)
    store('small', (6, 7, 3), lambda k: (6, 7), 'tfrecord', label=label)
    store('grey', (6, 7, 1), lambda k: (6, 7), 'tfrecord')
    store('photos', (None, None, 3), lambda k: (10 + k, 20), 'tfrecord', label=label)
    store('packed', (None, None, 3), lambda k: (10 + k, 20), 'array_record', label=label)
    return place


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'clr_jax'


def stored(place, dataset, split='train', **section):
    section = {'name': 'tfds', 'dataset': dataset, 'data_dir': str(place)} | section
    return sources.load(section, split)


def test_a_small_data_set_is_read_into_memory(prepared):
    source = stored(prepared, 'small')
    assert (source.size, source.classes, source.name) == (9, 3, 'small/1.0.0 (train)')
    np.testing.assert_array_equal(source.images, [picture(6, 7, k) for k in range(9)])
    assert [read(source, i)[1] for i in range(9)] == [0, 1, 2] * 3
    np.testing.assert_array_equal(read(source, 5)[0], picture(6, 7, 5))
    grey = stored(prepared, 'grey', 'test')
    assert (grey.size, grey.classes, read(grey, 0)[1]) == (4, None, -1)
    expected = [picture(6, 7, k)[..., :1].repeat(3, 2) for k in range(4)]
    np.testing.assert_array_equal(grey.images, expected)


@pytest.mark.parametrize('dataset', ['photos', 'packed'])
def test_a_large_data_set_is_read_at_random(prepared, dataset):
    source = stored(prepared, dataset)
    assert (source.size, source.classes, source.images) == (9, 3, None)
    for i in (8, 0, 3):
        image, label = read(source, i)
        np.testing.assert_array_equal(image, picture(10 + i, 20, i))
        assert label == i % 3
    batches = pipeline.eval_batches(source, [Central(8, 1.0)], batch_size=9)
    assert next(batches)['label'].tolist() == [0, 1, 2] * 3
    assert source.where(3) == f'example 3 of {dataset}/1.0.0 (train)'


def test_digits_stored_as_array_record(tmp_path, monkeypatch):
    """In memory, and at random; of which the library is a part that may be absent."""
    import tensorflow_datasets

    data, feature = load_digits(), tensorflow_datasets.features
    pictures = np.round(data.images[:20, ..., None] * (255 / 16)).astype(np.uint8)
    image = feature.Image(shape=(8, 8, 1), encoding_format='png')
    tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
        name='written',
        version='1.0.0',
        features=feature.FeaturesDict(
            {'image': image, 'label': feature.ClassLabel(num_classes=10)}
        ),
        split_datasets={
            'train': [(k, {'image': pictures[k], 'label': data.target[k]}) for k in range(20)]
        },
        data_dir=tmp_path,
        file_format='array_record',
        disable_shuffling=True,
    )
    whole = stored(tmp_path, 'written')
    np.testing.assert_array_equal(whole.images, pictures.repeat(3, -1))
    np.testing.assert_array_equal(whole.labels(), data.target[:20])
    monkeypatch.setattr(images, 'IN_MEMORY', 0)
    source = stored(tmp_path, 'written', train='train[4:]')
    assert (source.size, source.images, source.classes) == (16, None, 10)
    for i in (15, 0, 7):
        image, label = read(source, i)
        np.testing.assert_array_equal(image, pictures[4 + i].repeat(3, -1))
        assert label == data.target[4 + i]
    monkeypatch.setitem(sys.modules, 'array_record.python.array_record_data_source', None)
    section = {'name': 'tfds', 'dataset': 'written', 'data_dir': str(tmp_path)}
    problem(INPUT, 'pip install array_record', **section)


@pytest.mark.parametrize('dataset', ['small', 'photos', 'packed'])
def test_splits_are_in_the_notation_of_tfds(prepared, dataset):
    source = stored(prepared, dataset, train='train[7:]+test[1:3]')
    assert [read(source, i)[1] for i in range(source.size)] == [1, 2, 1, 2]
    other = stored(prepared, dataset, train='train[6:]+test[1:3]')
    assert other.fingerprint != source.fingerprint


def test_in_memory_or_at_random_is_the_same(prepared, monkeypatch):
    whole = stored(prepared, 'small')
    monkeypatch.setattr(images, 'IN_MEMORY', 0)
    source = stored(prepared, 'small')
    assert source.images is None
    for i in range(9):
        np.testing.assert_array_equal(read(source, i)[0], whole.images[i])


def test_a_data_set_on_a_bucket_is_read_with_the_index_beside_it(prepared, tmp_path, monkeypatch):
    """A bucket is anything with a scheme, here a folder by its URL; TFDS itself knows but Google's."""
    bucket.copy('photos', str(prepared), f'file://{tmp_path}/copy')
    (file,) = tmp_path.glob('copy/photos/1.0.0/*train*-00001')
    copied = sources.load(
        {'name': 'tfds', 'dataset': 'photos', 'data_dir': f'{tmp_path}/copy'}, 'train'
    )
    assert copied.fingerprint == stored(prepared, 'photos').fingerprint

    monkeypatch.setattr(records, '_walk', lambda file: pytest.fail('read whole'))
    url = f'file://{file}'
    part = SimpleNamespace(filename=url, skip=2, take=5)
    record = records.by_number('tfrecord', [part])
    whole = [x.numpy() for x in tensorflow().data.TFRecordDataset(str(file))]
    assert [record(i).numpy() for i in (4, 0, 3)] == [whole[k] for k in (6, 2, 5)]
    assert records.status(url)[:2] == (url, file.stat().st_size)

    before = file.stat().st_mtime_ns
    bucket.copy('photos', str(prepared), f'file://{tmp_path}/copy')  # there is nothing left to do
    assert file.stat().st_mtime_ns == before
    file.write_bytes(file.read_bytes() * 2)
    with pytest.raises(Problem, match='is not what its index tells of'):
        records.offsets(url)
    Path(f'{file}{records.INDEX}').unlink()
    with pytest.raises(
        Problem, match='has no index beside it: copy .* clr_jax.data.bucket'
    ) as error:
        records.offsets(url)
    assert error.value.code == INPUT
    with pytest.raises(Problem, match='only tfrecord can be read from a bucket'):
        bucket.copy('packed', str(prepared), str(tmp_path))


def test_the_index_of_a_file_is_kept_if_it_can_be(prepared, cache, monkeypatch):
    (file,) = prepared.glob('photos/1.0.0/*train*')
    found = records.offsets(str(file))
    raw, expected, at = file.read_bytes(), [], 0
    while at < len(raw):
        expected.append(at)
        at += 16 + int.from_bytes(raw[at : at + 8], 'little')
    np.testing.assert_array_equal(found, expected)
    (kept,) = cache.glob('tfrecord/*')
    monkeypatch.setattr(records, '_walk', lambda file: pytest.fail('walked again'))
    np.testing.assert_array_equal(records.offsets(str(file)), expected)
    monkeypatch.undo()
    monkeypatch.setenv('XDG_CACHE_HOME', str(cache.parent))
    kept.write_bytes(b'damaged')
    np.testing.assert_array_equal(records.offsets(str(file)), expected)
    monkeypatch.setenv('XDG_CACHE_HOME', str(file))  # a file: nothing can be written there
    np.testing.assert_array_equal(records.offsets(str(file)), expected)


@pytest.mark.parametrize('dataset', ['small', 'photos'])
def test_a_damaged_record_is_reported(prepared, dataset, tmp_path):
    (original,) = prepared.glob(f'{dataset}/1.0.0/*train*')
    copy = tmp_path / 'copy' / dataset / '1.0.0'
    copy.mkdir(parents=True)
    for file in original.parent.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    file = copy / original.name
    raw = bytearray(file.read_bytes())
    raw[records.offsets(str(original))[4] + 100] ^= 1  # one bit of the fifth example
    file.write_bytes(raw)
    with pytest.raises(Problem, match=f'{dataset}/1.0.0.*corrupted record') as raised:
        for _ in pipeline.eval_batches(
            stored(tmp_path / 'copy', dataset), [Central(8, 1.0)], batch_size=9
        ):
            pass
    assert raised.value.code == DATA
    assert ('example 4 of' in str(raised.value)) == (dataset == 'photos')
    at = records.offsets(str(original))
    for content in (raw[:-5], raw[: at[3]], b''):  # cut short, also between two records
        file.write_bytes(content)
        with pytest.raises(Problem) as raised:
            stored(tmp_path / 'copy', dataset)
        assert raised.value.code == DATA
        assert (dataset if dataset == 'small' else str(file)) in str(raised.value)


def test_what_is_not_prepared(prepared, monkeypatch):
    place = {'name': 'tfds', 'data_dir': str(prepared)}
    problem(INPUT, 'did you mean "cifar100"', dataset='cifar1000', **place)
    problem(INPUT, f'"tfds build mnist --data_dir={prepared}"', dataset='mnist', **place)
    problem(INPUT, 'tfds build small:2.0.0', dataset='small:2.0.0', **place)
    problem(
        CONFIG, "config.data.train='valid'", 'train, test', dataset='small', train='valid', **place
    )
    problem(
        CONFIG, "config.data.test='test[x'", dataset='small', test='test[x', split='test', **place
    )
    problem(CONFIG, 'config.data.data_die', 'did you mean "data_dir"', data_die='', name='tfds')


@pytest.mark.skipif('TFDS_DATA_DIR' not in os.environ, reason='one more, real data set: CIFAR-10')
def test_cifar10():
    train, test = (sources.load({'name': 'tfds'}, split) for split in ('train', 'test'))
    assert (train.size, test.size, train.classes) == (50_000, 10_000, 10)
    assert train.images.shape == (50_000, 32, 32, 3)
    labels = np.concatenate(
        [b['label'] for b in pipeline.eval_batches(test, [Central(32, 1.0)], batch_size=1000)]
    )
    np.testing.assert_array_equal(np.bincount(labels), [1000] * 10)
