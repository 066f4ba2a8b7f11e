"""A small convolutional network for tiny images: 3x3 convolutions, batch norm, ReLU, average
pooling."""

from typing import Any

import flax.linen as nn

from clr_jax.networks import BatchNorm, Conv, Dropout, pool, standardize


class ConvNet(nn.Module):
    """[n, s, s, 3] -> [n, widths[-1]]; every layer after the first halves the resolution."""

    widths: tuple[int, ...]
    dropout: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bn_groups: int
    conv: str
    dtype: Any

    @nn.compact
    def __call__(self, x, rows):
        x = standardize(x, self.mean, self.std)
        for i, width in enumerate(self.widths):
            stride = 1 if i == 0 else 2
            conv = Conv(width, stride=stride, form=self.conv, dtype=self.dtype, name=f'conv{i + 1}')
            x = conv(x)  # [n, s', s', width]
            x = nn.relu(BatchNorm(groups=self.bn_groups, name=f'bn{i + 1}')(x, rows))
        return Dropout(self.dropout)(pool(x), rows)  # [n, d]


def convnet(
    *,
    widths=(32, 64, 128, 256),
    dropout=0.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    bn_groups=1,
    conv='auto',
    dtype=None,
) -> ConvNet:
    """A `ConvNet`. mean, std: subtracted from and divided into pixels in 0..1; conv: form of the
    convolution (auto | direct | patches); dtype: of the computation (None: as given)."""
    return ConvNet(tuple(widths), dropout, tuple(mean), tuple(std), bn_groups, conv, dtype)
