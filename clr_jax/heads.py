"""Heads on top of an encoder's features."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.networks import BatchNorm


class MLP(nn.Module):
    """SimCLR's projector: [n, d] -> [n, dims[-1]]; every layer is dense without bias, then batch
    norm.

    Hidden layers have a ReLU; the last layer's norm has a scale but no offset (Chen et al., 2020;
    the official code). One entry of `dims` is a linear head, two are SimCLR v1's, three v2's.
    `last_norm=False` leaves a plain last layer.
    """

    dims: tuple[int, ...]
    last_norm: bool = True
    bn_groups: int = 1
    kernel_std: float = 0.01
    dtype: Any = None

    @nn.compact
    def __call__(self, x, rows):
        for i, dim in enumerate(self.dims):
            last = i == len(self.dims) - 1
            dense = nn.Dense(
                dim,
                use_bias=False,
                kernel_init=nn.initializers.normal(self.kernel_std),
                dtype=self.dtype,
                param_dtype=jnp.float32,
                name=f'dense{i + 1}',
            )
            x = dense(x)  # [n, dim]
            if not last or self.last_norm:
                x = BatchNorm(groups=self.bn_groups, use_bias=not last, name=f'bn{i + 1}')(x, rows)
            x = x if last else nn.relu(x)
        return x
