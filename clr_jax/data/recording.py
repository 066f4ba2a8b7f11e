"""Views of recordings: a window of a sound."""

from typing import NamedTuple

import numpy as np

from clr_jax.data import index
from clr_jax.data.augment import tensorflow
from clr_jax.entry import CONFIG, Problem


class Recording(NamedTuple):
    """How one group of views is cut from a recording."""

    copies: int = 1  # views of each example
    samples: int = 20480  # of a window; a shorter recording is filled up with silence


def check(view: Recording) -> Recording:
    """The view itself, or the Problem with its values."""
    for name in view._fields:
        if getattr(view, name) < 1:
            value = getattr(view, name)
            raise Problem(f'{name}={value} of a view of recordings: at least 1', CONFIG)
    return view


def sample(view: Recording, keys, number: int) -> dict:
    """The parameters of view `number` of the examples with `keys` [b] uint64: where windows begin, as
    a share of what there is to choose [b]."""
    return {'begin': index.uniform(index.fold(keys, number), 'begin')}


def apply(view: Recording, wave, parameters: dict):
    """A window of the recording int16 [n] -> int16 [samples]: the one in the middle, if nothing is
    drawn. Of a shorter recording, all of it at a place that is drawn likewise."""
    tf = tensorflow()
    spare = tf.size(wave) - view.samples
    share = parameters.get('begin', tf.constant(0.5, tf.float64))
    begin = tf.cast(tf.floor(share * tf.cast(tf.abs(spare) + 1, tf.float64)), tf.int32)
    window = wave[tf.where(spare > 0, begin, 0) :][: view.samples]
    before = tf.where(spare < 0, begin, 0)
    after = view.samples - before - tf.size(window)
    return tf.ensure_shape(tf.pad(window, [[before, after]]), [view.samples])


def plain(view: Recording) -> Recording:
    return view._replace(copies=1)


def blank(view: Recording, examples: int) -> np.ndarray:
    return np.zeros((examples, view.samples), np.int16)
