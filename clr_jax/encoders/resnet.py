"""Residual networks (He et al., 2015; arXiv:1512.03385), with the stride in the 3x3 convolution
(v1.5); those of SimCLR v2 have selective kernels (Li et al., 2019; arXiv:1903.06586) and the stem
and shortcuts of ResNet-D (He et al., 2018; arXiv:1812.01187)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.encoders.vit import attention, resized
from clr_jax.entry import Problem
from clr_jax.networks import Conv, normalization, pool, standardize, wide
from clr_jax.remat import recomputed

BLOCKS = {  # depth -> (blocks per stage, whether they are bottlenecks)
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
    200: ((3, 24, 36, 3), True),
}


class SelectiveKernel(nn.Module):
    """[n, h, w, 2 c] -> [n, h, w, c]: the mean of two streams, the halves of the channels, by
    weights for each image and channel that follow from both streams, pooled."""

    hidden: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x, rows):
        a, b = jnp.split(x, 2, -1)
        y = (pool(a) + pool(b))[:, None, None]  # [n, 1, 1, c]
        y = self.conv(self.hidden, 1, name='conv1')(y)
        y = nn.relu(self.norm(name='bn1')(y, rows))  # [n, 1, 1, hidden]
        y = self.conv(x.shape[-1], 1, name='conv2')(y)  # [n, 1, 1, 2 c]
        u, v = jnp.split(y, 2, -1)
        share = nn.sigmoid(u - v)  # the softmax of two
        return share * a + (1 - share) * b


class Block(nn.Module):
    """[n, h, w, c] -> [n, h / stride, w / stride, c']: a residual branch beside a shortcut."""

    width: int
    stride: int
    bottleneck: bool
    zero_init: bool
    conv: Any
    norm: Any
    sk_ratio: float = 0.0
    resnet_d: bool = False

    @nn.compact
    def __call__(self, x, rows):
        w, s, out = self.width, self.stride, self.width * (4 if self.bottleneck else 1)
        selective = self.bottleneck and self.sk_ratio > 0
        middle = (2 * w if selective else w, 3, s)
        layers = [(w, 1, 1), middle, (out, 1, 1)] if self.bottleneck else [middle, (w, 3, 1)]
        last = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        y = x
        for i, (features, kernel, stride) in enumerate(layers, 1):
            y = self.conv(features, kernel, stride, name=f'conv{i}')(y)
            scale = {'scale_init': last} if i == len(layers) else {}
            y = self.norm(name=f'bn{i}', **scale)(y, rows)
            y = nn.relu(y) if i < len(layers) else y
            if selective and i == 2:
                hidden = max(int(w * self.sk_ratio), 32)
                y = SelectiveKernel(hidden, self.conv, self.norm, name='sk')(y, rows)
        if x.shape != y.shape:
            if self.resnet_d:
                # padding counts as zeros at stride 2 (odd sizes), and not at all at stride 1
                x = nn.avg_pool(x, (2, 2), (s, s), 'SAME', count_include_pad=s > 1)
                s = 1
            x = self.conv(out, 1, s, name='downsample_conv')(x)
            x = self.norm(name='downsample_bn')(x, rows)
        return nn.relu(x + y)


class AttentionPool(nn.Module):
    """[n, h, w, c] -> [n, width or c], in float32 at least: what one query, the mean of the pixels,
    finds among them and itself, each at its learned position (Radford et al., 2021;
    arXiv:2103.00020, section 2.4, and its official code). grid: pixels along each side of the usual
    image; positions of others are interpolated. width: of an output layer; 0: none."""

    heads: int
    width: int
    grid: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        n, h, w, c = x.shape
        normal = nn.initializers.normal(c**-0.5)
        dense = partial(nn.Dense, kernel_init=normal, dtype=self.dtype)
        learned = self.param('pos_embed', normal, (1, 1 + self.grid**2, c), jnp.float32)
        x = x.reshape(n, h * w, c)
        x = jnp.concatenate([wide(x).mean(1, keepdims=True).astype(x.dtype), x], 1)
        x = x + resized(learned, self.grid, h, w).astype(x.dtype)  # [n, 1 + h w, c]
        split = lambda y: y.reshape(n, -1, self.heads, c // self.heads)
        query = split(dense(c, name='query')(x[:, :1]))
        key, value = (split(dense(c, name=name)(x)) for name in ('key', 'value'))
        weights = attention(query, key).astype(value.dtype)  # [n, heads, 1, 1 + h w]
        y = jnp.einsum('nhqk,nkhd->nqhd', weights, value).reshape(n, c)
        return wide(dense(self.width, name='proj')(y) if self.width else y)


class ResNet(nn.Module):
    """[n, s, s, 3] -> [n, 512 * width] (18, 34) or [n, 2048 * width]."""

    depth: int
    width: float
    small_stem: bool
    sk_ratio: float
    resnet_d: bool
    zero_init: bool
    padding: str
    pool_padding: str
    pooling: str
    pool_heads: int
    pool_width: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    norm: str
    bn_groups: int
    conv: str
    remat: str
    dtype: Any

    @nn.compact
    def __call__(self, x, rows):
        x = standardize(x, self.mean, self.std)
        conv = partial(Conv, padding=self.padding, form=self.conv, dtype=self.dtype)
        norm = normalization(self.norm, self.bn_groups)
        stages, bottleneck = BLOCKS[self.depth]
        channels = lambda c: max(1, round(c * self.width))
        stem = [(32, 3, 2), (32, 3, 1), (64, 3, 1)] if self.resnet_d else [(64, 7, 2)]
        stem = [(64, 3, 1)] if self.small_stem else stem
        for i, (features, kernel, stride) in enumerate(stem, 1):
            x = conv(channels(features), kernel, stride, name=f'conv{i}')(x)
            x = nn.relu(norm(name=f'bn{i}')(x, rows))
        if not self.small_stem:
            pads = 'SAME' if self.pool_padding == 'SAME' else ((1, 1), (1, 1))
            x = nn.max_pool(x, (3, 3), (2, 2), pads)  # [n, s / 4, s / 4, 64 * width]
        options = {'conv': conv, 'norm': norm, 'sk_ratio': self.sk_ratio, 'resnet_d': self.resnet_d}
        block = partial(recomputed(Block, self.remat, scanned=False), **options)
        for i, blocks in enumerate(stages):
            for j in range(blocks):
                shape = channels(64 * 2**i), 2 if i and not j else 1, bottleneck, self.zero_init
                x = block(*shape, name=f'layer{i + 1}_{j}')(x, rows)
                # [n, s / 2^(i + 2), ..., 64 * 2^i * width (* 4)]
        if self.pooling == 'average':
            return pool(x)  # [n, d]
        if x.shape[-1] % self.pool_heads:
            said = f'encoder.pool_heads={self.pool_heads}: does not divide {x.shape[-1]} channels'
            raise Problem(said)
        grid = -(-self.image_size // (8 if self.small_stem else 32))
        return AttentionPool(self.pool_heads, self.pool_width, grid, self.dtype, name='pool')(x)


def resnet(
    *,
    depth=50,
    width=1.0,
    small_stem=False,
    sk_ratio=0.0,
    resnet_d=False,
    zero_init=True,
    padding='torch',
    pool_padding='torch',
    pool='average',
    pool_heads=32,
    pool_width=0,
    image_size=224,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    norm='batch',
    bn_groups=1,
    conv='auto',
    remat='',
    dtype=None,
) -> ResNet:
    """A ResNet of `depth` 18, 34, 50, 101, 152 or 200, all its channels multiplied by `width`.

    small_stem: 3x3 stride 1 and no max-pool, for images of 32 pixels (CIFAR). sk_ratio: above 0,
    the 3x3 convolution of a bottleneck, w wide, becomes one to 2 w with norm and ReLU, whose halves
    are averaged by weights that come from the pooled sum of both through max(w sk_ratio, 32)
    channels; 18 and 34 have none. resnet_d: a stem of three 3x3 convolutions (a small stem stays),
    and shortcuts that average 2x2 pixels with the block's stride, even if it is 1, before a 1x1
    convolution of stride 1. Both as in the official SimCLR v2, where sk_ratio=0.0625 implies
    resnet_d; here the two are separate, and its configs set both. zero_init: the last norm of each
    block starts at zero. padding, pool_padding: 'SAME' or 'torch'; the official SimCLR pads
    convolutions as torch and the max-pool SAME. pool: 'average', or 'attention' as in CLIP, with
    pool_heads heads at the positions of images of `image_size` pixels, others' interpolated, and an
    output layer of pool_width units; 0: none, for CLIP's is the projection that methods/clip.py has
    anyway. Of CLIP's other changes resnet_d has the stem and the averages in shortcuts, not the
    average in place of the max-pool and of the stride of 3x3 convolutions. mean, std: subtracted
    from and divided into pixels in 0..1. norm: 'batch', or 'layer' of the channels at each pixel,
    under the same names (bn1, ...). conv: its form (auto | direct | patches). remat: '' or
    'full', as of a vit ('dots' keeps no convolution). dtype: of the computation, e.g. bfloat16;
    parameters and statistics stay float32. What does not exist is a `Problem`.
    """
    if depth not in BLOCKS:
        raise Problem(f'encoder.depth={depth}: a resnet has one of {", ".join(map(str, BLOCKS))}')
    if not 0 <= sk_ratio <= 1:
        raise Problem(f'encoder.sk_ratio={sk_ratio}: from 0, no selective kernels, to 1')
    for name, value in (('padding', padding), ('pool_padding', pool_padding)):
        if value not in ('SAME', 'torch'):
            raise Problem(f'encoder.{name}={value}: SAME or torch')
    if pool not in ('average', 'attention'):
        raise Problem(f'encoder.pool={pool}: average or attention')
    for name, value, least in (
        ('pool_heads', pool_heads, 1),
        ('pool_width', pool_width, 0),
        ('image_size', image_size, 1),
    ):
        if value < least:
            raise Problem(f'encoder.{name}={value}: at least {least}')
    normalization(norm, bn_groups)
    layout = (depth, width, small_stem, sk_ratio, resnet_d, zero_init, padding, pool_padding)
    pooling = (pool, pool_heads, pool_width, image_size)
    return ResNet(*layout, *pooling, tuple(mean), tuple(std), norm, bn_groups, conv, remat, dtype)
