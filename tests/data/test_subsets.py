"""Fewer examples: balanced, the same on any call, and exactly those that a list names."""

import numpy as np
import pytest

from clr_jax.data import images, index, pipeline, records, sources, subsets
from clr_jax.data.augment import Central, View, tensorflow
from clr_jax.entry import CONFIG, DATA, INPUT, Problem
from tests.data.test_sources import cache, folder, picture, read, stored, write  # noqa: F401

LABELS = np.random.default_rng(0).choice(5, 400, p=(0.02, 0.08, 0.2, 0.3, 0.4)).astype(np.int32)


def digits(split='train'):
    return sources.load({'name': 'digits'}, split)


def by_turns(labels, seed: int, count: int) -> set:
    """The rule of `fraction`, one example at a time."""
    order = index.permutation(np.arange(len(labels)), len(labels), index.key(seed, 'labels'))
    left, taken = list(order), []
    while len(taken) < count:
        served, rest = set(), []
        for i in left:
            if labels[i] in served or len(taken) == count:
                rest.append(i)
            else:
                served.add(labels[i])
                taken.append(i)
        left = rest
    return set(taken)


def problem(source, code, *words, **settings):
    with pytest.raises(Problem) as raised:
        subsets.subset(source, **settings)
    assert raised.value.code == code
    assert '\n' not in str(raised.value)
    for word in words:
        assert str(word) in str(raised.value)


# the draw


@pytest.mark.parametrize('count', [1, 3, 5, 7, 50, 399, 400])
def test_a_fraction_takes_turns_among_the_classes(count):
    sizes = np.bincount(LABELS)
    for seed in (0, 1):
        chosen = subsets.draw(LABELS, seed, count=count)
        assert len(set(chosen)) == len(chosen) == count
        assert set(chosen) == by_turns(LABELS, seed, count)
        counts = np.bincount(LABELS[chosen], minlength=5)
        whole = counts < sizes  # classes with more to give
        assert not whole.any() or np.ptp(counts[whole]) <= 1
        assert (counts[~whole] <= max(counts[whole], default=400)).all()


def test_so_many_of_each_class():
    sizes = np.bincount(LABELS)
    for n in (1, 2, sizes.min()):
        chosen = subsets.draw(LABELS, 3, per_class=n)
        assert len(set(chosen)) == 5 * n
        np.testing.assert_array_equal(LABELS[chosen], np.repeat(np.arange(5), n))
        assert set(chosen) == set(subsets.draw(LABELS, 3, count=5 * n))  # the same first turns
    with pytest.raises(Problem, match=f'here={sizes.min() + 1}: class 0 has {sizes.min()} ex'):
        subsets.draw(LABELS, 3, per_class=sizes.min() + 1, where='here')
    some = np.where(LABELS == 1, -1, LABELS)  # without a label: drawn from by no class
    assert set(some[subsets.draw(some, 0, per_class=2)]) == {0, 2, 3, 4}
    assert -1 in some[subsets.draw(some, 0, count=10)]


def test_draws_of_a_seed_contain_each_other_and_other_seeds_are_others():
    few, more = (set(subsets.draw(LABELS, 0, count=n)) for n in (10, 100))
    assert few < more
    assert len({frozenset(subsets.draw(LABELS, seed, count=10)) for seed in range(9)}) == 9


def test_each_example_of_a_class_is_drawn_about_as_often_as_any():
    labels = np.repeat([0, 1, 2, 3], 10)
    counts = np.zeros(40)
    for seed in range(1000):
        counts[subsets.draw(labels, seed, count=10)] += 1
    deviation = np.sqrt(1000 * 0.25 * 0.75)
    assert counts.sum() == 10_000
    assert abs(counts - 250).max() < 4.5 * deviation


def test_the_draw_is_the_same_everywhere_and_for_ever():
    chosen = subsets.draw(np.arange(1000) % 7, 0, count=9)
    assert sorted(chosen) == [70, 303, 415, 416, 550, 629, 635, 704, 722]


# a source of fewer examples


@pytest.mark.parametrize(('fraction', 'count'), [(0.01, 14), (0.001, 1), (0.1, 144), (0.99, 1423)])
def test_a_fraction_of_the_digits(fraction, count):
    whole = digits()
    part = subsets.subset(whole, fraction=fraction, seed=1)
    assert (part.size, part.classes, part.name) == (count, 10, f'{count} of digits (train)')
    chosen = np.sort(subsets.draw(whole.labels(), 1, count=count))
    np.testing.assert_array_equal(part.images, whole.images[chosen])
    np.testing.assert_array_equal(part.labels(), whole.labels()[chosen])
    for i in {0, count // 2, count - 1}:
        image, label = read(part, i)
        np.testing.assert_array_equal(image, whole.images[chosen[i]])
        assert label == whole.labels()[chosen[i]]
        assert part.where(i) == f'example {chosen[i]} of digits (train)'


def test_what_makes_a_subset_another():
    whole = digits()
    assert subsets.subset(whole) is whole
    settings = [
        {'fraction': 0.1},
        {'fraction': 0.1, 'seed': 1},
        {'fraction': 0.2},
        {'per_class': 2},
    ]
    prints = [subsets.subset(whole, **s).fingerprint for s in settings]
    assert len({whole.fingerprint, *prints}) == 5
    assert prints == [subsets.subset(digits(), **s).fingerprint for s in settings]
    assert subsets.subset(digits('test'), fraction=0.1).fingerprint not in prints


def test_a_part_of_a_part():
    whole = digits()
    part = subsets.subset(subsets.subset(whole, fraction=0.1), per_class=3)
    assert (part.size, part.name) == (30, '30 of 144 of digits (train)')
    numbers = [int(part.where(i).split()[1]) for i in range(30)]
    np.testing.assert_array_equal(part.labels(), whole.labels()[numbers])
    np.testing.assert_array_equal(np.bincount(part.labels()), [3] * 10)
    assert read(part, 7)[1] == part.labels()[7]


def test_batches_of_a_part_number_its_examples():
    part = subsets.subset(digits(), per_class=2)
    (batch,) = pipeline.eval_batches(part, [Central(8, 1.0)], batch_size=20)
    np.testing.assert_array_equal(batch['index'], np.arange(20))
    np.testing.assert_array_equal(batch['views'][0], part.images)
    view = View(size=8, jitter=0.0, copies=1)
    batch = next(pipeline.train_batches(part, [view], seed=0, batch_size=20))
    assert sorted(batch['index']) == list(range(20))
    np.testing.assert_array_equal(batch['label'], part.labels()[batch['index']])


def test_few_labels_fill_a_batch_by_repetition():
    """Each as often, with draws of its own each time."""
    whole = digits()
    once, often = (subsets.subset(whole, per_class=1, repeat=n) for n in (1, 3))
    np.testing.assert_array_equal(often.images, np.repeat(once.images, 3, 0))
    np.testing.assert_array_equal(often.labels(), np.repeat(once.labels(), 3))
    np.testing.assert_array_equal(read(often, 4)[0], once.images[1])
    assert often.fingerprint != once.fingerprint
    assert subsets.subset(whole, repeat=2).size == 2 * whole.size
    batch = next(pipeline.train_batches(often, [View(size=8, copies=1)], seed=0, batch_size=30))
    assert sorted(batch['index'] // 3) == sorted([*range(10)] * 3)
    assert len(np.unique(batch['views'][0].reshape(30, -1), axis=0)) == 30


def test_settings_that_make_no_subset(tmp_path):
    whole = digits()
    for both in ({'fraction': 0.1, 'per_class': 1}, {'fraction': 0.1, 'list': 'x'}):
        problem(whole, CONFIG, 'config.subset', 'set one of them', **both)
    problem(whole, CONFIG, 'set one of them', per_class=1, list='x')
    for fraction in (0, -0.1, 1.1, 2.0, float('nan')):
        problem(whole, CONFIG, f'config.subset.fraction={fraction}', fraction=fraction)
    problem(whole, CONFIG, 'fraction=0.0001 is too small', '1437', fraction=0.0001)
    problem(whole, CONFIG, 'per_class=-1', per_class=-1)
    problem(whole, CONFIG, 'config.subset.repeat=0', per_class=1, repeat=0)
    problem(whole, CONFIG, 'per_class=200: class ', per_class=200)
    problem(whole, INPUT, tmp_path / 'no', list=str(tmp_path / 'no'))


# lists


def listed(tmp_path, *lines) -> str:
    path = tmp_path / 'list.txt'
    path.write_bytes('\n'.join(lines).encode())
    return str(path)


def test_numbers_name_what_has_no_names(tmp_path):
    whole = digits()
    part = subsets.subset(whole, list=listed(tmp_path, '7', '', ' 1436 ', '0\r', '  '))
    np.testing.assert_array_equal(part.images, whole.images[[0, 7, 1436]])
    assert part.names is None
    other = subsets.subset(whole, list=listed(tmp_path, '0', '7', '1436'))
    assert other.fingerprint == part.fingerprint  # their order is that of the source
    path = listed(tmp_path, '3', '1437', 'x', '-1')
    words = f'config.subset.list={path}: 3 of 4 lines', 'digits (train), the first "1437"'
    problem(whole, CONFIG, *words, list=path)
    problem(whole, CONFIG, '0 of 0 lines', list=listed(tmp_path, '', ' '))
    problem(whole, CONFIG, 'has 5 twice', list=listed(tmp_path, '5', '6', '5'))


def test_files_of_a_folder_have_names(tmp_path):
    names = ['cat/1.png', 'cat/2.png', 'dog/2.png', 'dog/deep/3.png', 'dog/4 b.png']
    for k, name in enumerate(names):
        write(tmp_path / 'zoo' / name, picture(8, 8, k))
    whole = folder(tmp_path / 'zoo', test_fraction=1e-9)
    assert whole.names() == sorted(names)
    np.testing.assert_array_equal(whole.labels(), [0, 0, 1, 1, 1])
    path = listed(tmp_path, '3.png', 'dog/2.png', '1.png', '4 b.png')
    part = subsets.subset(whole, list=path)
    assert part.names() == ['cat/1.png', 'dog/2.png', 'dog/4 b.png', 'dog/deep/3.png']
    np.testing.assert_array_equal(part.labels(), [0, 1, 1, 1])
    assert part.where(1) == str(tmp_path / 'zoo' / 'dog/2.png')
    np.testing.assert_array_equal(read(part, 3)[0], picture(8, 8, 3))
    words = '1 of 2 lines name no single example', 'first "2.png"'  # there are two
    problem(whole, CONFIG, *words, list=listed(tmp_path, '1.png', '2.png'))
    problem(whole, CONFIG, 'dog/deep/3.png twice', list=listed(tmp_path, '3.png', 'dog/deep/3.png'))


def test_images_without_labels_are_drawn_plainly(tmp_path):
    for k in range(20):
        write(tmp_path / f'{k}.png')
    whole = folder(tmp_path, test_fraction=1e-9)
    np.testing.assert_array_equal(whole.labels(), [-1] * 20)
    part = subsets.subset(whole, fraction=0.23)
    assert (part.size, part.classes) == (5, None)
    order = index.permutation(np.arange(20), 20, index.key(0, 'labels'))
    assert part.names() == [whole.names()[i] for i in sorted(order[:5])]
    problem(whole, CONFIG, 'config.subset.per_class', 'has no labels', per_class=1)


# data sets of TFDS


def name(k):
    return f'n{k % 3:08}_{k}.JPEG'


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """`named` and `packed` keep file names, as ImageNet does; `bare` has no labels."""
    import tensorflow_datasets

    place = tmp_path_factory.mktemp('tfds')
    feature = tensorflow_datasets.features
    label, text = feature.ClassLabel(num_classes=3), feature.Text()

    def store(dataset, kind, size, **features):
        image = feature.Image(shape=(*size, 3), encoding_format='png')
        values = lambda k: {'image': picture(6, 7, k), 'label': k % 3, 'file_name': name(k)}
        of = lambda k: {key: values(k)[key] for key in ('image', *features)}
        tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
            name=dataset,
            version='1.0.0',
            features=feature.FeaturesDict({'image': image} | features),
            split_datasets={'train': [(k, of(k)) for k in range(30)], 'test': [(0, of(0))]},
            data_dir=place,
            file_format=kind,
            disable_shuffling=True,
        )

    store('named', 'tfrecord', (None, None), label=label, file_name=text)
    store('packed', 'array_record', (None, None), label=label, file_name=text)
    store('small', 'tfrecord', (6, 7), label=label, file_name=text)
    store('bare', 'tfrecord', (None, None))
    return place


@pytest.mark.parametrize('dataset', ['named', 'packed', 'small'])
def test_labels_and_names_of_a_data_set(prepared, dataset, tmp_path):
    whole = stored(prepared, dataset, train='train[5:29]')
    assert (whole.images is None) == (dataset != 'small')
    labels = whole.labels()
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, np.arange(5, 29) % 3)
    assert whole.names() == [name(k) for k in range(5, 29)]
    part = subsets.subset(whole, list=listed(tmp_path, name(17), name(5)))
    assert part.names() == [name(5), name(17)]
    for i, k in enumerate((5, 17)):
        image, label = read(part, i)
        np.testing.assert_array_equal(image, picture(6, 7, k))
        assert label == k % 3
    np.testing.assert_array_equal(part.labels(), [2, 2])
    problem(whole, CONFIG, f'the first "{name(29)}"', list=listed(tmp_path, name(6), name(29)))
    drawn = subsets.subset(whole, per_class=2)
    assert sorted(read(drawn, i)[1] for i in range(6)) == [0, 0, 1, 1, 2, 2]


def test_a_data_set_without_labels_or_names(prepared, tmp_path):
    whole = stored(prepared, 'bare')
    np.testing.assert_array_equal(whole.labels(), [-1] * 30)
    assert whole.names is None
    assert subsets.subset(whole, fraction=0.5).size == 15
    part = subsets.subset(whole, list=listed(tmp_path, '29'))
    np.testing.assert_array_equal(read(part, 0)[0], picture(6, 7, 29))


def test_one_pass_finds_the_labels_and_is_kept(prepared, cache, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(records, 'decode', lambda data: pytest.fail('an image was decoded'))
    monkeypatch.setattr(images, 'PATIENCE', -1)
    first = stored(prepared, 'named')
    expected = first.labels()
    said = capsys.readouterr()
    assert (said.out, said.err) == ('', 'reading named/1.0.0 (train): 30 of 30\n')
    (kept,) = cache.glob('labels/*')
    monkeypatch.setattr(images, '_read', lambda *args: pytest.fail('read again'))
    again = stored(prepared, 'named')
    np.testing.assert_array_equal(again.labels(), expected)
    assert again.names() == [name(k) for k in range(30)]
    monkeypatch.undo()
    monkeypatch.setenv('XDG_CACHE_HOME', str(cache.parent))
    part = stored(prepared, 'named', train='train[1:4]')  # of the same file
    np.testing.assert_array_equal(part.labels(), [1, 2, 0])
    kept.write_bytes(b'damaged')
    np.testing.assert_array_equal(stored(prepared, 'named').labels(), expected)


def test_damage_is_reported_by_the_pass(prepared, tmp_path):
    (original,) = prepared.glob('named/1.0.0/*train*')
    copy = tmp_path / 'copy' / 'named' / '1.0.0'
    copy.mkdir(parents=True)
    for file in original.parent.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    raw = bytearray(original.read_bytes())
    raw[records.offsets(str(original))[4] + 100] ^= 1
    (copy / original.name).write_bytes(raw)
    whole = stored(tmp_path / 'copy', 'named')
    problem(whole, DATA, 'named/1.0.0 (train), among the examples 0 to 999', per_class=1)


def test_a_part_is_read_in_a_graph(prepared):
    part = subsets.subset(stored(prepared, 'named'), fraction=0.2)
    tf = tensorflow()
    found = tf.data.Dataset.range(part.size).map(lambda i: part.read(i)['label'])
    assert [int(x) for x in found] == part.labels().tolist()
