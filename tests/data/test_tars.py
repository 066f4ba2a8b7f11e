"""A WebDataset: what is read at random is what was put into the tar files, and nothing is unpacked."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from clr_jax.data import pipeline, sources, tars
from clr_jax.data.augment import Central, tensorflow
from clr_jax.entry import CONFIG, DATA, INPUT, Problem
from tests.data.test_damage import encoded
from tests.data.test_sources import cache, picture, read  # noqa: F401

KEYS = ['a.b/0', 'a.b/1', '2', f'../{"long" * 40}/3', '4', '5', '6']  # of five in a file


def store(path, members, form=tarfile.PAX_FORMAT):
    """A tar file of (name, bytes), after a folder and a link that leads out of it."""
    with tarfile.open(path, 'w', format=form) as tar:
        for kind, name in ((tarfile.DIRTYPE, 'a'), (tarfile.SYMTYPE, 'out.png')):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, '/etc/passwd'
            tar.addfile(member)
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def members(k) -> list:
    about = {'kind': 'odd' if k % 2 else 'even', 'captions': [f'number {k}', f'no. {k}', None]}
    return [
        (f'{KEYS[k]}.seg.png', b'another image'),
        (f'{KEYS[k]}.PNG', encoded(Image.fromarray(picture(4 + k, 5, k)), 'PNG')),
        (f'{KEYS[k]}.cls', f'{k % 3}\n'.encode()),
        (f'{KEYS[k]}.json', json.dumps(about).encode()),
    ]


@pytest.fixture
def shards(tmp_path):
    for n, (numbers, form) in enumerate(
        ((range(5), tarfile.PAX_FORMAT), (range(5, 7), tarfile.GNU_FORMAT))
    ):
        store(tmp_path / f'{n + 8:02}.tar', sum(map(members, numbers), []), form)
    return tmp_path


def load(path, split='train', **section):
    section = {'name': 'tars', 'path': str(path), 'test_fraction': 1e-9} | section
    return sources.load(section, split)


@pytest.mark.parametrize('scheme', ['', 'file://'])  # the latter as any bucket
def test_members_are_read_where_they_lie(shards, scheme, monkeypatch):
    source = load(f'{scheme}{shards}/{{08..09}}.tar')
    assert (source.size, source.classes, source.class_names) == (7, 3, None)
    for k in (6, 0, 3):
        image, label = read(source, k)
        np.testing.assert_array_equal(image, picture(4 + k, 5, k))
        assert label == k % 3
    np.testing.assert_array_equal(source.labels(), np.arange(7) % 3)
    assert source.names() == KEYS
    assert source.where(5) == f'5 in {scheme}{shards}/09.tar'
    assert {x.name for x in shards.iterdir()} == {'08.tar', '09.tar', 'cache'}
    assert {x.suffix for x in shards.glob('cache/clr_jax/*/*')} == {'.npz'}
    monkeypatch.setattr(tars, 'walk', lambda file: pytest.fail('walked again'))
    again = load(f'{scheme}{shards}/0?.tar')
    assert again.fingerprint == source.fingerprint
    assert load(f'{scheme}{shards}/08.tar').size == 5


def test_texts_and_classes_of_json(shards):
    source = load(f'{shards}/*.tar', label='json/kind', text=('json/captions',))
    assert (source.classes, source.class_names) == (2, ('even', 'odd'))
    np.testing.assert_array_equal(source.labels(), np.arange(7) % 2)
    example = source.read(tensorflow().constant(5))
    assert example['text'].numpy().tolist() == [b'number 5', b'no. 5']
    assert len(source.texts()) == 14
    assert source.fingerprint != load(f'{shards}/*.tar').fingerprint
    test = load(f'{shards}/*.tar', 'test', label='json/kind', test_path=f'{shards}/09.tar')
    assert (test.size, test.labels().tolist(), test.classes) == (2, [1, 0], 2)


def test_hashes_of_the_names_part_train_and_test(shards):
    train, test = (load(f'{shards}/*.tar', split, test_fraction=0.4) for split in ('train', 'test'))
    assert sorted(train.names() + test.names()) == sorted(KEYS)
    assert test.size


def test_a_damaged_image_in_a_tar_is_replaced(shards):
    store(shards / '10.tar', [('7.png', b'')])
    store(shards / '11.tar', [('8.txt', b'no image')])
    source = load(f'{shards}/*.tar', max_bad_fraction=0.2)
    assert (source.size, source.labels()[-1]) == (8, -1)
    (batch,) = pipeline.eval_batches(source, [Central(4, 1.0)], batch_size=8)
    np.testing.assert_array_equal(batch['views'][0][7], batch['views'][0][0])
    assert batch['label'].tolist() == [0, 1, 2, 0, 1, 2, 0, 0]


def test_what_is_no_set_of_tars(shards):
    def refused(code, words, path=f'{shards}/*.tar', **section):
        with pytest.raises(Problem, match=words) as raised:
            load(path, **section)
        assert raised.value.code == code
        assert '\n' not in str(raised.value)

    refused(CONFIG, r'config\.data\.path is empty', '')
    refused(INPUT, r'11\.tar is not there', f'{shards}/{{11..12}}.tar')
    refused(CONFIG, "label='txt': no example has it", label='txt')
    refused(DATA, 'json/size cannot be read: KeyError', label='json/size')
    refused(CONFIG, '"jpg" begins with none of cls', label='jpg')
    refused(DATA, r'a\.b/0 in .*08\.tar has no text in txt', text=('txt',))
    raw = (shards / '08.tar').read_bytes()
    whole = tars.walk(f'{shards}/08.tar')
    at = int(whole['offsets'][6]) - 512
    for k, damaged in enumerate(
        (raw[: at + 100], raw[:at] + b'x' + raw[at + 1 :], b'\x1f\x8b' * 400)
    ):
        (shards / f'd{k}.tar').write_bytes(damaged)
        refused(DATA, rf'd{k}\.tar is damaged', f'{shards}/d{k}.tar')
    store(shards / 'none.tar', [('8.txt', b'no image')])
    refused(INPUT, 'holds no images', f'{shards}/none.tar')
