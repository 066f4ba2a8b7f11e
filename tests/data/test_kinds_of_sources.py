"""Captions, sentences, recordings and replayed frames: what is read is what was written, which split
has what, and what is refused."""

import json
import wave

import numpy as np
import pytest

from clr_jax.data import captions, replays, sentences, sounds, sources, subsets
from clr_jax.data.augment import tensorflow
from clr_jax.entry import DATA, INPUT, Problem


def read(source, i):
    return {key: value.numpy() for key, value in source.read(tensorflow().constant(i)).items()}


def everything(source):
    return [read(source, i) for i in range(source.size)]


# Captions.


def captioned(folder, count=40, form='jsonl'):
    tf = tensorflow()
    for place in ('one', 'two'):
        (folder / place).mkdir()
    records = []
    for k in range(count):
        for place in ('one', 'two'):
            pixels = np.full((4, 5, 3), k + 100 * (place == 'two'), np.uint8)
            (folder / place / f'{k}.png').write_bytes(tf.io.encode_png(pixels).numpy())
        of = {'captions': [f'number {k}', f'no. {k}']} if k % 2 else {'caption': f'number {k}'}
        records.append({'image': f'{k}.png', 'kind': 'odd' if k % 2 else 'even'} | of)
    text = '\n'.join(map(json.dumps, records)) if form == 'jsonl' else json.dumps(records)
    (folder / f'captions.{form}').write_text(text)
    return records


@pytest.mark.parametrize('form', ['jsonl', 'json'])
def test_captions_stay_with_their_images(tmp_path, form):
    captioned(tmp_path, form=form)
    settings = {'path': str(tmp_path / 'one'), 'file': f'../captions.{form}', 'label': 'kind'}
    train = captions.captions('train', **settings)
    test = captions.captions('test', test_path=str(tmp_path / 'two'), **settings)
    seen = captions.captions('test', test='seen', test_path=str(tmp_path / 'two'), **settings)
    every = captions.captions('test', test='all', **settings)
    assert train.size + test.size == every.size == 40
    assert test.size > 0
    assert seen.names() == train.names()
    assert not set(test.names()) & set(train.names())
    assert train.classes == 2
    for source, shift in ((train, 0), (test, 100), (seen, 100), (every, 0)):
        for name, example in zip(source.names(), everything(source), strict=True):
            k = int(name.split('.')[0])
            assert (example['image'] == k + shift).all()
            written = [f'number {k}'.encode()] + k % 2 * [f'no. {k}'.encode()]
            assert [x for x in example['text'].tolist() if x] == written
            assert example['label'] == k % 2  # even, odd
    assert len(train.texts()) == sum(1 + int(n.split('.')[0]) % 2 for n in train.names())


@pytest.mark.parametrize(
    ('line', 'code', 'said'),
    [
        ('{"image": "0.png"}', DATA, 'record 1: needs "image" and "caption"'),
        ('{"image": "0.png", "caption": " "}', DATA, 'record 1'),
        ('[3]', DATA, 'record 1'),
        ('{"image": ', DATA, 'is not JSON'),
        ('', DATA, 'has no records'),
        ('{"image": "absent.png", "caption": "a"}', INPUT, 'absent.png'),
    ],
)
def test_what_is_no_caption_is_named(tmp_path, line, code, said):
    (tmp_path / 'captions.jsonl').write_text(line)
    with pytest.raises(Problem) as raised:
        captions.captions('test', path=str(tmp_path), test='all')
    assert raised.value.code == code
    assert said in str(raised.value)


# Sentences.


def test_lines_go_to_one_split_each(tmp_path):
    path = tmp_path / 'lines.txt'
    path.write_text('\n'.join(f'sentence number {k // 2}' for k in range(400)) + '\n\n')
    splits = [sentences.lines(s, path=str(path), test_fraction=0.2) for s in ('train', 'test')]
    train, test = (set(source.texts()) for source in splits)
    assert not train & test  # the same sentence twice is in the same
    assert len(train | test) == 200
    assert 20 < len(test) < 60
    assert read(splits[0], 3)['text'].tolist() == [splits[0].texts()[3].encode()]


def test_neighbours_never_meet_across_an_empty_line(tmp_path):
    """Nor across files; and a paragraph is in one split, whole."""
    sizes = np.random.default_rng(0).integers(1, 5, 80).tolist()
    written = [[f'sentence {k} of {n}' for k in range(size)] for n, size in enumerate(sizes)]
    for file, part in (('a.txt', written[:50]), ('below/b.txt', written[50:])):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        text = ' \n\n'.join('\n'.join(lines) + '\n' for lines in part)
        (tmp_path / file).write_text('\n' + text.rstrip('\n'))
    expected = {pair for lines in written for pair in zip(lines, lines[1:], strict=False)}
    found = {}
    for split in ('train', 'test'):
        source = sentences.neighbours(split, path=str(tmp_path), test_fraction=0.3)
        examples = everything(source)
        found[split] = [tuple(x.decode() for x in example['text']) for example in examples]
        assert {int(example['label']) for example in examples} == {-1} == set(source.labels())
        assert len(source.labels()) == source.size
        assert set(sum(found[split], ())) < set(source.texts())  # some have no neighbour
    assert sorted(found['train'] + found['test']) == sorted(expected)
    of = {split: {pair[0].split()[-1] for pair in pairs} for split, pairs in found.items()}
    assert not of['train'] & of['test']
    assert len(of['test']) > 10

    whole = sentences.neighbours('test', path='', test_path=str(tmp_path / 'below' / 'b.txt'))
    assert whole.size == sum(size - 1 for size in sizes[50:])
    (tmp_path / 'alone.txt').write_text('one\n\ntwo\n')
    with pytest.raises(Problem, match='no two sentences in a row') as raised:
        sentences.neighbours('test', test_path=str(tmp_path / 'alone.txt'))
    assert raised.value.code == DATA
    with pytest.raises(Problem, match=r'config\.data\.path is empty'):
        sentences.neighbours('train')


def test_glosses_are_without_their_examples(tmp_path):
    licence = '  1 This software and database is provided "as is"\n'
    entry = '00001740 03 n 01 entity 0 000 | that which {} {}; "an example; of it"  \n'
    parts = ('noun', 'verb', 'adj', 'adv')
    for part in parts:
        text = ''.join(entry.format(part, k) for k in range(10))
        (tmp_path / f'data.{part}').write_text(licence + text)
    found = [
        text
        for split in ('train', 'test')
        for text in sentences.wordnet(split, path=str(tmp_path), test_fraction=0.3).texts()
    ]
    assert sorted(found) == sorted(f'that which {part} {k}' for part in parts for k in range(10))


def test_triples_are_rows(tmp_path):
    path = tmp_path / 'nli.csv'
    path.write_text('sent0,sent1,hard_neg\n"a, b",c,d\ne,f,g\n')
    source = sentences.triples('train', path=str(path), test_path=str(path))
    rows = [x['text'].tolist() for x in everything(source)]
    assert rows == [[b'a, b', b'c', b'd'], [b'e', b'f', b'g']]
    path.write_text('a,b\n1,2\n1,2,3\n')
    with pytest.raises(Problem, match='needs 2 or 3 throughout'):
        sentences.triples('train', path=str(path))
    path = path.with_suffix('.tsv')
    path.write_text('a\tb\n"An open quote\tis part of the text\ne\tf\n')
    source = sentences.triples('train', path=str(path), test_path=str(path))
    assert [x['text'].tolist()[0] for x in everything(source)] == [b'"An open quote', b'e']


def test_docstrings_are_smoke_data_of_three_sentences():
    train, test = (sources.load({'name': 'docstrings'}, s) for s in ('train', 'test'))
    assert train.size > 500 > test.size > 20
    assert train.classes == 10
    assert all(len(x.split()) > 3 for x in train.texts())
    assert len(read(train, 0)['text']) == 3


# Recordings.


def record(path, samples, channels=1, width=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), 'wb') as file:
        file.setparams((channels, width, 8000, 0, 'NONE', ''))
        file.writeframes(np.asarray(samples, '<i2').tobytes())


def test_recordings_are_read_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    written = {}
    for k in range(12):
        written[f'{"ab"[k % 2]}/{k}.wav'] = x = rng.integers(-(2**15), 2**15, 50 + k)
        record(tmp_path / f'{"ab"[k % 2]}' / f'{k}.wav', x)
    splits = [
        sounds.recordings(s, path=str(tmp_path), test_fraction=0.3) for s in ('train', 'test')
    ]
    assert sum(s.size for s in splits) == 12
    for source in splits:
        assert source.classes == 2
        for name, example in zip(source.names(), everything(source), strict=True):
            np.testing.assert_array_equal(example['recording'], written.pop(name))
            assert example['label'] == 'ab'.index(name[0])
    assert not written


def test_channels_are_averaged(tmp_path):
    record(tmp_path / 'stereo.wav', [[100, 200], [-4, 4]], channels=2)
    source = sounds.recordings('test', path=str(tmp_path), test_path=str(tmp_path))
    assert read(source, 0)['recording'].tolist() == [150, 0]


@pytest.mark.parametrize(('label', 'classes'), [('digit', 2), ('speaker', 3)])
def test_spoken_digits_have_two_labels_and_the_usual_split(tmp_path, label, classes):
    for digit in range(2):
        for speaker in ('ann', 'bob', 'eve'):
            for k in range(7):
                record(tmp_path / 'recordings' / f'{digit}_{speaker}_{k}.wav', [digit, k])
    for split, numbers in (('train', {5, 6}), ('test', {0, 1, 2, 3, 4})):
        source = sounds.spoken_digits(split, path=str(tmp_path), label=label)
        assert (source.size, source.classes) == (6 * len(numbers), classes)
        for name, example in zip(source.names(), everything(source), strict=True):
            digit, speaker, k = name.removesuffix('.wav').split('_')
            assert example['recording'].tolist() == [int(digit), int(k)]
            assert int(k) in numbers
            own = int(digit) if label == 'digit' else ['ann', 'bob', 'eve'].index(speaker)
            assert example['label'] == own


def test_tones_tell_their_pitch():
    source = sources.load({'name': 'tones'}, 'test')
    example = read(source, 7)
    spectrum = np.abs(np.fft.rfft(example['recording'].astype(float)))
    frequency = np.fft.rfftfreq(4000, 1 / 8000)[spectrum.argmax()]
    assert abs(frequency / (110 * 2 ** (example['label'] / 5)) - 1) < 0.02


# Replay.


def test_stacks_are_frames_in_a_row_of_one_episode(tmp_path):
    rng = np.random.default_rng(0)
    stored = {}
    for k in range(8):
        stored[k] = rng.integers(0, 256, (5 + k, 6, 7, 3), dtype=np.uint8)
        np.savez(tmp_path / f'{k}.npz', frames=stored[k])
    found = []
    for split in ('train', 'test'):
        source = replays.replay(split, path=str(tmp_path), stack=3, test_fraction=0.4)
        found += [example['frames'] for example in everything(source)]
    expected = [
        np.concatenate(list(episode[t : t + 3]), -1)
        for episode in stored.values()
        for t in range(len(episode) - 2)
    ]
    key = lambda x: x.tobytes()
    assert [*map(key, sorted(found, key=key))] == [*map(key, sorted(expected, key=key))]


@pytest.mark.parametrize(
    ('arrays', 'said'),
    [
        ({'pictures': np.zeros((5, 2, 2, 3), np.uint8)}, 'has no array "frames"'),
        ({'frames': np.zeros((5, 2, 2, 3))}, 'not uint8'),
        ({'frames': np.zeros((2, 2, 2, 3), np.uint8)}, 'config.data.stack=3'),
    ],
)
def test_what_is_no_episode_is_named(tmp_path, arrays, said):
    for k in range(30):  # whatever the split
        np.savez(tmp_path / f'{k}.npz', **arrays)
    with pytest.raises(Problem) as raised:
        replays.replay('train', path=str(tmp_path))
    assert said in str(raised.value)


def test_digits_move():
    source = sources.load({'name': 'moving_digits'}, 'train')
    stacks = [read(source, i)['frames'] for i in range(0, 60, 6)]
    assert all(stack.shape == (20, 20, 9) for stack in stacks)
    moved = [not np.array_equal(x[..., :3], x[..., 3:6]) for x in stacks]
    assert np.mean(moved) > 0.7


# What TensorFlow Datasets has prepared.


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
    """One captioned image set, one of recordings, one of texts."""
    import tensorflow_datasets

    place = tmp_path_factory.mktemp('tfds')
    feature = tensorflow_datasets.features

    def store(dataset, features, example, more=()):
        tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
            name=dataset,
            version='1.0.0',
            features=feature.FeaturesDict(features),
            split_datasets={
                split: [(k, example(k) | {'label': -1} if k > 11 else example(k)) for k in numbers]
                for split, numbers in (('train', range(12)), *more)
            },
            data_dir=place,
            disable_shuffling=True,
        )

    image = feature.Image(shape=(None, None, 3), encoding_format='png')
    captions_ = feature.Sequence({'text': feature.Text(), 'id': np.int64})
    store(
        'pictures',
        {'image': image, 'captions': captions_, 'title': feature.Text()},
        lambda k: {
            'image': np.full((3, 4 + k, 3), k, np.uint8),
            'captions': [{'text': f'caption {k} {n}', 'id': n} for n in range(2)],
            'title': f'title {k}',
        },
    )
    store(
        'sounds',
        {
            'speech': feature.Audio(sample_rate=16000),
            'label': feature.ClassLabel(names=['odd', 'even']),
        },
        lambda k: {'speech': np.arange(-k, 20, dtype=np.int64), 'label': k % 2},
    )
    store(
        'reviews',
        {'text': feature.Text(), 'label': feature.ClassLabel(names=['bad', 'good'])},
        lambda k: {'text': f'review\nnumber {k}', 'label': k % 2},
        [('unsupervised', range(12, 18))],
    )
    return str(place)


def test_prepared_captions_and_recordings_are_read(stored):
    settings = {'name': 'tfds', 'data_dir': stored}
    asked = settings | {'dataset': 'pictures', 'text': ('captions/text', 'title')}
    pictures = sources.load(asked, 'train')
    for k, example in enumerate(everything(pictures)):
        assert example['image'].shape == (3, 4 + k, 3)
        expected = [f'caption {k} 0', f'caption {k} 1', f'title {k}']
        assert [text.decode() for text in example['text']] == expected
        assert example['label'] == -1
    assert pictures.texts()[:4] == ['caption 0 0', 'caption 0 1', 'title 0', 'caption 1 0']
    spoken = sources.load(settings | {'dataset': 'sounds'}, 'train')
    for k, example in enumerate(everything(spoken)):
        np.testing.assert_array_equal(example['recording'], np.arange(-k, 20))
        assert example['label'] == k % 2
    assert spoken.class_names == ('odd', 'even')
    assert spoken.rate() == 16000
    assert pictures.rate is None
    with pytest.raises(Problem, match='no feature "title_"; did you mean "title"'):
        sources.load(asked | {'text': ('title_',)}, 'train')


def test_prepared_texts_are_read_with_those_that_have_no_label(stored):
    """Whole, also to those who translate them; labels are drawn from those that are there."""
    section = {'name': 'tfds', 'data_dir': stored, 'dataset': 'reviews', 'text': ('text',)}
    reviews = sources.load(section | {'train': 'train+unsupervised'}, 'train')
    expected = [f'review\nnumber {k}' for k in range(18)]
    examples = everything(reviews)
    assert [example['text'].tolist() for example in examples] == [[x.encode()] for x in expected]
    assert reviews.texts() == expected
    labels = [k % 2 if k < 12 else -1 for k in range(18)]
    assert [int(x['label']) for x in examples] == reviews.labels().tolist() == labels
    few = subsets.subset(reviews, per_class=2, repeat=3)
    read_of = [int(x['label']) for x in everything(few)]
    assert np.bincount(read_of).tolist() == [6, 6]
