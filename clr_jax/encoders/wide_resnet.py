"""Wide residual networks (Zagoruyko & Komodakis, 2016; arXiv:1605.07146): norm and activation before
each convolution, for images of 32 pixels."""

from functools import partial
from typing import Any

import flax.linen as nn

from clr_jax.entry import Problem
from clr_jax.networks import BatchNorm, Conv, Dropout, pool, standardize


class WideBlock(nn.Module):
    """[n, h, w, c] -> [n, h / stride, w / stride, width]: two 3x3 convolutions beside a shortcut."""

    width: int
    stride: int
    dropout: float
    conv: Any
    norm: Any
    activation: Any

    @nn.compact
    def __call__(self, x, rows):
        y = self.activation(self.norm(name='bn1')(x, rows))
        if (
            x.shape[-1] != self.width or self.stride > 1
        ):  # the shortcut begins behind the first norm
            x = self.conv(self.width, 1, self.stride, name='shortcut')(y)
        y = self.conv(self.width, 3, self.stride, name='conv1')(y)
        y = self.activation(self.norm(name='bn2')(y, rows))
        y = self.conv(self.width, 3, 1, name='conv2')(Dropout(self.dropout)(y, rows))
        return x + y


class WideResNet(nn.Module):
    """[n, s, s, 3] -> [n, 64 * width]."""

    depth: int
    width: int
    dropout: float
    slope: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bn_groups: int
    conv: str
    dtype: Any

    @nn.compact
    def __call__(self, x, rows):
        conv = partial(Conv, form=self.conv, dtype=self.dtype)
        norm = partial(BatchNorm, groups=self.bn_groups)
        activation = partial(nn.leaky_relu, negative_slope=self.slope)
        x = conv(16, 3, name='conv1')(standardize(x, self.mean, self.std))
        for i in range(3):
            for j in range((self.depth - 4) // 6):
                stride = 2 if i and not j else 1
                shape = 16 * self.width * 2**i, stride, self.dropout
                x = WideBlock(*shape, conv, norm, activation, name=f'layer{i + 1}_{j}')(x, rows)
                # [n, s / 2^i, s / 2^i, 16 * width * 2^i]
        return pool(activation(norm(name='bn')(x, rows)))  # [n, 64 * width]


def wide_resnet(
    *,
    depth=28,
    width=2,
    dropout=0.0,
    slope=0.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    bn_groups=1,
    conv='auto',
    dtype=None,
) -> WideResNet:
    """WRN-`depth`-`width`: three groups of (depth - 4) / 6 blocks. slope: of the activation below zero;
    0 is the paper's ReLU, 0.1 that of semi-supervised learners such as UDA. dropout: between the
    convolutions of a block. mean, std: subtracted from and divided into pixels in 0..1. conv: form of
    the convolution (auto | direct | patches). dtype: of the computation."""
    if depth < 10 or (depth - 4) % 6:
        raise Problem(f'encoder.depth={depth}: of a wide_resnet it is 6 n + 4: 10, 16, 22, 28, ...')
    layout = depth, width, dropout, slope
    return WideResNet(*layout, tuple(mean), tuple(std), bn_groups, conv, dtype)
