"""What tests of a step share: its arguments in float64 or without values, and its program."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax import parallel
from clr_jax.checkpoint import paths


def double(tree):
    """Every float leaf in float64."""
    floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    return jax.tree.map(lambda x: x.astype(np.float64) if floating(x) else x, tree)


def kinds(tree) -> dict:
    """{path: (shape and dtype, weakness)}: what a compiled step is specialised to."""
    kind = lambda x: (jax.typeof(x).str_short(), jax.typeof(x).weak_type)
    return {path: kind(x) for path, x in paths(tree).items()}


def arguments(mesh, ts, batch):
    """The arguments of a step without values: a state on every device, a batch spread by rows."""
    rows = jax.sharding.NamedSharding(mesh, jax.P(parallel.DATA))
    described = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
    return parallel.placed(ts, mesh), jax.tree.map(described, batch)


def all_reduced(text: str) -> list[str]:
    """Types of what a StableHLO program sums over devices, such as '8x4xf32'."""
    operands = re.findall(r'"stablehlo\.all_reduce"\(.*?\}\) : \((.*?)\) ->', text, re.DOTALL)
    return re.findall(r'tensor<([^>]*)>', ' '.join(operands))


def check_gradients_in_float32(text: str, params):
    """Each parameter's gradient is summed over the devices in float32, and nothing in less."""
    summed = all_reduced(text)
    for path, leaf in paths(params).items():
        assert leaf.dtype == jnp.float32, path
        kind = 'x'.join(map(str, (*leaf.shape, 'f32')))
        assert kind in summed, f'no gradient of {path}, {kind}, among {sorted(set(summed))}'
    assert {kind.split('x')[-1] for kind in summed} <= {'f32', 'i32'}
