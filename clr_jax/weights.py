"""Weights of other libraries, as safetensors files: an encoder reads and writes those of the network
it is a copy of by its module's `from_weights` and `to_weights` (bert.py: Hugging Face's, vit.py:
timm's)."""

import sys

import jax
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load, save

from clr_jax.checkpoint import check_structure, shapes
from clr_jax.entry import INPUT, Problem


def read(path) -> dict[str, np.ndarray]:
    """{name: array} of a safetensors file."""
    try:
        return load(epath.Path(path).read_bytes())
    except OSError as error:
        raise Problem(f'{path} cannot be read: {error.strerror}', INPUT) from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise Problem(f'{path} is not a safetensors file of numbers: {error}', INPUT) from error


def write(path, weights: dict):
    """A safetensors file of {name: array}."""
    # the library would write a transposed array as if it were not
    epath.Path(path).write_bytes(
        save({name: np.ascontiguousarray(x) for name, x in weights.items()})
    )


def encoder_weights(path, encoder, like):
    """The parameters of `encoder`, of the structure `like`, from the file `path`, in the types of
    `like`; one line says what makes them another network's."""
    module = sys.modules[type(encoder).__module__]
    if not hasattr(module, 'from_weights'):
        name = module.__name__.rsplit('.', 1)[1]
        raise Problem(f'config.pretrained.weights={path}: an encoder {name} reads no such files')
    weights = read(path)
    try:
        params = module.from_weights(weights)
    except Problem as problem:
        raise Problem(f'config.pretrained.weights={path}: {problem}', problem.code) from None
    params = jax.tree.map(lambda x: x.astype(np.float32), params)
    check_structure(shapes(params), like, f'config.pretrained.weights={path}')
    return params
