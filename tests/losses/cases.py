"""A loss beside its equation: in value and gradient, on any number of devices."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from clr_jax import parallel
from tests import oracles
from tests.oracles import assert_close

B, D, K = 8, 5, 6
DEVICES = [None, 1, 2, 8]  # None: a plain function, outside any mesh


class Case(NamedTuple):
    """A loss and its oracle, both functions of `arrays`, which are differentiated, then of `given`.

    arrays and given hold the rows of the global batch, but those whose number is in `whole`.
    constant: the oracle takes the arrays a second time, as constants.
    """

    loss: Callable
    oracle: Callable
    arrays: tuple
    given: tuple = ()
    whole: tuple = ()
    constant: bool = False

    def expected(self):
        """The value and the gradients of the equation, in float64."""
        arrays = [np.asarray(x, np.float64) for x in self.arrays]
        rest = [*self.given, *(arrays if self.constant else [])]
        equation = lambda *arrays: self.oracle(*arrays, *rest)
        return equation(*arrays), oracles.gradient(equation, *arrays)

    def of(self, dtype):
        """The case with its arrays rounded to another type."""
        return self._replace(arrays=tuple(jnp.asarray(x, dtype) for x in self.arrays))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def on_devices(devices, case):
    """-> (value, gradients) of replicated arrays, as `train.make_step` takes them."""

    def objective(arrays):
        mine = parallel.positions(B // parallel.size())
        arrays = [x if n in case.whole else x[mine] for n, x in enumerate(arrays)]
        return parallel.mean(case.loss(*arrays, *(jnp.asarray(x)[mine] for x in case.given)))

    if devices is None:
        return jax.jit(jax.value_and_grad(objective))(list(case.arrays))

    def gradient(arrays):
        value, grads = jax.value_and_grad(objective)(parallel.vary(arrays))
        return value, parallel.reduce(grads)

    mesh = parallel.make_mesh(jax.devices()[:devices], groups=2)
    return jax.jit(parallel.shard(gradient, mesh, P(), P()))(list(case.arrays))


def assert_equation(case, devices, expected=None, tolerance=1e-5):
    value, grads = on_devices(devices, case)
    true_value, true_grads = expected or case.expected()
    assert_close(value, true_value, tolerance)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert_close(grad, true_grad, tolerance)


def assert_bfloat16_is_widened(case):
    """The loss of bfloat16 arrays is computed in float32; gradients are rounded twice, by 2^-8."""
    case = case.of(jnp.bfloat16)
    value, grads = on_devices(2, case)
    true_value, true_grads = case.expected()
    assert value.dtype == jnp.float32
    assert_close(value, true_value)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert grad.dtype == jnp.bfloat16
        assert_close(grad, true_grad, 2**-8 + 2**-8)  # on its shard, and in the sum over two shards
