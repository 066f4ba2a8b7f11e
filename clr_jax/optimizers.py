"""LARS in its published variants (You et al., 2017; arXiv:1708.03888), SGD, AdamW (Loshchilov &
Hutter, 2019; arXiv:1711.05101), their schedules, and groups of parameters chosen by path."""

import inspect
import math
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clr_jax.entry import CONFIG, Problem, known
from clr_jax.schedules import Curve, scaled, schedule


def lars(
    learning_rate: float | Curve,
    *,
    weight_decay: float | Curve = 1e-6,
    momentum: float = 0.9,
    nesterov: bool = False,
    learning_rate_in: str = 'momentum',
    ratio: str = 'decayed',
    trust_coefficient: float = 1e-3,
    eps: float = 0.0,
    clip_ratio: bool = False,
    adapt: bool = True,
) -> optax.GradientTransformation:
    """Momentum SGD with steps in proportion to each tensor's norm. With u = g + weight_decay p:

        trust = trust_coefficient |p| / (|u| + eps)                      ratio='decayed'
        trust = trust_coefficient |p| / (|g| + weight_decay |p| + eps)   ratio='larc'
        m <- momentum m + rate trust u,  p <- p - m                      learning_rate_in='momentum'
        m <- momentum m + trust u,       p <- p - rate m                 learning_rate_in='update'

    SimCLR in TensorFlow: 'decayed', 'momentum'. BYOL, MoCo v3, Barlow Twins, VICReg: 'decayed',
    'update'. SwAV, DeepCluster v2 (apex LARC): 'larc', 'update', eps=1e-8. solo-learn: as SwAV with
    trust_coefficient=0.02 and `clip_ratio`, trust <- min(trust / rate, 1). Where p or the gradient
    that trust divides by is zero, trust is 1; 'larc' then does not decay either. `adapt`=False, for
    biases and norms in all but SwAV, is plain SGD. Both places of the rate agree only while it is
    constant.
    """
    known([ratio], ('decayed', 'larc'), 'ratio of lars')
    known([learning_rate_in], ('momentum', 'update'), 'learning_rate_in of lars')

    def at(value, count, p):
        return jnp.asarray(value(count) if callable(value) else value, p.dtype)

    def trusted(g, p, count):
        decay = at(weight_decay, count, p)
        u = g + decay * p
        if not adapt:
            return u
        p_norm, divisor = norm(p), norm(u if ratio == 'decayed' else g)
        nonzero = (p_norm > 0) & (divisor > 0)
        if ratio == 'larc':
            divisor += decay * p_norm
        trust = trust_coefficient * p_norm / jnp.where(nonzero, divisor + eps, 1)
        if clip_ratio:
            trust = jnp.minimum(trust / at(learning_rate, count, p), 1)
        return jnp.where(nonzero, trust * u, u if ratio == 'decayed' else g)

    def update(grads, count, params):
        updates = jax.tree.map(lambda g, p: trusted(g, p, count), grads, params)
        return updates, optax.safe_increment(count)

    trust = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
    rate, buffer = optax.scale_by_learning_rate(learning_rate), optax.trace(momentum, nesterov)
    rest = (rate, buffer) if learning_rate_in == 'momentum' else (buffer, rate)
    return optax.chain(trust, *rest)


def sgd(
    learning_rate: float | Curve,
    *,
    weight_decay: float | Curve = 1e-4,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """Momentum SGD; the weight decay is part of the gradient (MoCo, SimSiam)."""
    plain = partial(lars, learning_rate_in='update', adapt=False)
    return plain(learning_rate, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov)


def adamw(
    learning_rate: float | Curve,
    *,
    weight_decay: float | Curve = 0.1,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam with decoupled decay, p <- p - rate (adam(g) + weight_decay p) (MoCo v3, DINO)."""
    return optax.chain(
        optax.scale_by_adam(b1, b2, eps),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def clip_each(limit: float) -> optax.GradientTransformation:
    """Every tensor's gradient shortened to a norm of at most `limit` by itself (DINO)."""

    def clip(g):
        return g * jnp.minimum(1, limit / (norm(g) + 1e-6))

    return optax.stateless(lambda grads, params: jax.tree.map(clip, grads))


def freeze_until(step: int, inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Nothing moves or accumulates before `step`, when `inner` begins at its own step 0."""

    def init(params):
        return jnp.zeros((), jnp.int32), inner.init(params)

    def update(grads, state, params=None):
        count, before = state
        updates, after = inner.update(grads, before, params)
        updates = jax.tree.map(lambda u: jnp.where(count < step, 0, u), updates)
        after = jax.tree.map(lambda old, new: jnp.where(count < step, old, new), before, after)
        return updates, (optax.safe_increment(count), after)

    return optax.GradientTransformation(init, update)


def each(optimizers: dict) -> optax.GradientTransformation:
    """One optimizer for each entry of a dict of parameter trees. None sees the others' parameters:
    patterns, norms and every bit are those of the entry alone."""

    def init(params):
        return {name: tx.init(params[name]) for name, tx in optimizers.items()}

    def update(grads, state, params):
        pairs = {n: tx.update(grads[n], state[n], params[n]) for n, tx in optimizers.items()}
        return tuple({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))

    return optax.GradientTransformation(init, update)


# From a config, as plain dicts. Mistakes in it end in a Problem.


def learning_rate(
    section: dict, *, batch_size: int, steps_per_epoch: int, total_steps: int
) -> Curve:
    """Step -> the learning rate of parameters in no group; `section` as for `optimizer`."""
    base = number(section.get('learning_rate'), 'optimizer.learning_rate')
    peak = scaled(base, batch_size, section.get('scaling', 'none'))
    times = {'steps_per_epoch': steps_per_epoch, 'total_steps': total_steps}
    multiplier = shape(section.get('schedule', {}), 'optimizer.schedule', **times)
    return lambda step: peak * multiplier(step)


def optimizer(
    section: dict, groups: dict, *, batch_size: int, steps_per_epoch: int, total_steps: int
) -> optax.GradientTransformation:
    """The optimizer of a run.

    `section`: name (lars, sgd, adamw), learning_rate with its scaling ('none' if absent), schedule
    (keywords of `schedule`), and keywords of the named function. weight_decay may change over the
    run: {'start': 0.04, 'end': 0.4, and keywords of `schedule`}. layer_decay: each layer below the
    classifier moves that much less than the one above it (`layered`); 1 if absent. clip: the norm
    that the gradient of all parameters together, but of the frozen, is shortened to before all else
    (Pascanu et al., 2013; arXiv:1211.5063, algorithm 1); 0, or absent: none.

    `groups`: name -> {'pattern': a regular expression searched for in parameter paths such as
    'encoder/bn1/scale', ...} with any of learning_rate (a multiplier), schedule (instead of the
    run's), clip (`clip_each`, before all else), frozen (for ever), freeze_until (a step), and the
    keywords of the named function, such as weight_decay or adapt. None is as good as absent.
    A parameter obeys all groups it matches; these have no order, so they must not disagree.

    Raises Problem for unknown names and keys and impossible numbers; on meeting the parameters,
    for a pattern that matches none and for groups that disagree about one.
    """
    makers = {make.__name__: make for make in (lars, sgd, adamw)}
    known([section.get('name')], makers, 'optimizer.name')
    make = makers[section['name']]
    own = [*inspect.signature(make).parameters][1:]
    general = ['name', 'learning_rate', 'scaling', 'schedule', 'layer_decay', 'clip']
    known(section, [*general, *own], 'optimizer')
    layer_decay = number(section.get('layer_decay', 1.0), 'optimizer.layer_decay', zero=False)
    limit = number(section.get('clip', 0.0), 'optimizer.clip')
    times = {'steps_per_epoch': steps_per_epoch, 'total_steps': total_steps}

    def transformation(group, where):
        """For the parameters whose groups together say `group`."""
        if group.get('frozen'):
            return optax.set_to_zero()
        first = max(group.get('freeze_until', 0), 0)
        multiplier = number(group.get('learning_rate', 1.0), f'{where} learning_rate')
        run = section | {key: group[key] for key in ('schedule', *own) if key in group}
        rate = learning_rate(run, batch_size=batch_size, **times)
        options = {key: run[key] for key in own if key in run}
        if 'weight_decay' in run:
            decay = weight(run['weight_decay'], f'{where} weight_decay', **times)
            options['weight_decay'] = lambda step: decay(step + first)
        tx = make(lambda step: multiplier * rate(step + first), **options)
        if 'clip' in group:
            tx = optax.chain(clip_each(number(group['clip'], f'{where} clip', zero=False)), tx)
        return freeze_until(first, tx) if first else tx

    keys = ['pattern', 'learning_rate', 'schedule', 'clip', 'frozen', 'freeze_until', *own]
    transformation({}, 'optimizer')
    for name, group in groups.items():
        known(group, keys, f'optimizer group "{name}"')
        try:
            re.compile(group.get('pattern'))
        except (TypeError, re.error) as error:
            raise Problem(f'optimizer group "{name}": pattern: {error}', CONFIG) from error
        transformation(stated(group), f'optimizer group "{name}"')

    def divided(params):
        labels, merged = divide(params, groups)
        parts = {label: transformation(group, label) for label, group in merged.items()}
        tx = optax.partition(parts, labels)
        if not limit:
            return tx
        moving = jax.tree.map(lambda label: not merged[label].get('frozen'), labels)
        return optax.chain(optax.masked(optax.clip_by_global_norm(limit), moving), tx)

    tx = optax.GradientTransformation(
        lambda params: divided(params).init(params),
        lambda grads, state, params: divided(params).update(grads, state, params),
    )
    return tx if layer_decay == 1 else layered(tx, layer_decay)


def layered(tx: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """`tx` with the updates of the encoder's layer l times decay^(depth + 1 - l), as in BEiT (Bao et
    al., 2021; arXiv:2106.08254) and MAE; those of other parts are as they were."""

    def init(params):
        layers(params)
        return tx.init(params)

    def update(grads, state, params):
        updates, state = tx.update(grads, state, params)
        number, depth = layers(params)

        def scale(name, u):
            factor = jnp.asarray(decay ** (depth + 1 - number[name]), u.dtype)  # [] or [depth]
            return u * factor.reshape(-1, *(1,) * (u.ndim - 1)) if factor.ndim else u * factor

        parts = updates['encoder'].items()
        scaled = {name: jax.tree.map(partial(scale, name), part) for name, part in parts}
        return updates | {'encoder': scaled}, state

    return optax.GradientTransformation(init, update)


def layers(params) -> tuple[dict[str, Any], int]:
    """{name of a part of the encoder: its layer}, from 0 to depth + 1, and the depth.

    In a `vit` the blocks are 1 to depth, what comes before them is 0, the norm after them depth + 1;
    in a `resnet` its stages are 1 to 4, the stem is 0; in a `convnet` convolutions count from 1.
    """
    encoder = params.get('encoder', {})
    number = dict.fromkeys(encoder, 0)
    if 'blocks' in encoder:  # stacked
        depth = len(jax.tree.leaves(encoder['blocks'])[0])
        return number | {'blocks': np.arange(1, depth + 1), 'norm': depth + 1}, depth
    counted = r'layer(\d+)_\d+' if 'layer1_0' in encoder else r'[a-z]+(\d+)'
    for name in encoder:
        if match := re.fullmatch(counted, name):
            number[name] = int(match[1])
    depth = max(number.values(), default=0)
    if not depth:
        raise Problem('optimizer.layer_decay: there is no encoder whose layers are known', CONFIG)
    return number, depth


def divide(params, groups: dict) -> tuple[Any, dict]:
    """A tree of labels, each the names of all groups that a parameter matches, and what these
    groups together say of it: label -> settings."""
    paths = jax.tree.map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator='/'), params
    )
    for name, group in groups.items():
        if not any(re.search(group['pattern'], path) for path in jax.tree.leaves(paths)):
            nothing = f'optimizer group "{name}": no parameter matches "{group["pattern"]}"'
            raise Problem(f'{nothing}; there are {jax.tree.leaves(paths)[:6]} ...', CONFIG)
    merged: dict[str, dict] = {}

    def label(path):
        names = [name for name, group in groups.items() if re.search(group['pattern'], path)]
        settings: dict[str, Any] = {}
        said_by: dict[str, str] = {}
        for name in names:
            for key, value in stated(groups[name]).items():
                if settings.setdefault(key, value) != value:
                    both = f'optimizer groups "{said_by[key]}" and "{name}" disagree'
                    raise Problem(f'{both} about {key} of {path}: {settings[key]}, {value}', CONFIG)
                said_by.setdefault(key, name)
        label = '+'.join(['all', *names])
        merged[label] = settings
        return label

    return jax.tree.map(label, paths), merged


def stated(group: dict) -> dict:
    return {key: value for key, value in group.items() if key != 'pattern' and value is not None}


def shape(section: dict, where: str, **times) -> Curve:
    known(section, [*inspect.signature(schedule).parameters][2:], where)
    return schedule(**times, **section)


def weight(value, where: str, **times) -> Curve:
    if not isinstance(value, dict):
        return optax.constant_schedule(number(value, where))
    start, end = (number(value.get(key), f'{where}.{key}') for key in ('start', 'end'))
    section = {key: value[key] for key in value if key not in ('start', 'end')}
    fade = shape(section, where, **times)
    return lambda step: end + (start - end) * fade(step)


def norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def number(value, where: str, zero: bool = True) -> float:
    if not isinstance(value, (int, float)) or not 0 <= value < math.inf or not (value or zero):
        least = 'from 0 up' if zero else 'above 0'
        raise Problem(f'{where} is {value}; it must be a number {least}', CONFIG)
    return value
