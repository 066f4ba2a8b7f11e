"""What a method is: a NamedTuple of pure functions, made by a factory named like its file
(`methods/simclr.py`: `simclr`)."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax import networks
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
    h: jax.Array  # [b, v, d] features of this shard's examples, of large crops only, for the probe
    z: jax.Array  # [b, v, e] their embeddings, for the health metrics


class State(NamedTuple):
    """The state of a method that keeps nothing but batch statistics."""

    stats: Any


def keep(params, state, *, key, time):
    """The `update` of a method that has none."""
    return params, state


def online(params, state):
    """The `variables` of a method that trains one network: all of it."""
    return {'params': params, 'batch_stats': state.stats}


def features(network, classifier=False):
    """The `features` of a method that trains one network: h and z of the only view, and the logits
    if its predictor is a classifier."""

    def evaluated(params, state, batch):
        out = networks.evaluate(network, params, state.stats, batch['views'][0])
        return {'h': out.h, 'z': out.z} | ({'logits': out.p} if classifier else {})

    return evaluated


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
    # (params, state) -> {'params': {'encoder': ..., ...}, 'batch_stats': ...}: what others start from
    variables: Callable = online
    # (params, state, features, *, key, time) -> (params, state), before an epoch's first step, of the
    # features of all training examples [n, d], in order: NumPy, evaluation mode
    refresh: Any = None
    # (params, state, batch, *, key) -> {name: [n, k, h, w, 3] in 0..1}, k pictures of each example
    pictures: Any = None


def make_time(step, steps_per_epoch: int, total_steps: int) -> Time:
    """The `Time` of a traced step number."""
    return Time(step, step // steps_per_epoch, step.astype(jnp.float32) / total_steps)


def ema(target, source, decay):
    """decay * target + (1 - decay) * source, leaf by leaf."""
    return jax.tree.map(lambda t, s: decay * t + (1 - decay) * s, target, source)


def check_views(batch, count: int, more=False):
    """Refuse a config that makes another number of views than the method contrasts. more: smaller
    crops may follow (multi-crop)."""
    made = [view.shape[1:3] for view in batch['views']]
    if len(made) < count or (len(made) > count and not more):
        some = f'{count} views of an example' + (' or more' if more else '')
        raise Problem(f'the method takes {some}; config.views makes {len(made)}')
    if more and len(made) > count and min(made[:count]) < max(made):
        order = 'config.views are numbered by the names of their groups'
        raise Problem(f'the first {count} views must be the largest, not {made}: {order}')


def crossed(views: int) -> list[tuple[int, int]]:
    """Each of the first two views with every other: [(0, 1), (0, 2), ..., (1, 0), (1, 2), ...], the
    pairs of multi-crop (Caron et al., 2020; arXiv:2006.09882, eq. 6)."""
    return [(first, other) for first in (0, 1) for other in range(views) if other != first]


def check_labels(name: str, classes: int):
    """Refuse data without labels, for the method `name` that learns from them."""
    if not classes:
        raise Problem(f'config.method.name={name} needs labels, and these data have none')


def rising(start, progress):
    """From `start` at progress 0 to 1 at progress 1 by a half cosine: the momentum of BYOL, MoCo v3
    and DINO."""
    return 1 - (1 - start) * (jnp.cos(jnp.pi * progress) + 1) / 2


def load(package: str, section: dict, part: str = '', **given):
    """`{'name': 'simclr', 'temperature': 0.5}` of `clr_jax.methods` ->
    `clr_jax.methods.simclr.simclr(encoder, temperature=0.5)`. part: the section of the config, if it
    is not named like the package.

    The file system is the list of what there is, the signature the list of what can be set: its
    keywords, and before them what it needs of what is `given`.
    """
    part = part or package.rsplit('.', 1)[1].rstrip('s')
    section = dict(section)
    factory = named(package, section.pop('name', None), part)
    check_keywords(factory, section, f'config.{part}')
    return factory(*(given[name] for name in needs(factory)), **section)


def named(package: str, name: str | None, part: str) -> Callable:
    """The function `name` of the file `name` of a package."""
    files = [m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    if name not in files:
        place = package.replace('.', '/')
        raise Problem(
            f'config.{part}.name={name!r} is not in {place}/: {nearest(str(name), files)}'
        )
    return getattr(importlib.import_module(f'{package}.{name}'), name)


def needs(factory: Callable) -> list[str]:
    """What it needs of a run: its positional parameters."""
    parameters = inspect.signature(factory).parameters.values()
    return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]


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
