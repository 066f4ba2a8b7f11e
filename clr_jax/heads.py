"""Heads on top of an encoder's features."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.entry import Problem
from clr_jax.networks import BatchNorm, Network, normalize, wide

NORMS: dict[str, dict] = {  # the scale and offset that a batch norm learns; None: no norm
    'full': {},
    'scale': {'use_bias': False},
    'plain': {'use_scale': False, 'use_bias': False},
}
# U(-1 / sqrt(d), 1 / sqrt(d)), as torch initialises a linear layer of d inputs.
torch_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
gelu = partial(nn.gelu, approximate=False)


class MLP(nn.Module):
    """A projector or predictor, [n, d] -> [n, dims[-1]]: dense layers, each but the last with an
    activation, and where papers differ: norms and biases.

    The defaults are SimCLR's (Chen et al., 2020; the official code): no biases, a batch norm after
    every layer, the last with a scale but no offset. norm, last_norm: None or of `NORMS`.
    kernel_std: of normal initial weights; 0: torch's uniform ones. until: only the first layers,
    with their activation. unit: the rows that come out have length 1.
    """

    dims: tuple[int, ...]
    norm: str | None = 'full'
    bias: bool = False
    last_norm: str | None = 'scale'
    last_bias: bool = False
    kernel_std: float = 0.01
    until: int | None = None
    activation: Callable = nn.relu
    unit: bool = False
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
            x = x if last else self.activation(x)
        return normalize(x) if self.unit else x


def plain(dims, dtype=None) -> MLP:
    """An MLP without norms and with biases: the heads of MoCo, instance discrimination, SupCon."""
    linear: dict = {'norm': None, 'bias': True, 'last_norm': None, 'last_bias': True}
    return MLP(tuple(dims), **linear, kernel_std=0.0, dtype=dtype)


class Tanh(nn.Module):
    """[n, d] -> [n, d]: a dense layer and tanh, the head of BERT and SimCSE; its weights begin as
    BERT's, normal of standard deviation 0.02."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x, rows):
        normal = nn.initializers.normal(0.02)
        dense = nn.Dense(x.shape[-1], kernel_init=normal, dtype=self.dtype, name='dense')
        return nn.tanh(dense(x))


class WeightNormed(nn.Module):
    """A dense layer without bias, [n, d] -> [n, dim] in float32 at least, whose columns have length
    1, or learned lengths that begin at 1 (Salimans & Kingma, 2016; arXiv:1602.07868)."""

    dim: int
    learned: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x, rows):
        kernel = self.param('kernel', torch_uniform, (x.shape[-1], self.dim), jnp.float32)
        kernel = normalize(kernel, 0)
        if self.learned:
            ones = nn.initializers.ones
            kernel = kernel * self.param('length', ones, (self.dim,), jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        exact = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.matmul(x, kernel, preferred_element_type=exact)  # [n, dim]


class Heads(nn.Module):
    """Several heads on the same features, [n, d] -> [n, heads, e]. apart: each on its part of them,
    [n, heads d] -> [n, heads, e]."""

    heads: tuple[nn.Module, ...]
    apart: bool = False

    def __call__(self, x, rows):
        parts = jnp.split(x, len(self.heads), -1) if self.apart else [x] * len(self.heads)
        each = [head(part, rows) for head, part in zip(self.heads, parts, strict=True)]
        return jnp.stack(each, 1)  # [n, heads, e]


class Projection(nn.Module):
    """One dense layer without bias, [n, d] -> [n, dim], at first N(0, 1 / d): the heads of CLIP."""

    dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x, rows):
        init = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
        dense = nn.Dense(
            self.dim, use_bias=False, kernel_init=init, dtype=self.dtype, name='dense1'
        )
        return dense(x)  # [n, dim]


class Classifier(nn.Module):
    """Features [n, d] -> logits [n, classes], linear, in float32 at least; zero before training."""

    classes: int

    @nn.compact
    def __call__(self, x, rows):
        zeros = nn.initializers.zeros
        kernel = self.param('kernel', zeros, (x.shape[-1], self.classes), jnp.float32)
        bias = self.param('bias', zeros, (self.classes,), jnp.float32)
        return wide(x) @ kernel + bias


def classified(encoder, classes, projector=(), head_layers=0, **settings) -> Network:
    """An encoder, the first `head_layers` of a SimCLR projector's layers and a classifier, which is
    the network's predictor. projector: all its widths; settings: others of `MLP`."""
    if not 0 <= head_layers <= len(projector):
        layers = f'config.method.projector has {len(projector)} layers'
        raise Problem(f'config.method.head_layers={head_layers}: {layers}')
    head = MLP(tuple(projector), until=head_layers, **settings) if head_layers else None
    return Network(encoder, head, Classifier(classes))
