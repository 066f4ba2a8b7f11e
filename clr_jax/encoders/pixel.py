"""The pixel encoder of control from frames (Yarats et al., 2019, arXiv:1910.01741; CURL,
arXiv:2004.04136): 3x3 convolutions without norms, a dense layer and a layer norm."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clr_jax.networks import Conv, wide


class Pixel(nn.Module):
    """[n, s, s, c] -> [n, features]."""

    widths: tuple[int, ...]
    features: int
    conv: str
    dtype: Any

    @nn.compact
    def __call__(self, x, rows):
        x = x - 0.5
        for i, width in enumerate(self.widths):
            stride = 2 if i == 0 else 1
            x = Conv(
                width,
                stride=stride,
                padding=0,
                form=self.conv,
                dtype=self.dtype,
                name=f'conv{i + 1}',
            )(x)
            bias = self.param(f'bias{i + 1}', nn.initializers.zeros, (width,))
            x = nn.relu(x + bias.astype(x.dtype))  # [n, s', s', width]
        dense = {'kernel_init': nn.initializers.orthogonal(), 'dtype': self.dtype}
        x = nn.Dense(self.features, **dense, param_dtype=jnp.float32, name='dense')(
            x.reshape(len(x), -1)
        )
        return nn.LayerNorm(epsilon=1e-5, name='norm', dtype=jax.dtypes.result_type(wide(x)))(
            wide(x)
        )  # [n, features]


def pixel(*, widths=(32, 32, 32, 32), features=50, bn_groups=1, conv='auto', dtype=None) -> Pixel:
    """A `Pixel`, by default that of CURL. conv: form of the convolution (auto | direct | patches);
    dtype: of the convolutions' computation (None: as given). bn_groups: every encoder is given it;
    here it does nothing, for there is no batch norm."""
    return Pixel(tuple(widths), features, conv, dtype)
