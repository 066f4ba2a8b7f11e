"""Views of stacks of frames (Laskin et al., 2020; arXiv:2004.04136): one random crop of all frames,
so that what moves between them still does."""

from typing import NamedTuple

import numpy as np

from clr_jax.data import index
from clr_jax.data.augment import tensorflow
from clr_jax.entry import CONFIG, Problem


class Frames(NamedTuple):
    """How one group of views is cut from stacked frames; the defaults are CURL's for control."""

    copies: int = 2  # views of each example
    size: int = 84  # pixels per side
    channels: int = 9  # of the stack: three frames in colour
    pad: int = 0  # pixels of the border repeated around the frames before they are cropped


def check(view: Frames) -> Frames:
    """The view itself, or the Problem with its values."""
    for name, least in (('copies', 1), ('size', 1), ('channels', 1), ('pad', 0)):
        if getattr(view, name) < least:
            value = getattr(view, name)
            raise Problem(f'{name}={value} of a view of frames: at least {least}', CONFIG)
    return view


def sample(view: Frames, keys, number: int) -> dict:
    """The parameters of view `number` of the examples with `keys` [b] uint64: the crop's place, as
    shares of what there is to choose [b, 2]."""
    return {'crop': index.uniform(index.fold(keys, number), 'crop', 2)}


def apply(view: Frames, x, parameters: dict):
    """A crop of the stack uint8 [h, w, channels] -> uint8 [size, size, channels]: the one in the
    middle, if nothing is drawn."""
    tf = tensorflow()
    for _ in range(view.pad):  # 'SYMMETRIC' by one pixel repeats the border
        x = tf.pad(x, [[1, 1], [1, 1], [0, 0]], 'SYMMETRIC')
    spare = tf.shape(x)[:2] - view.size
    tf.debugging.assert_non_negative(spare, 'the frames are smaller than config.views asks for')
    share = parameters.get('crop', tf.constant([0.5, 0.5], tf.float64))
    begin = tf.cast(tf.floor(share * tf.cast(spare + 1, tf.float64)), tf.int32)
    begin = tf.concat([begin, [0]], 0)
    return tf.slice(x, begin, [view.size, view.size, view.channels])


def cropped(view: Frames, stacks: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """What `apply` does, of many stacks in NumPy: uint8 [n, h, w, c], shares [n, 2] -> [n, S, S, c]."""
    edge = (view.pad, view.pad)
    stacks = np.pad(stacks, ((0, 0), edge, edge, (0, 0)), 'edge')
    begin = np.floor(shares * (np.array(stacks.shape[1:3]) - view.size + 1)).astype(int)  # [n, 2]
    rows, columns = (begin[:, axis, None] + np.arange(view.size) for axis in (0, 1))  # [n, S]
    number = np.arange(len(stacks))
    return stacks[number[:, None, None], rows[:, :, None], columns[:, None, :]]


def plain(view: Frames) -> Frames:
    return view._replace(copies=1, pad=0)


def blank(view: Frames, examples: int) -> np.ndarray:
    return np.zeros((examples, view.size, view.size, view.channels), np.uint8)
