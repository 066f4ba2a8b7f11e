"""The encoder of recordings in Contrastive Predictive Coding (van den Oord et al., 2018;
arXiv:1807.03748): convolutions along the waveform."""

from typing import Any

import flax.linen as nn

from clr_jax.entry import Problem
from clr_jax.networks import Conv, normalization, wide


class Wave(nn.Module):
    """Waveforms [n, samples] -> [n, widths[-1]], the mean over time of `sequence`."""

    widths: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    norm: str
    bn_groups: int
    dtype: Any

    def __call__(self, x, rows):
        return self.sequence(x, rows).mean(1)  # [n, d]

    @nn.compact
    def sequence(self, x, rows):
        """Waveforms [n, samples] -> what is heard around each moment [n, t, d], in float32 at least."""
        x = x[..., None]  # [n, samples, 1]
        layers = zip(self.widths, self.kernels, self.strides, strict=True)
        for i, (width, kernel, stride) in enumerate(layers, 1):
            side = (kernel - stride + 1) // 2  # every stride of samples has its moment
            conv = Conv(
                width,
                kernel,
                stride,
                padding=side,
                bias=self.norm == 'none',
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f'conv{i}',
            )
            x = conv(x)  # [n, t', width]
            if self.norm != 'none':
                x = normalization(self.norm, self.bn_groups)(name=f'bn{i}')(x, rows)
            x = nn.relu(x)
        return wide(x)


def wave(
    *,
    widths=(512, 512, 512, 512, 512),
    kernels=(10, 8, 4, 4, 4),
    strides=(5, 4, 2, 2, 2),
    norm='none',
    bn_groups=1,
    dtype=None,
) -> Wave:
    """A `Wave`: one moment for each 160 samples, 10 ms at 16 kHz, that hears 465 of them.

    norm: 'none', as the paper says nothing of one, 'batch', or 'layer' of the channels at each
    moment; statistics over time would tell a moment of those to come. dtype: of the computation.
    """
    if not len(widths) == len(kernels) == len(strides) > 0:
        layers = f'widths={widths}, kernels={kernels}, strides={strides}'
        raise Problem(f'encoder.{layers}: one of each for every layer')
    if norm != 'none':
        normalization(norm, bn_groups)
    return Wave(tuple(widths), tuple(kernels), tuple(strides), norm, bn_groups, dtype)
