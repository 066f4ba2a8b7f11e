"""Heads on top of an encoder's features."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.networks import BatchNorm

NORMS = {  # the scale and offset that a batch norm learns; None: no norm
    'full': {},
    'scale': {'use_bias': False},
    'plain': {'use_scale': False, 'use_bias': False},
}
# U(-1 / sqrt(d), 1 / sqrt(d)), as torch initialises a linear layer of d inputs.
torch_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class MLP(nn.Module):
    """A projector or predictor, [n, d] -> [n, dims[-1]]: dense layers, each but the last with a
    ReLU, and where papers differ: norms and biases.

    The defaults are SimCLR's (Chen et al., 2020; the official code): no biases, a batch norm after
    every layer, the last with a scale but no offset. norm, last_norm: None or of `NORMS`.
    kernel_std: of normal initial weights; 0: torch's uniform ones. until: only the first layers,
    with their ReLU.
    """

    dims: tuple[int, ...]
    norm: str | None = 'full'
    bias: bool = False
    last_norm: str | None = 'scale'
    last_bias: bool = False
    kernel_std: float = 0.01
    until: int | None = None
    bn_groups: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x, rows):
        kernel_init = nn.initializers.normal(self.kernel_std) if self.kernel_std else torch_uniform
        for i, dim in enumerate(self.dims[: self.until], 1):
            last = i == len(self.dims)
            dense = nn.Dense(
                dim,
                use_bias=self.last_bias if last else self.bias,
                kernel_init=kernel_init,
                dtype=self.dtype,
                param_dtype=jnp.float32,
                name=f'dense{i}',
            )
            x = dense(x)  # [n, dim]
            if norm := self.last_norm if last else self.norm:
                x = BatchNorm(groups=self.bn_groups, name=f'bn{i}', **NORMS[norm])(x, rows)
            x = x if last else nn.relu(x)
        return x
