"""Colour spaces, and an encoder for each group of their channels: one image as several views (Tian et
al., 2020; arXiv:1906.05849)."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.lax import Precision

# linear sRGB -> CIE XYZ, and the white of both, D65 seen by the observer of 2 degrees
XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)
LUMA = (  # of ITU-R BT.601, [Y, Cb, Cr] of R, G and B in 0..1, above `OFFSET`
    (65.481, 128.553, 24.966),
    (-37.797, -74.203, 112.0),
    (112.0, -93.786, -18.214),
)
OFFSET = (16.0, 128.0, 128.0)


def lab(rgb):
    """sRGB [..., 3] in 0..1 -> CIE 1976 L in 0..100, a and b [..., 3], white D65 (CIE 15; IEC
    61966-2-1)."""
    linear = jnp.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    t = _linear(XYZ, linear) / jnp.asarray(WHITE, rgb.dtype)  # 1 is white
    small = 6 / 29
    f = jnp.where(t > small**3, jnp.cbrt(t), t / (3 * small**2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def ycbcr(rgb):
    """sRGB [..., 3] in 0..1 -> Y in 16..235, Cb and Cr in 16..240 [..., 3] (ITU-R BT.601)."""
    return _linear(LUMA, rgb) + jnp.asarray(OFFSET, rgb.dtype)


def _linear(matrix, x):
    """matrix [m, 3] of every pixel of x [..., 3], not in the bfloat16 of a TPU."""
    return jnp.matmul(x, jnp.asarray(matrix, x.dtype).T, precision=Precision.HIGHEST)


class Space(NamedTuple):
    """A colour space, and the range of each of its channels over all sRGB colours."""

    convert: Callable
    low: tuple[float, ...]
    high: tuple[float, ...]


LAB = Space(lab, (0.0, -86.183, -107.857), (100.0, 98.233, 94.478))
YCBCR = Space(ycbcr, (16.0, 16.0, 16.0), (235.0, 240.0, 240.0))
RGB = Space(lambda rgb: rgb, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
GROUPS: dict[str, tuple[Space, slice]] = {
    'L': (LAB, slice(0, 1)),
    'a': (LAB, slice(1, 2)),
    'b': (LAB, slice(2, 3)),
    'ab': (LAB, slice(1, 3)),
    'Y': (YCBCR, slice(0, 1)),
    'Cb': (YCBCR, slice(1, 2)),
    'Cr': (YCBCR, slice(2, 3)),
    'CbCr': (YCBCR, slice(1, 3)),
    'R': (RGB, slice(0, 1)),
    'G': (RGB, slice(1, 2)),
    'B': (RGB, slice(2, 3)),
    'rgb': (RGB, slice(0, 3)),
}


def channels(rgb, group: str):
    """The channels of a group of `GROUPS`, such as 'ab', of sRGB [..., 3] in 0..1 -> [..., c]."""
    space, part = GROUPS[group]
    return space.convert(rgb)[..., part]


def standard(group: str) -> dict:
    """{'mean', 'std'} by which an encoder standardises a group: the middle and half the width of each
    channel's range, so that every colour is in -1..1."""
    space, part = GROUPS[group]
    ranges = list(zip(space.low[part], space.high[part], strict=True))
    return {
        'mean': tuple((low + high) / 2 for low, high in ranges),
        'std': tuple((high - low) / 2 for low, high in ranges),
    }


class Encoders(nn.Module):
    """Images [n, s, s, 3] -> the features [n, groups d] of as many copies of an encoder, side by side,
    each of which sees the channels of its group; of [n, groups, s, s, 3], each in an image of its
    own. They have parameters of their own, named by the group, and in place of `encoder`'s mean and
    std those of `standard`."""

    encoder: nn.Module
    groups: tuple[str, ...]

    @nn.compact
    def __call__(self, x, rows):
        copy = lambda group: self.encoder.clone(parent=self, name=group, **standard(group))
        shown = jnp.moveaxis(x, 1, 0) if x.ndim == 5 else [x] * len(self.groups)
        pairs = zip(self.groups, shown, strict=True)
        return jnp.concatenate([copy(group)(channels(of, group), rows) for group, of in pairs], -1)
