"""The auxiliary task: what it learns from a buffer of frames, that it repeats itself, and what it
refuses."""

import jax
import numpy as np
import pytest

from clr_jax import control
from clr_jax.data import replays
from clr_jax.data.augment import tensorflow
from clr_jax.entry import Problem
from tests.conftest import config

SHAPE = (20, 20, 9)


def settings():
    of = config('curl_control', 'smoke').to_dict()
    return of | {'batch_size': 16}


def buffer():
    """Stacks of moving digits, as a replay buffer would hold them."""
    source = replays.moving_digits('train')
    rows = range(0, source.size, 11)
    return np.stack([source.read(tensorflow().constant(i))['frames'].numpy() for i in rows])


def test_representations_come_out_of_frames():
    frames = buffer()
    task = control.auxiliary(settings(), SHAPE)
    runs = []
    for _ in range(2):
        rng, state, losses = np.random.default_rng(0), task.init(), []
        for _ in range(30):
            state, metrics = task.update(state, frames[rng.choice(len(frames), 16, False)])
            losses.append(metrics['loss'])
        runs.append((losses, jax.device_get(state), task.encode(state, frames[:37])))
    (losses, state, h), (again, other, same) = runs
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2
    assert losses == again
    jax.tree.map(np.testing.assert_array_equal, state, other)
    np.testing.assert_array_equal(h, same)
    assert h.shape == (37, 50)
    assert int(state.step) == 30


def test_features_do_not_depend_on_the_others():
    task = control.auxiliary(settings(), SHAPE)
    state, frames = task.init(), buffer()[:9]
    alone = task.encode(state, frames[4:5])
    np.testing.assert_allclose(alone, task.encode(state, frames)[4:5], rtol=0, atol=1e-5)


def test_wrong_frames_are_refused():
    with pytest.raises(Problem, match='asks for 16 pixels and 9 channels'):
        control.auxiliary(settings(), (12, 20, 9))
    with pytest.raises(Problem, match='one group, of frames'):
        control.auxiliary(config('simclr_digits').to_dict(), (20, 20, 3))
    task = control.auxiliary(settings(), SHAPE)
    with pytest.raises(ValueError, match=r'not uint8 \[16, 20, 20, 9\]'):
        task.update(task.init(), np.zeros((8, *SHAPE), np.uint8))
