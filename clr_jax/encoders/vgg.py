"""VGG (Simonyan & Zisserman, 2014; arXiv:1409.1556) with batch norm, on edges instead of colours: the
larger encoder of DeepCluster (Caron et al., 2018; arXiv:1807.05520; the official code)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.entry import Problem
from clr_jax.networks import BatchNorm, Conv, Dropout, sobel, standardize, wide

STAGES = {  # depth -> 3x3 convolutions before each of five max-pools
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """[n, s, s, 3] -> [n, hidden], before the last ReLU."""

    depth: int
    sobel: bool
    hidden: int
    dropout: float
    width: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bn_groups: int
    conv: str
    dtype: Any

    @nn.compact
    def __call__(self, x, rows):
        x = standardize(x, self.mean, self.std)
        x = sobel(x) if self.sobel else x
        number = 0
        for layers, features in zip(STAGES[self.depth], CHANNELS, strict=True):
            for _ in range(layers):
                number += 1
                channels = max(1, round(features * self.width))
                conv = Conv(channels, form=self.conv, dtype=self.dtype, name=f'conv{number}')
                x = BatchNorm(groups=self.bn_groups, name=f'bn{number}')(conv(x), rows)
                x = nn.relu(x)
            # of a smaller map than the window, all
            window = tuple(min(2, side) for side in x.shape[1:3])
            x = nn.max_pool(x, window, (2, 2))  # [n, s', s', features]
        dense = partial(nn.Dense, self.hidden, dtype=self.dtype, param_dtype=jnp.float32)
        dense = partial(dense, kernel_init=nn.initializers.normal(0.01))
        x = nn.relu(dense(name=f'fc{self.depth - 2}')(x.reshape(len(x), -1)))
        x = Dropout(self.dropout)(x, rows)
        return wide(dense(name=f'fc{self.depth - 1}')(x))  # [n, hidden]


def vgg(
    *,
    depth=16,
    sobel=True,
    hidden=4096,
    dropout=0.5,
    width=1.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    bn_groups=1,
    conv='auto',
    dtype=None,
) -> VGG:
    """A `VGG` of `depth` 11, 13, 16 or 19: convolutions, then two linear layers `hidden` wide with
    dropout between them. What does not exist is a `Problem`.

    sobel: it sees the two Sobel filters of the gray image (`networks.sobel`) in place of colours.
    width: factor of the channels of convolutions. mean, std: subtracted from and divided into
    pixels in 0..1, before the filters. conv: form of the convolution (auto | direct | patches).
    dtype: of the computation; parameters and statistics stay float32.

    The image of its papers has 224 pixels (the linear layers read 7 x 7 x 512); a map of one pixel
    passes the max-pools as it is, so that any size will do.
    """
    if depth not in STAGES:
        raise Problem(f'encoder.depth={depth}: a vgg has one of {", ".join(map(str, STAGES))}')
    options = depth, sobel, hidden, dropout, width, tuple(mean), tuple(std)
    return VGG(*options, bn_groups, conv, dtype)
