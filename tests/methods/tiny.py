"""The least encoder and batch, and a step with them on any number of devices: what a method does
here it does with any encoder."""

from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clr_jax import parallel
from clr_jax.method import Time
from clr_jax.networks import BatchNorm
from tests.steps import double

BATCH = 16


class Linear(nn.Module):
    """[n, 4, 4, 3] (smaller crops are enlarged) -> [n, 6]; with `groups` above 0, a batch norm behind
    it."""

    groups: int = 0

    @nn.compact
    def __call__(self, x, rows):
        x = jnp.repeat(jnp.repeat(x, 4 // x.shape[1], 1), 4 // x.shape[2], 2)
        h = nn.Dense(6, dtype=x.dtype)(x.reshape(len(x), -1))  # [n, 6]
        return BatchNorm(groups=self.groups)(h, rows) if self.groups else h


def batch(views: int = 2, seed: int = 0, small: int = 0) -> dict:
    """Unlike views of 16 examples of 4 classes, in float64, `small` crops of them after the others."""
    rng = np.random.default_rng(seed)
    images = rng.random((BATCH, 4, 4, 3))
    made = tuple(images ** (1 + 0.3 * v) + 0.1 * v * rng.random(images.shape) for v in range(views))
    made += tuple(images[:, n % 3 :, 1:3][:, :2] ** (1.5 + 0.2 * n) for n in range(small))
    number = np.arange(BATCH, dtype=np.int32)
    return {'views': made, 'label': number % 4, 'index': number}


def start(method, views: int = 2, small: int = 0):
    """Parameters and state in float64, as everything here."""
    with jax.enable_x64(True):
        return jax.device_get(double(method.init(jax.random.key(1), batch(views, small=small))))


def now(step: int = 0, total: int = 10) -> Time:
    return Time(
        jnp.asarray(step, jnp.int32), jnp.asarray(step, jnp.int32), jnp.asarray(step / total)
    )


class Outcome(NamedTuple):
    """Of one step, in NumPy."""

    loss: Any  # [] of the global batch
    own: Any  # [devices] of each shard
    grads: Any
    state: Any
    h: Any  # [B, v, d]
    z: Any  # [B, v, e]
    metrics: dict


@cache
def compiled(method, devices: int, groups: int):
    """Loss, gradients and new state as `train.make_step` computes them, of (step, params, state,
    batch)."""
    mesh = parallel.make_mesh(jax.devices()[:devices], groups)

    def on_shard(step, params, state, data):
        key = jax.random.fold_in(jax.random.key(0), step)

        def objective(params):
            loss, aux = method.loss(params, state, data, key=key, time=now(step))
            return parallel.mean(loss), (aux, loss)

        (loss, (aux, own)), grads = jax.value_and_grad(objective, has_aux=True)(
            parallel.vary(params)
        )
        whole = lambda x: parallel.gather_state(parallel.vary(x))
        rest = aux.state, whole(aux.h), whole(aux.z), parallel.mean(aux.metrics)
        return Outcome(loss, whole(own[None]), parallel.reduce(grads), *rest)

    specs = jax.P(), jax.P(), jax.P(), jax.P(parallel.DATA)
    return mesh, jax.jit(parallel.shard(on_shard, mesh, specs, jax.P()))


def outcome(method, params, state, data, devices: int = 8, step: int = 0, groups: int = 1):
    """One step on a mesh."""
    with jax.enable_x64(True):
        mesh, run = compiled(method, devices, groups)
        return jax.device_get(run(jnp.int32(step), params, state, parallel.spread(data, mesh)))


def train(method, params, state, batches, rate: float = 0.1, devices: int = 2):
    """Plain gradient steps, one for each batch -> [(params, state, Outcome)], after each."""
    found = []
    for step, data in enumerate(batches):
        out = outcome(method, params, state, data, devices, step)
        params = jax.tree.map(lambda p, g: p - rate * g, params, out.grads)
        with jax.enable_x64(True):
            after = now(step + 1, len(batches))
            params, state = jax.device_get(
                method.update(params, out.state, key=jax.random.key(0), time=after)
            )
        found.append((params, state, out))
    return found


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def close(a, b, tolerance: float = 1e-9):
    """Two trees, leaf by leaf."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), a, b)
