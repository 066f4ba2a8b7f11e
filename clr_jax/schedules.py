"""Schedules: functions of the step, for learning rates and whatever else changes over a run."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from clr_jax.entry import known

Curve = Callable[[jax.Array], jax.Array]  # step, [] int32, from 0 -> value, [] float


def schedule(
    steps_per_epoch: int,
    total_steps: int,
    *,
    name: str = 'cosine',
    warmup_epochs: float = 0.0,
    warmup_from: float = 0.0,
    final: float = 0.0,
    per: str = 'step',
    milestones: tuple = (),
    factor: float = 0.1,
) -> Curve:
    """The multiplier of a learning rate at each step.

    First a line from `warmup_from` to 1, which it reaches at step `warmup_epochs` x
    `steps_per_epoch`. Then, over the steps that remain, `name`: 'cosine' or 'linear' from 1 to
    `final` at `total_steps` (and no restart), 'constant', or 'step', times `factor` at each of
    `milestones`, in epochs of the run. `per`='epoch' holds the value of an epoch's first step
    (MoCo v2, SimSiam); SimCLR, BYOL, SwAV and DINO go by 'step'. `warmup_from` and `final` are
    fractions: SwAV's 0.3 -> 4.8 -> 0.0048 is `warmup_from`=0.0625, `final`=0.001.
    """
    known([name], ('cosine', 'linear', 'constant', 'step'), 'name of a schedule')
    known([per], ('step', 'epoch'), '"per" of a schedule')
    warmup = round(warmup_epochs * steps_per_epoch)

    def multiplier(step):
        step = jnp.asarray(step)
        if per == 'epoch':
            step = step // steps_per_epoch * steps_per_epoch
        now = step.astype(float)  # float32, or float64 in a program that enables it
        progress = jnp.clip((now - warmup) / max(total_steps - warmup, 1), 0, 1)
        drops = sum((step >= round(epoch * steps_per_epoch)).astype(int) for epoch in milestones)
        shape = {
            'cosine': final + (1 - final) * (1 + jnp.cos(jnp.pi * progress)) / 2,
            'linear': final + (1 - final) * (1 - progress),
            'constant': jnp.ones_like(now),
            'step': factor**drops,
        }[name]
        rise = warmup_from + (1 - warmup_from) * now / max(warmup, 1)
        return jnp.where(step < warmup, rise, shape)

    return multiplier


def scaled(base: float, batch_size: int, scaling: str) -> float:
    """The peak learning rate of a global batch: 'linear' `base` x B / 256, 'sqrt' `base` x sqrt(B)
    (SimCLR, appendix B.1), 'none' `base`."""
    known([scaling], ('linear', 'sqrt', 'none'), 'optimizer.scaling')
    return base * {'linear': batch_size / 256, 'sqrt': math.sqrt(batch_size), 'none': 1}[scaling]
