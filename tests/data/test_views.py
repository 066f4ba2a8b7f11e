"""Views of recordings, frames and texts: what is cut where, and that every batch is a function of seed
and step alone."""

import sys
from itertools import islice

import numpy as np
import pytest

from clr_jax.data import frames, index, pipeline, recording, sentences, sources, text, tokens, views
from clr_jax.data.augment import Central, View, tensorflow
from clr_jax.entry import CONFIG, Problem

KEYS = index.key(0, 0, np.arange(400))


def apply(view, datum, parameters, row=0):
    return views.of(view).apply(view, datum, {k: v[row] for k, v in parameters.items()}).numpy()


# Recordings.


def test_windows_of_a_recording_are_equally_likely():
    tf = tensorflow()
    view = recording.Recording(samples=90)
    wave = tf.constant(np.arange(100, dtype=np.int16))
    parameters = recording.sample(view, KEYS, 0)
    begun = []
    for row in range(len(KEYS)):
        window = apply(view, wave, parameters, row)
        np.testing.assert_array_equal(window, window[0] + np.arange(90))
        begun.append(int(window[0]))
    assert set(begun) == set(range(11))
    counts = np.bincount(begun, minlength=11)
    expected = len(KEYS) / 11
    assert abs(counts - expected).max() < 4.5 * np.sqrt(expected)
    assert not np.array_equal(
        parameters['begin'], recording.sample(view, KEYS, 1)['begin']
    )  # another view, another draw


def test_a_short_recording_is_filled_up_with_silence():
    tf = tensorflow()
    view = recording.Recording(samples=8)
    wave = tf.constant([5, 6, 7], tf.int16)
    for share, before in ((0.0, 0), (0.5, 3), (0.99, 5)):
        window = recording.apply(view, wave, {'begin': tf.constant(share, tf.float64)}).numpy()
        np.testing.assert_array_equal(window, [0] * before + [5, 6, 7] + [0] * (5 - before))


def test_evaluation_takes_the_middle():
    tf = tensorflow()
    wave = tf.constant(np.arange(30, dtype=np.int16))
    window = recording.apply(recording.Recording(samples=10), wave, {})
    np.testing.assert_array_equal(window.numpy(), 10 + np.arange(10))
    x = tf.reshape(tf.range(8 * 8 * 2, dtype=tf.int32), [8, 8, 2])
    x = tf.cast(x, tf.uint8)
    crop = frames.apply(frames.Frames(size=4, channels=2), x, {})
    np.testing.assert_array_equal(crop.numpy(), x.numpy()[2:6, 2:6])


# Frames.


def test_all_frames_of_a_stack_are_cropped_alike():
    tf = tensorflow()
    view = frames.Frames(size=5, channels=6)
    field = np.arange(49, dtype=np.uint8).reshape(7, 7)
    stack = tf.constant(np.repeat(field[..., None], 6, 2))
    parameters = frames.sample(view, KEYS, 0)
    corners = set()
    for row in range(len(KEYS)):
        crop = apply(view, stack, parameters, row)
        y, x = divmod(int(crop[0, 0, 0]), 7)
        corners.add((y, x))
        np.testing.assert_array_equal(crop, np.repeat(field[y : y + 5, x : x + 5, None], 6, 2))
    assert corners == {(y, x) for y in range(3) for x in range(3)}


def test_the_border_is_repeated_around_padded_frames():
    tf = tensorflow()
    view = frames.Frames(size=8, channels=1, pad=3)
    field = np.arange(4, dtype=np.uint8).reshape(2, 2)
    crop = frames.apply(view, tf.constant(field[..., None]), {})
    np.testing.assert_array_equal(crop.numpy()[..., 0], np.pad(field, 3, 'edge'))


@pytest.mark.parametrize('pad', [0, 2])
def test_crops_in_numpy_are_those_of_the_graph(pad):
    tf = tensorflow()
    view = frames.Frames(size=5, channels=2, pad=pad)
    stack = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 2), dtype=np.uint8)
    shares = frames.sample(view, KEYS[:6], 0)['crop']
    for k, crop in enumerate(frames.cropped(view, stack, shares)):
        expected = frames.apply(view, tf.constant(stack[k]), {'crop': tf.constant(shares[k])})
        np.testing.assert_array_equal(crop, expected.numpy())


# Texts.


def test_a_text_is_one_of_those_the_example_has():
    tf = tensorflow()
    texts = tf.constant(['a', 'b', 'c', ''])
    assert text.apply(text.Text(part=1), texts, {}).numpy() == b'b'
    any_of = text.Text(part=-1)
    parameters = text.sample(any_of, KEYS, 0)
    shown = [apply(any_of, texts, parameters, row) for row in range(len(KEYS))]
    counts = np.array([shown.count(x) for x in (b'a', b'b', b'c', b'')])
    assert counts[3] == 0
    expected = len(KEYS) / 3
    assert abs(counts[:3] - expected).max() < 4.5 * np.sqrt(expected)


@pytest.fixture(scope='module')
def captioned():
    source = sources.load({'name': 'captioned_digits'}, 'train')
    return source._replace(tokenizer=tokens.train(source.texts(), 100))


GROUPS = [View(copies=1, size=8, jitter=0.0, blur=0.0), text.Text(length=8, part=-1)]


def test_images_and_tokens_of_an_example_come_together(captioned):
    """The caption's last word is the label's name, and two processes make the halves of the batch."""
    batch = next(pipeline.train_batches(captioned, GROUPS, seed=0, batch_size=32))
    image, words = batch['views']
    assert (image.shape, image.dtype) == ((32, 8, 8, 3), np.uint8)
    assert (words.shape, words.dtype) == ((32, 8), np.int32)
    names = [
        captioned.tokenizer.model.encode(name, add_special_tokens=False).ids[0]
        for name in captioned.class_names
    ]
    for row, label in zip(words, batch['label'], strict=True):
        assert names[label] in row
    assert len({tuple(row) for row in words}) > 10  # both captions of the digits
    halves = [
        next(pipeline.train_batches(captioned, GROUPS, seed=0, batch_size=32, rows=rows))
        for rows in ((0, 16), (16, 32))
    ]
    for k, whole in enumerate(batch['views']):
        np.testing.assert_array_equal(whole, np.concatenate([half['views'][k] for half in halves]))


def test_a_batch_of_texts_is_a_function_of_seed_and_step(captioned):
    straight = list(islice(pipeline.train_batches(captioned, GROUPS, seed=3, batch_size=16), 4))
    late = next(pipeline.train_batches(captioned, GROUPS, seed=3, batch_size=16, start=3))
    np.testing.assert_array_equal(straight[3]['views'][1], late['views'][1])
    assert not np.array_equal(straight[0]['views'][1], straight[1]['views'][1])


@pytest.mark.parametrize(
    ('data', 'group'),
    [
        ('tones', recording.Recording(samples=500)),
        ('moving_digits', frames.Frames(size=16)),
    ],
)
def test_batches_of_other_kinds(data, group):
    source = sources.load({'name': data}, 'train')
    made = next(pipeline.train_batches(source, [group], seed=0, batch_size=8))
    blank = views.blank([group], 8)
    for found, expected in zip(made['views'], blank['views'], strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.any()
    shown = views.of(group).plain(group)
    (held,) = pipeline.eval_batches(source, [shown], batch_size=8, indices=range(8))
    assert held['views'][0].shape == made['views'][0].shape


def test_texts_are_shown_in_other_words(tmp_path, monkeypatch):
    """By example and view, the same again, and in evaluation not at all."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    (tmp_path / 'data.adj').write_text('00 00 a 02 large 0 big 0 000 | of size\n')
    for part in ('noun', 'verb', 'adv'):
        (tmp_path / f'data.{part}').write_text('')
    program = tmp_path / 'shout.py'
    program.write_text('import sys\nprint(sys.stdin.read().upper(), end="")\n')
    texts = [f'a large house number {k} of stone and of wood' for k in range(40)]
    source = sentences.source('houses', [[x] for x in texts])
    rewords = {
        'delete': (text.Text(delete=0.3), lambda new, old: set(new.split()) < set(old.split())),
        'swap': (
            text.Text(swap=0.1),
            lambda new, old: new != old and sorted(new.split()) == sorted(old.split()),
        ),
        'synonym': (
            text.Text(synonym=0.1, wordnet=str(tmp_path)),
            lambda new, old: new == old.replace('large', 'big'),
        ),
        'replace': (
            text.Text(replace=0.3),
            lambda new, old: len(new.split()) == len(old.split()) and new != old,
        ),
        'back': (
            text.Text(back=0.5, translator=f'{sys.executable} {program}'),
            lambda new, old: new == old.upper(),
        ),
    }
    for name, (view, holds) in rewords.items():
        change = text.rewording(view, source)
        keys = text.sample(view, KEYS[:40], 0)['key']
        new = [change(x, key) for x, key in zip(texts, keys, strict=True)]
        assert new == [change(x, key) for x, key in zip(texts, keys, strict=True)], name
        share = np.mean([holds(*pair) for pair in zip(new, texts, strict=True)])
        assert share == 1 if name in ('swap', 'synonym') else share > 0.25, name
        other = text.sample(view, KEYS[:40], 1)['key']
        if name != 'synonym':
            assert new != [change(x, key) for x, key in zip(texts, other, strict=True)], name
        assert not text.changed(text.plain(view))


# What a config says of them.


def test_one_view_of_each_kind_is_evaluated():
    sections = {
        'image': {'size': 32},
        'more': {'size': 16},
        'text': {'name': 'text', 'length': 9, 'part': -1},
    }
    config = {'views': sections, 'evaluation': {'size': 32, 'crop': 0.9}}
    assert views.evaluated(config) == [Central(32, 0.9), text.Text(length=9, part=0)]


@pytest.mark.parametrize(
    ('section', 'said'),
    [
        ({'name': 'texts'}, 'config.views: no "texts"; did you mean "text"'),
        ({'name': 'text', 'size': 3}, 'config.views.a'),
        ({'name': 'text', 'length': 1}, 'length=1'),
        ({'name': 'recording', 'samples': 0}, 'samples=0'),
        ({'name': 'frames', 'pad': -1}, 'pad=-1'),
        ({'name': 'text', 'delete': 1.5}, 'delete=1.5'),
        ({'name': 'text', 'back': 0.5}, 'needs a translator'),
    ],
)
def test_wrong_settings_are_refused(section, said):
    with pytest.raises(Problem) as raised:
        views.make(section, 'config.views.a')
    assert raised.value.code == CONFIG
    assert said in str(raised.value)
