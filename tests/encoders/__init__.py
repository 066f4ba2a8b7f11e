"""Tests of the encoders, and the variables they test them with."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


def begin(module, x):
    """The variables of a module as they begin; for the kernels, which take long to compile, noise
    of NumPy's."""

    def others(key):
        leaves = flatten_dict(module.init(key, jnp.asarray(x), None))
        return {path: leaf for path, leaf in leaves.items() if path[-1] != 'kernel'}

    rng = np.random.default_rng(0)
    shapes = flatten_dict(jax.eval_shape(module.init, jax.random.key(0), x, None))
    noise = {
        path: (rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(leaf.dtype)
        for path, leaf in shapes.items()
        if path[-1] == 'kernel'
    }
    return unflatten_dict(noise | jax.device_get(jax.jit(others)(jax.random.key(0))))
