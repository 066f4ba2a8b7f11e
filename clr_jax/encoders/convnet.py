"""A small convolutional network for tiny images: 3x3 convolutions, a norm, ReLU, average pooling."""

from typing import Any

import flax.linen as nn

from clr_jax.networks import Conv, Dropout, normalization, pool, standardize


class ConvNet(nn.Module):
    """[n, s, s, 3] -> [n, widths[-1]]; every layer after the first halves the resolution."""

    widths: tuple[int, ...]
    dropout: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    norm: str
    bn_groups: int
    conv: str
    dtype: Any

    @nn.compact
    def __call__(self, x, rows):
        x = standardize(x, self.mean, self.std)
        norm = normalization(self.norm, self.bn_groups)
        for i, width in enumerate(self.widths):
            stride = 1 if i == 0 else 2
            conv = Conv(width, stride=stride, form=self.conv, dtype=self.dtype, name=f'conv{i + 1}')
            x = conv(x)  # [n, s', s', width]
            x = nn.relu(norm(name=f'bn{i + 1}')(x, rows))
        return Dropout(self.dropout)(pool(x), rows)  # [n, d]


def convnet(
    *,
    widths=(32, 64, 128, 256),
    dropout=0.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    norm='batch',
    bn_groups=1,
    conv='auto',
    dtype=None,
) -> ConvNet:
    """A `ConvNet`. mean, std: subtracted from and divided into pixels in 0..1; norm: 'batch' or
    'layer'; conv: form of the convolution (auto | direct | patches); dtype: of the computation
    (None: as given)."""
    normalization(norm, bn_groups)
    layout = tuple(widths), dropout, tuple(mean), tuple(std)
    return ConvNet(*layout, norm, bn_groups, conv, dtype)
