"""What a method is: a NamedTuple of pure functions, made by a factory named like its file
(`methods/simclr.py`: `simclr`)."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax.entry import Problem, nearest


class Time(NamedTuple):
    """When a step happens. Integers decide boundaries; `progress` is for the shapes of schedules
    only."""

    step: jax.Array  # [] int32, exact
    epoch: jax.Array  # [] int32, exact: step // steps_per_epoch
    progress: jax.Array  # [] in [0, 1)


class Aux(NamedTuple):
    """What a loss says besides its value."""

    state: Any  # the method's new state, same structure as before
    metrics: dict  # scalars, means over this shard's examples
    h: jax.Array  # [b, v, d] features of this shard's examples, for the probe
    z: jax.Array  # [b, v, e] their embeddings, for the health metrics


class State(NamedTuple):
    """The state of a method that keeps nothing but batch statistics."""

    stats: Any


def keep(params, state, *, key, time):
    """The `update` of a method that has none."""
    return params, state


def online(params, state):
    """The `encoder` of a method with one network: its encoder's variables."""
    return {'params': params['encoder'], 'batch_stats': state.stats.get('encoder', {})}


class Method(NamedTuple):
    """A self-supervised method: pure functions.

    `params` is what the optimizer trains, `state` everything else that changes.
    """

    # (key, batch, pretrained=None) -> (params, state), from shapes alone
    init: Callable
    # (params, state, batch, *, key, time) -> (loss, Aux), on this shard's rows
    loss: Callable
    # (params, state, batch) -> {'h': [n, d], ...}, evaluation mode: what protocols use
    features: Callable
    # (params, state, *, key, time) -> (params, state), whole arrays, after the optimizer
    update: Callable = keep
    # (params, state) -> the variables to keep
    encoder: Callable = online


def make_time(step, steps_per_epoch: int, total_steps: int) -> Time:
    """The `Time` of a traced step number."""
    return Time(step, step // steps_per_epoch, step.astype(jnp.float32) / total_steps)


def ema(target, source, decay):
    """decay * target + (1 - decay) * source, leaf by leaf."""
    return jax.tree.map(lambda t, s: decay * t + (1 - decay) * s, target, source)


def load(package: str, section: dict, *args):
    """`{'name': 'simclr', 'temperature': 0.5}` of `clr_jax.methods` ->
    `clr_jax.methods.simclr.simclr(*args, temperature=0.5)`.

    The file system is the list of what there is, the signature the list of what can be set.
    """
    part = package.rsplit('.', 1)[1].rstrip('s')
    section = dict(section)
    name = section.pop('name', None)
    files = [m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    if name not in files:
        place = package.replace('.', '/')
        raise Problem(f'config.{part}.name={name!r} is not in {place}/: {nearest(name, files)}')
    factory = getattr(importlib.import_module(f'{package}.{name}'), name)
    check_keywords(factory, section, f'config.{part}')
    return factory(*args, **section)


def check_keywords(factory, section: dict, where: str):
    """Refuse keys of a config section that `factory` does not take by keyword."""
    known = [
        p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    for key in section:
        if key not in known:
            raise Problem(
                f'{where}.{key}: {factory.__name__} has no such setting; {nearest(key, known)}'
            )
