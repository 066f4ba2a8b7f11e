"""AlexNet (Krizhevsky et al., 2012) with batch norm, on edges instead of colours: the encoder of
DeepCluster (Caron et al., 2018; arXiv:1807.05520, section 3.3; the official code)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.entry import Problem
from clr_jax.networks import BatchNorm, Conv, Dropout, sobel, standardize, wide

LAYERS = (  # channels, kernel, stride, padding, whether a max-pool follows
    (96, 11, 4, 2, True),
    (256, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)
LEAST = 7  # pixels per side that the first kernel needs


class AlexNet(nn.Module):
    """[n, s, s, 3] -> [n, hidden], before the last ReLU."""

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
        if (size := min(x.shape[1:3])) < LEAST:
            raise Problem(f'config.views: an alexnet needs images of {LEAST} pixels, not {size}')
        x = standardize(x, self.mean, self.std)
        x = sobel(x) if self.sobel else x
        for i, (features, kernel, stride, padding, pooled) in enumerate(LAYERS, 1):
            shape = max(1, round(features * self.width)), kernel, stride, padding
            x = Conv(*shape, form=self.conv, dtype=self.dtype, name=f'conv{i}')(x)
            x = nn.relu(BatchNorm(groups=self.bn_groups, name=f'bn{i}')(x, rows))
            if pooled:  # of a smaller map than the window, all
                window = tuple(min(3, side) for side in x.shape[1:3])
                x = nn.max_pool(x, window, (2, 2))  # [n, s', s', features]
        dense = partial(nn.Dense, self.hidden, dtype=self.dtype, param_dtype=jnp.float32)
        dense = partial(dense, kernel_init=nn.initializers.normal(0.01))
        x = Dropout(self.dropout)(x.reshape(len(x), -1), rows)
        x = nn.relu(dense(name='fc6')(x))
        x = Dropout(self.dropout)(x, rows)
        return wide(dense(name='fc7')(x))  # [n, hidden]


def alexnet(
    *,
    sobel=True,
    hidden=4096,
    dropout=0.5,
    width=1.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    bn_groups=1,
    conv='auto',
    dtype=None,
) -> AlexNet:
    """An `AlexNet`: five convolutions, then two linear layers `hidden` wide, each behind dropout.

    sobel: it sees the two Sobel filters of the gray image (`networks.sobel`) in place of colours.
    width: factor of the channels of convolutions. mean, std: subtracted from and divided into
    pixels in 0..1, before the filters. conv: form of the convolution (auto | direct | patches).
    dtype: of the computation; parameters and statistics stay float32.

    The image of its papers has 224 pixels (fc6 reads 6 x 6 x 256); a max-pool takes all of a map
    that is smaller than its window, so that any size from 7 on will do. Smaller ones are a
    `Problem`.
    """
    options = sobel, hidden, dropout, width, tuple(mean), tuple(std)
    return AlexNet(*options, bn_groups, conv, dtype)
