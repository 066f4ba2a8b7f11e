"""The preview shows the very views of a run, and says what was drawn for them."""

import subprocess
import sys

import numpy as np
import pytest

from clr_jax.config import default, finish
from clr_jax.data import pipeline, sources
from clr_jax.data.augment import View, tensorflow
from clr_jax.data.preview import described, preview
from clr_jax.entry import CONFIG, Problem
from tests.conftest import ROOT


def digits(**views):
    of = default()
    of.data.name, of.seed, of.batch_size = 'digits', 7, 16
    of.views = views
    return finish(of).to_dict()


def test_the_pictures_are_an_image_and_its_views_in_the_run():
    large = {'size': 16, 'flavour': 'torch', 'jitter': 1.0, 'blur': 0.0}
    small = {'copies': 1, 'size': 8, 'jitter': 0.0, 'blur': 0.0}
    config = digits(large=large, small=small)
    pictures, words = preview(config, 3)
    assert pictures.shape == (3, 4, 16, 16, 3)
    source = sources.digits('train')
    views = [View(**large), View(**small)]
    batch = next(pipeline.train_batches(source, views, seed=7, batch_size=16))
    for row, number in enumerate(batch['index'][:3]):
        np.testing.assert_array_equal(pictures[row, 0, :8, :8], source.images[number])
        for k in range(3):
            size = batch['views'][k].shape[1]
            np.testing.assert_array_equal(
                pictures[row, 1 + k, :size, :size], batch['views'][k][row]
            )
            assert not pictures[row, 1 + k, size:].any()
    expected = [f'example {i}, view {k}: ' for i in batch['index'][:3] for k in range(3)]
    for said, begin in zip(words, expected, strict=True):
        assert said.startswith(begin)
        assert 'of 8 x 8' in said
    assert 'brightness x' in words[0]


def test_words_are_in_the_order_of_the_operations():
    view = View(additive=True, rotate=0.5, cutout=4, policy='uda', solarize=0.2, area=(1, 1))
    drawn = {'rotate': 3, 'flip': True, 'cutout': np.array([1, 2]), 'jitter': True}
    drawn |= {'policy': np.array([4, 0]), 'applied': np.array([True, True])}
    drawn |= {'argument': np.array([-9.0, 0.5]), 'order': np.array([3, 0, 2, 1])}
    drawn |= {'brightness': 0.1, 'contrast': 1.5, 'saturation': 0.25, 'hue': -0.1}
    drawn |= {'grayscale': True, 'blur': True, 'sigma': 1.234, 'solarize': True}
    assert described(view, (8, 8, 3), drawn) == (
        'turned by 270 degrees, flipped, Contrast -9, cut out around (1, 2), hue -0.10, '
        'brightness +0.10, saturation x 0.25, contrast x 1.50, grey, blurred by 1.23 pixels, solarized'
    )
    off = dict.fromkeys(('flip', 'jitter', 'grayscale', 'blur', 'solarize'), False) | {'rotate': 0}
    assert described(view, (8, 8, 3), off) == ''


@pytest.mark.parametrize(
    ('views', 'examples', 'said'),
    [
        ({'text': {'name': 'text'}}, 1, 'no images'),
        ({'view': {'size': 8}}, 0, '--examples=0'),
        ({'view': {'size': 8}}, 1438, 'has 1437'),
    ],
)
def test_what_cannot_be_shown_is_refused(views, examples, said):
    with pytest.raises(Problem, match=said) as raised:
        preview(digits(**views), examples)
    assert raised.value.code == CONFIG


def test_the_command_writes_a_file_and_prints_words(tmp_path):
    words = ['--config=configs/simclr_digits.py:smoke', f'--output={tmp_path / "of.png"}']
    command = [sys.executable, '-m', 'clr_jax.data.preview', *words, '--examples=2']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, '')
    *said, path = done.stdout.splitlines()
    assert len(said) == 4
    image = tensorflow().io.decode_png((tmp_path / 'of.png').read_bytes())
    assert path == str(tmp_path / 'of.png')
    assert image.shape == (2 * 66 - 2, 3 * 66 - 2, 3)
