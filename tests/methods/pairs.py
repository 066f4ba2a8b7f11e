"""Images and their texts: the least towers and batch, and what they compute in complex NumPy, whose
slopes along an imaginary step are exact."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.methods import tiny
from tests.steps import double

WORDS, LENGTH, DIM = 7, 5, 4


class Words(nn.Module):
    """Tokens [n, t] -> the mean of their vectors [n, 6], padding's among them."""

    @nn.compact
    def __call__(self, tokens, rows):
        table = self.param('tokens', nn.initializers.normal(1.0), (WORDS, 6))
        return table[tokens].mean(1)


def batch(seed: int = 0) -> dict:
    """Images of tiny.py and a text for each, in float64."""
    data = tiny.batch(1, seed)
    tokens = np.random.default_rng(seed).integers(1, WORDS, (tiny.BATCH, LENGTH))
    return data | {'views': (*data['views'], tokens.astype(np.int32))}


def start(method, pretrained=None):
    """Parameters and state in float64."""
    with jax.enable_x64(True):
        return jax.device_get(double(method.init(jax.random.key(1), batch(), pretrained)))


def embeddings(params, data):
    """[B, e] unit rows of the images and of the texts."""
    images, tokens = data['views']
    dense = params['encoder']['Dense_0']
    h = images.reshape(len(images), -1) @ dense['kernel'] + dense['bias']
    words = params['text_encoder']['tokens'][tokens].mean(1)
    project = lambda x, name: x @ params[name]['dense1']['kernel']
    length = lambda z: np.sqrt((z * z).sum(1, keepdims=True))  # also of complex numbers
    pair = project(h, 'projector'), project(words, 'text_projector')
    return tuple(z / length(z) for z in pair)


def gradient(equation, params):
    """The gradient of a real function of a tree of float64, entry by entry."""
    leaves = {path: np.array(x, complex) for path, x in flatten_dict(params).items()}
    slopes: dict[tuple, Any] = {}
    for path, x in leaves.items():
        slopes[path] = np.zeros(x.shape)
        for place in np.ndindex(x.shape):
            x[place] += 1e-30j
            slopes[path][place] = equation(unflatten_dict(leaves)).imag / 1e-30
            x[place] = x[place].real
    return unflatten_dict(slopes)


def check(method, equation, devices: int):
    """Loss and gradients of a step are those of equation(params, data) on the global batch."""
    params, state = start(method)
    data = batch()
    out = tiny.outcome(method, params, state, data, devices)
    np.testing.assert_allclose(out.loss, equation(params, data), rtol=1e-12)
    expected = gradient(lambda p: equation(p, data), params)
    assert min(np.abs(x).max() for x in jax.tree.leaves(expected)) > 1e-3
    tiny.close(out.grads, expected)
    tiny.close(out.z, np.stack(embeddings(params, data), 1))
    assert out.h.shape == (tiny.BATCH, 1, 6)
    return out


def lock(method, steps: int = 3):
    """The parameters before and after steps that leave the image tower alone, as LiT."""
    from clr_jax import optimizers, parallel, train

    pace = {'batch_size': tiny.BATCH, 'steps_per_epoch': steps, 'total_steps': steps}
    groups = {
        'image': {'pattern': '^encoder/', 'frozen': True},
        'no_decay': {'pattern': '(bias|scale)$', 'weight_decay': 0.0},
    }
    section = {'name': 'adamw', 'learning_rate': 0.01, 'weight_decay': 0.2}
    tx, mesh = optimizers.optimizer(section, groups, **pace), parallel.make_mesh()
    with jax.enable_x64(True):
        ts = train.make_state(method, tx, mesh, batch(), seed=0)
        before = jax.device_get(ts.params)
        run = {'seed': 0, 'steps_per_epoch': steps, 'total_steps': steps}
        step = train.make_step(method, tx, mesh, **run)
        metrics = []
        for n in range(steps):
            ts, found = step(ts, parallel.spread(batch(n), mesh))
            metrics.append(jax.device_get(found))
        return before, jax.device_get(ts.params), metrics


def pretrained(method, parts):
    """The named parts of another run of the method, as `train.others` takes them."""
    params, state = method.init(jax.random.key(7), batch())
    variables = method.variables(params, state)
    return {kind: {n: tree[n] for n in parts if n in tree} for kind, tree in variables.items()}


def evaluated(method):
    """What `features` finds of images alone, of texts alone and of both."""
    params, state = start(method)
    images, tokens = batch()['views']
    with jax.enable_x64(True):
        for views in ((images,), (tokens,), (images, tokens)):
            found = method.features(params, state, {'views': tuple(map(jnp.asarray, views))})
            yield jax.device_get(found)
