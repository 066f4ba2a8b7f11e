"""The laws of the data: a batch depends on the seed and the step, on nothing else."""

from itertools import islice

import numpy as np
import pytest

from clr_jax.data import augment, index, pipeline, sources
from clr_jax.data.augment import Central, View, tensorflow
from clr_jax.entry import CONFIG, Problem

VIEWS = (
    View(size=20),
    View(copies=1, size=8, area=(0.05, 0.3), blur=0.0, shared=('flip',)),
    View(copies=1, size=12, flavour='torch', solarize=0.3),
)
LIGHT = (View(size=8, jitter=0.0, blur=0.0),)  # a graph that is quickly made
BOTH = (LIGHT[0], LIGHT[0]._replace(copies=1, flavour='torch'))
BATCH = 16


@pytest.fixture(scope='module')
def digits():
    return sources.digits('test')  # 360 examples: 22 steps of 16 and 8 examples left out


def batches(source, count, views=LIGHT, **changes):
    settings = {'seed': 3, 'batch_size': BATCH} | changes
    return list(islice(pipeline.train_batches(source, views, **settings), count))


def leaves(batch):
    return [*batch['views'], batch['label'], batch['index']]


def assert_same(some, others):
    for a, b in zip(some, others, strict=True):
        for x, y in zip(leaves(a), leaves(b), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


@pytest.fixture(scope='module')
def reference(digits):
    return batches(digits, 4, VIEWS)


def test_a_batch_has_numbered_views_labels_and_indices(digits, reference):
    tf = tensorflow()
    groups = [VIEWS[0], *VIEWS]
    for step, batch in enumerate(reference):
        assert [v.shape for v in batch['views']] == [(16, s, s, 3) for s in (20, 20, 8, 12)]
        assert {v.dtype for v in batch['views']} == {np.dtype('uint8')}
        assert {batch[k].dtype for k in ('label', 'index')} == {np.dtype('int32')}
        place = np.arange(step * BATCH, (step + 1) * BATCH)
        order = index.permutation(place, 360, index.key(3, 0))
        np.testing.assert_array_equal(batch['index'], order)
        for row, i in list(enumerate(order))[:3]:
            label = digits.read(tf.constant(i))['label']
            assert batch['label'][row] == label
            for number, view in enumerate(groups):
                sampled = augment.sample(view, index.key(3, 0, order), number)
                parameters = {k: tf.constant(v[row]) for k, v in sampled.items()}
                expected = augment.apply(view, tf.constant(digits.images[i]), parameters)
                np.testing.assert_array_equal(batch['views'][number][row], expected)


def test_threads_change_nothing(digits, reference):
    for threads in (1, 4):
        assert_same(batches(digits, 4, VIEWS, threads=threads), reference)


@pytest.fixture(scope='module')
def whole(digits):
    return batches(digits, 2, BOTH)


@pytest.mark.parametrize('processes', [2, 4, 8])
def test_processes_make_their_rows_of_the_same_batches(digits, whole, processes):
    rows = BATCH // processes
    parts = [batches(digits, 2, BOTH, rows=(p * rows, (p + 1) * rows)) for p in range(processes)]
    for step in range(2):
        of_step = [leaves(part[step]) for part in parts]
        together = [np.concatenate(column) for column in zip(*of_step, strict=True)]
        for x, y in zip(together, leaves(whole[step]), strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_resumed_run_goes_on_as_if_never_stopped(digits, reference):
    assert_same(batches(digits, 2, VIEWS, start=2), reference[2:])
    assert not np.array_equal(reference[2]['views'][0], reference[3]['views'][0])


def test_seeds_and_epochs_differ_in_order_and_views(digits):
    batch, other = (batches(digits, 360 // BATCH + 1, seed=seed) for seed in (3, 4))
    for a, b in ((batch[0], other[0]), (batch[0], batch[-1])):
        assert not np.array_equal(a['index'], b['index'])
    first = {i: x for b in batch[:-1] for i, x in zip(b['index'], b['views'][0], strict=True)}
    again = zip(batch[-1]['index'], batch[-1]['views'][0], strict=True)
    assert sum(np.array_equal(first[i], x) for i, x in again if i in first) < 3


def test_an_epoch_has_each_example_once_but_the_remainder(digits):
    steps = 360 // BATCH
    made = [batch['index'] for batch in batches(digits, 2 * steps)]
    epochs = [np.concatenate(made[:steps]), np.concatenate(made[steps:])]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == steps * BATCH == 352
    left = [set(range(360)) - set(epoch.tolist()) for epoch in epochs]
    assert left[0] != left[1]


@pytest.mark.parametrize('step', [0, 10**6])
def test_any_step_comes_at_once(digits, step):
    """By its definition, and with no more work at one than at another: three batches are in the making,
    of which each place of the order is computed once, each example read once."""
    tf = tensorflow()
    asked, places = [], []

    def read(i):
        count = tf.numpy_function(lambda i: asked.append(int(i)) or np.int64(0), [i], tf.int64)
        return digits.read(i + tf.reshape(count, []))

    def counted(place, key):
        places.extend(place)
        return index.permutation(place, 360, key), np.zeros(len(place), int)

    (batch,) = batches(digits._replace(read=read, order=counted), 1, start=step)
    epoch, position = divmod(step, 360 // BATCH)
    order = index.permutation(position * BATCH + np.arange(BATCH), 360, index.key(3, epoch))
    np.testing.assert_array_equal(batch['index'], order)
    np.testing.assert_array_equal(batch['label'], digits.labels()[order])
    sampled = augment.sample(LIGHT[0], index.key(3, epoch, order), 1)
    for row in (0, 5):
        parameters = {k: tf.constant(v[row]) for k, v in sampled.items()}
        expected = augment.apply(LIGHT[0], tf.constant(digits.images[order[row]]), parameters)
        np.testing.assert_array_equal(batch['views'][1][row], expected)
    assert set(order) <= set(asked)
    assert BATCH <= len(asked) <= 3 * BATCH
    assert BATCH <= len(places) <= 3 * BATCH


def test_a_batch_larger_than_the_data_is_refused(digits):
    with pytest.raises(Problem, match='batch_size=361.*360 examples') as raised:
        pipeline.train_batches(digits, VIEWS, seed=0, batch_size=361)
    assert raised.value.code == CONFIG
    with pytest.raises(Problem, match='flip=2'):
        pipeline.train_batches(digits, [View(flip=2)], seed=0, batch_size=16)


def test_evaluation_sees_each_example_once_in_order(digits):
    made = list(pipeline.eval_batches(digits, [Central(8, 1.0)], batch_size=100))
    assert [b['views'][0].shape for b in made] == [(100, 8, 8, 3)] * 4
    assert {b[k].dtype for b in made for k in ('label', 'index')} == {np.dtype('int32')}
    numbers = np.concatenate([b['index'] for b in made])
    np.testing.assert_array_equal(numbers, [*range(360), *[-1] * 40])
    np.testing.assert_array_equal(
        np.concatenate([b['views'][0] for b in made])[:360], digits.images
    )
    labels = np.concatenate([b['label'] for b in made])
    expected = [int(digits.read(tensorflow().constant(i))['label']) for i in range(360)]
    np.testing.assert_array_equal(labels, expected + [-1] * 40)


def test_evaluation_of_some_examples_by_several_processes(digits):
    chosen = [5, 200, 7, 7, 359]
    settings = {'shown': [Central(4, 0.5)], 'batch_size': 4, 'indices': chosen}
    whole = list(pipeline.eval_batches(digits, **settings))
    assert [b['index'].tolist() for b in whole] == [[5, 200, 7, 7], [359, -1, -1, -1]]
    np.testing.assert_array_equal(whole[0]['views'][0], digits.images[chosen[:4], 2:6, 2:6])
    parts = [
        list(pipeline.eval_batches(digits, **settings, rows=rows)) for rows in ((0, 2), (2, 4))
    ]
    for k, batch in enumerate(whole):
        halves = [leaves(part[k]) for part in parts]
        for x, a, b in zip(leaves(batch), *halves, strict=True):
            np.testing.assert_array_equal(x, np.concatenate([a, b]))
