"""Residual networks (He et al., 2015; arXiv:1512.03385), with the stride in the 3x3 convolution
(v1.5)."""

from functools import partial
from typing import Any

import flax.linen as nn

from clr_jax.entry import Problem
from clr_jax.networks import BatchNorm, Conv, pool

BLOCKS = {  # depth -> (blocks per stage, whether they are bottlenecks)
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
    200: ((3, 24, 36, 3), True),
}


class Block(nn.Module):
    """[n, h, w, c] -> [n, h / stride, w / stride, c']: a residual branch beside a shortcut."""

    width: int
    stride: int
    bottleneck: bool
    zero_init: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x, rows):
        w, s, out = self.width, self.stride, self.width * (4 if self.bottleneck else 1)
        layers = [(w, 1, 1), (w, 3, s), (out, 1, 1)] if self.bottleneck else [(w, 3, s), (w, 3, 1)]
        last = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        y = x
        for i, (features, kernel, stride) in enumerate(layers, 1):
            y = self.conv(features, kernel, stride, name=f'conv{i}')(y)
            scale = {'scale_init': last} if i == len(layers) else {}
            y = self.norm(name=f'bn{i}', **scale)(y, rows)
            y = nn.relu(y) if i < len(layers) else y
        if x.shape != y.shape:
            x = self.conv(out, 1, s, name='downsample_conv')(x)
            x = self.norm(name='downsample_bn')(x, rows)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """[n, s, s, 3] -> [n, 512 * width] (18, 34) or [n, 2048 * width]."""

    depth: int
    width: float
    small_stem: bool
    zero_init: bool
    padding: str
    pool_padding: str
    bn_groups: int
    conv: str
    dtype: Any

    @nn.compact
    def __call__(self, x, rows):
        conv = partial(Conv, padding=self.padding, form=self.conv, dtype=self.dtype)
        norm = partial(BatchNorm, groups=self.bn_groups)
        stages, bottleneck = BLOCKS[self.depth]
        channels = lambda c: max(1, round(c * self.width))
        stem = (3, 1) if self.small_stem else (7, 2)
        x = nn.relu(norm(name='bn1')(conv(channels(64), *stem, name='conv1')(x), rows))
        if not self.small_stem:
            pads = 'SAME' if self.pool_padding == 'SAME' else ((1, 1), (1, 1))
            x = nn.max_pool(x, (3, 3), (2, 2), pads)  # [n, s / 4, s / 4, 64 * width]
        for i, blocks in enumerate(stages):
            for j in range(blocks):
                stride = 2 if i and not j else 1
                shape = (channels(64 * 2**i), stride, bottleneck, self.zero_init)
                block = Block(*shape, conv, norm, name=f'layer{i + 1}_{j}')
                x = block(x, rows)  # [n, s / 2^(i + 2), ..., 64 * 2^i * width (* 4)]
        return pool(x)  # [n, d]


def resnet(
    *,
    depth=50,
    width=1.0,
    small_stem=False,
    zero_init=True,
    padding='torch',
    pool_padding='torch',
    bn_groups=1,
    conv='auto',
    dtype=None,
) -> ResNet:
    """A ResNet of `depth` 18, 34, 50, 101, 152 or 200, all its channels multiplied by `width`.

    small_stem: 3x3 stride 1 and no max-pool, for images of 32 pixels (CIFAR). zero_init: the last
    norm of each block starts at zero. padding, pool_padding: 'SAME' or 'torch'; the official SimCLR
    pads convolutions as torch and the max-pool SAME. conv: its form (auto | direct | patches).
    dtype: of the computation, e.g. bfloat16; parameters and statistics stay float32.
    """
    if depth not in BLOCKS:
        raise Problem(f'encoder.depth={depth}: a resnet has one of {", ".join(map(str, BLOCKS))}')
    for name, value in (('padding', padding), ('pool_padding', pool_padding)):
        if value not in ('SAME', 'torch'):
            raise Problem(f'encoder.{name}={value}: SAME or torch')
    return ResNet(
        depth, width, small_stem, zero_init, padding, pool_padding, bn_groups, conv, dtype
    )
