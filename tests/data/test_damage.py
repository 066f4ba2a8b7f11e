"""What cannot be read is named, counted and replaced by a rule; what only looks odd is read."""

import inspect
import io
import json
import struct
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from clr_jax.data import damage, images, pipeline, records, sources, subsets
from clr_jax.data.augment import Central, View, tensorflow
from clr_jax.entry import CONFIG, DATA, Problem
from tests.data.test_sources import cache, folder, picture, stored  # noqa: F401

PLAIN = View(copies=1, size=4, area=(1, 1), flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)
BAD = (2, 3, 11)  # of the images below; 11 is the last


def encoded(image, kind, **settings) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **settings)
    return data.getvalue()


def flat(k) -> bytes:
    """An image of one colour, which tells its number after any resizing."""
    return encoded(Image.new('RGB', (5, 6), (10 * k, 3, 7)), 'PNG')


@pytest.fixture
def spoilt(tmp_path):
    """Twelve images of two classes, of which three are none."""
    for k in range(12):
        path = tmp_path / 'ab'[k >= 3] / f'{k:02}.png'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes({2: b'', 3: flat(3)[:40], 11: b'<html>'}.get(k, flat(k)))
    return tmp_path


def instead(k: int) -> int:
    """The rule: the next one that can be read."""
    return {2: 4, 3: 4, 11: 0}.get(k, k)


def number(batch):
    """Whose image each row has."""
    return batch['views'][0][:, 0, 0, 0] // 10


def batches(source, count, **changes):
    settings = {'seed': 3, 'batch_size': 4} | changes
    return list(islice(pipeline.train_batches(source, [PLAIN], **settings), count))


def test_odd_images_are_read_as_pillow_reads_them():
    tf, rng = tensorflow(), np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    image, other = Image.fromarray(pixels), Image.fromarray(255 - pixels)
    clear = image.convert('RGBA')
    clear.putalpha(100)
    moves = {'save_all': True, 'append_images': [other]}
    deep = (np.arange(40 * 48).reshape(40, 48) * 30).astype(np.uint16)
    decode = lambda data: records.decode(tf.constant(data)).numpy()
    for data in (
        encoded(image.convert('CMYK'), 'JPEG'),
        encoded(image.convert('L'), 'JPEG'),
        encoded(image.convert('P'), 'PNG'),
        encoded(image, 'PNG', **moves),
        encoded(image, 'GIF', **moves),
        encoded(image, 'WEBP', lossless=True, **moves),
        encoded(image, 'WEBP', lossless=True),
        encoded(clear, 'WEBP'),
        encoded(clear, 'WEBP', lossless=True),
        encoded(clear, 'WEBP', **moves),
        encoded(clear, 'PNG'),
        encoded(image.crop((0, 0, 1, 1)), 'JPEG'),
        encoded(image.crop((0, 0, 1, 1)), 'WEBP', lossless=True),
    ):
        expected = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
        np.testing.assert_array_equal(decode(data), expected)
    grey = decode(encoded(Image.fromarray(deep), 'PNG'))
    np.testing.assert_array_equal(grey, np.stack([deep >> 8] * 3, -1))


@pytest.mark.parametrize('side', [9_999, 10_001])
def test_the_header_alone_tells_that_an_image_is_too_large(side):
    """Of each format; a smaller one is refused for what comes after the header."""
    tf = tensorflow()
    jpeg = bytearray(encoded(Image.new('RGB', (9, 9)), 'JPEG'))
    at = jpeg.index(b'\xff\xc0') + 5
    jpeg[at : at + 4] = struct.pack('>HH', side, side)
    three = lambda n: struct.pack('<I', n)[:3]
    starts = [
        *([jpeg] if side > 10_000 else []),
        b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR' + struct.pack('>II', side, side),
        b'GIF89a' + struct.pack('<HH', side, side),
        b'BM' + bytes(16) + struct.pack('<ii', side, -side),
    ] + [
        b'RIFF\0\0\0\0WEBP' + chunk
        for chunk in (
            b'VP8 \0\0\0\0\0\0\0\x9d\x01\x2a' + struct.pack('<HH', side, side),
            b'VP8L\0\0\0\0\x2f' + struct.pack('<I', side - 1 | side - 1 << 14),
            b'VP8X' + bytes(8) + three(side - 1) * 2,
        )
    ]
    for start in starts:
        with pytest.raises(tf.errors.InvalidArgumentError) as raised:
            records.decode(tf.constant(bytes(start) + bytes(9)))
        assert ('too large' in str(raised.value)) == (side > 10_000)


def test_how_large_an_image_may_be_is_a_setting(tmp_path, capsys):
    for k in range(3):  # 30 pixels each, the last 42
        size = (6, 7) if k == 2 else (5, 6)
        (tmp_path / f'{k}.png').write_bytes(encoded(Image.new('RGB', size, (10 * k, 3, 7)), 'PNG'))
    of = lambda most: folder(tmp_path, test_fraction=1e-9, max_bad_fraction=0.5, max_pixels=most)
    for most, last in ((42, 2), (41, 0)):
        (batch,) = batches(of(most), 1, batch_size=3)
        np.testing.assert_array_equal(
            number(batch), np.where(batch['index'] == 2, last, batch['index'])
        )
    assert '2.png is replaced: ' in (said := capsys.readouterr().err)
    assert 'config.data.max_pixels=41' in said
    for name in ('folder', 'tfds', 'tars', 'captions'):
        assert 'max_pixels' in inspect.signature(sources.FACTORIES[name]).parameters
    with pytest.raises(Problem, match=r'config\.data\.max_pixels=0: at least 1') as raised:
        of(0)
    assert raised.value.code == CONFIG


def test_a_bad_example_is_read_as_the_next_good_one(spoilt, capsys):
    """After a resume and on several processes, too."""
    source = folder(spoilt, test_fraction=1e-9, max_bad_fraction=0.25)
    made = batches(source, 6)  # two epochs
    said = capsys.readouterr().err.splitlines()
    for batch in made:
        content = [instead(k) for k in batch['index']]
        np.testing.assert_array_equal(number(batch), content)
        np.testing.assert_array_equal(batch['label'], np.array(content) >= 3)
    epoch = np.concatenate([batch['index'] for batch in made[:3]])
    np.testing.assert_array_equal(np.sort(epoch), np.arange(12))  # each in its place
    again = lambda: folder(spoilt, test_fraction=1e-9, max_bad_fraction=0.25)
    (resumed,) = batches(again(), 1, start=4)
    np.testing.assert_array_equal(number(resumed), number(made[4]))
    parts = [batches(again(), 2, rows=rows) for rows in ((0, 1), (1, 4))]
    for batch, *rows in zip(made[:2], *parts, strict=True):
        np.testing.assert_array_equal(number(batch), np.concatenate([*map(number, rows)]))
    assert damage.counted(source) == {'bad_examples': 3}
    damage.report(source)
    damage.report(source)
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f'3 of 12 examples of {source.name} cannot be read'
    )
    names = [source.where(k) for k in BAD]
    assert sorted(line.split(' is replaced: ')[0] for line in said) == names
    assert any(line == f'{names[0]} is replaced: Input is empty.' for line in said)


def test_evaluation_has_a_row_for_each_example(spoilt):
    source = folder(spoilt, test_fraction=1e-9, max_bad_fraction=0.25)
    (batch,) = pipeline.eval_batches(source, [Central(4, 1.0)], batch_size=16)
    np.testing.assert_array_equal(number(batch)[:12], [instead(k) for k in range(12)])
    np.testing.assert_array_equal(batch['index'], [*range(12), *[-1] * 4])
    np.testing.assert_array_equal(batch['label'][12:], -1)


def test_a_subset_stays_within_itself(spoilt, tmp_path):
    source = folder(spoilt, test_fraction=1e-9, max_bad_fraction=0.25)
    path = tmp_path / 'list.txt'
    path.write_text('00.png\n02.png\n03.png\n08.png\n')
    part = subsets.subset(source, list=str(path))
    (batch,) = pipeline.eval_batches(part, [Central(4, 1.0)], batch_size=4)
    np.testing.assert_array_equal(number(batch), [0, 8, 8, 8])
    assert damage.counted(source) == {'bad_examples': 2}  # of the whole


def test_too_many_end_the_run(spoilt):
    for fraction in (0.01, 0.2):
        source = folder(spoilt, test_fraction=1e-9, max_bad_fraction=fraction)
        with pytest.raises(Problem) as raised:
            batches(source, 3)
        assert raised.value.code == DATA
        said = str(raised.value)
        assert '\n' not in said
        assert any(source.where(k) in said for k in BAD)
        expected = '3 of 12 examples' in said and 'config.data.max_bad_fraction=0.2' in said
        assert expected == (fraction == 0.2)
    with pytest.raises(Problem, match=r'max_bad_fraction=1\.0') as raised:
        folder(spoilt, max_bad_fraction=1.0)
    assert raised.value.code == CONFIG


def test_a_file_that_is_gone_is_no_damage(spoilt):
    source = folder(spoilt, test_fraction=1e-9, max_bad_fraction=0.5)
    (spoilt / 'b' / '05.png').unlink()
    with pytest.raises(Problem, match=r'05\.png cannot be read: .*No such file'):
        batches(source, 3)


def test_processes_count_together(monkeypatch):
    """Two, of which the other has found two examples, one of them the same as this."""
    other = damage.Damage('set', 1000, 0.002)
    other.add('b', 'why')
    other.add('c', 'why')
    ours = damage.Damage('set', 1000, 0.002)
    ours.add('b', 'why')
    ours.add('b', 'why')
    assert ours.count() == 1

    def gathered(values):
        values = np.asarray(values).astype(np.int32)
        numbers = np.array([*other.found], np.uint64).view(np.int32)
        return np.stack([values, [len(other.found)] if len(values) == 1 else numbers])

    monkeypatch.setattr(damage.jax, 'process_count', lambda: 2)
    monkeypatch.setattr(damage.parallel, 'each_process', gathered)
    assert ours.count() == 2
    other.found.add(7)
    with pytest.raises(Problem, match='3 of 1,000 examples of set cannot be read'):
        ours.count()


def test_captions_go_with_the_image_that_is_read(tmp_path):
    for k in range(12):
        (tmp_path / f'{k}.png').write_bytes(b'nothing' if k == 5 else flat(k))
    lines = [json.dumps({'image': f'{k}.png', 'caption': f'number {k}'}) for k in range(12)]
    (tmp_path / 'captions.jsonl').write_text('\n'.join(lines))
    section = {'name': 'captions', 'path': str(tmp_path), 'test': 'all', 'max_bad_fraction': 0.1}
    source = sources.load(section, 'test')
    reader = damage.Reader(source)
    numbers = np.arange(12)
    found = reader.search(numbers)
    np.testing.assert_array_equal(found, [*range(5), 6, *range(6, 12)])
    assert source.read(tensorflow().constant(6))['text'].numpy().tolist() == [b'number 6']


def test_a_damaged_record_is_replaced(tmp_path, monkeypatch):
    """Also of a data set that would have been read into memory."""
    import tensorflow_datasets

    feature = tensorflow_datasets.features
    image = feature.Image(shape=(6, 7, 3), encoding_format='png')
    tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
        name='few',
        version='1.0.0',
        features=feature.FeaturesDict({'image': image}),
        split_datasets={'train': [(k, {'image': picture(6, 7, k)}) for k in range(9)]},
        data_dir=tmp_path,
        disable_shuffling=True,
    )
    (file,) = tmp_path.glob('few/1.0.0/*train*')
    raw = bytearray(file.read_bytes())
    raw[records.offsets(str(file))[4] + 100] ^= 1
    file.write_bytes(raw)
    for most in (images.IN_MEMORY, 0):
        monkeypatch.setattr(images, 'IN_MEMORY', most)
        source = stored(tmp_path, 'few', max_bad_fraction=0.2)
        (batch,) = pipeline.eval_batches(source, [Central(6, 1.0)], batch_size=9)
        np.testing.assert_array_equal(batch['views'][0][4], batch['views'][0][5])
        assert damage.counted(source) == {'bad_examples': 1}
    monkeypatch.undo()
    with pytest.raises(Problem, match='corrupted record'):
        stored(tmp_path, 'few')
