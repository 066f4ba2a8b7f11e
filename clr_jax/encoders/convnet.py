"""A small convolutional network for tiny images: 3x3 convolutions, batch norm, ReLU, average
pooling."""

from typing import Any

import flax.linen as nn

from clr_jax.networks import BatchNorm, Conv, Dropout, pool


class ConvNet(nn.Module):
    """[n, s, s, 3] -> [n, widths[-1]]; every layer after the first halves the resolution."""

    widths: tuple[int, ...]
    dropout: float
    bn_groups: int
    conv: str
    dtype: Any

    @nn.compact
    def __call__(self, x, rows):
        for i, width in enumerate(self.widths):
            stride = 1 if i == 0 else 2
            conv = Conv(width, stride=stride, form=self.conv, dtype=self.dtype, name=f'conv{i + 1}')
            x = conv(x)  # [n, s', s', width]
            x = nn.relu(BatchNorm(groups=self.bn_groups, name=f'bn{i + 1}')(x, rows))
        return Dropout(self.dropout)(pool(x), rows)  # [n, d]


def convnet(
    *, widths=(32, 64, 128, 256), dropout=0.0, bn_groups=1, conv='auto', dtype=None
) -> ConvNet:
    """A `ConvNet`. conv: form of the convolution (auto | direct | patches); dtype: of the
    computation (None: as given)."""
    return ConvNet(tuple(widths), dropout, bn_groups, conv, dtype)
