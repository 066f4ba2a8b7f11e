"""A contrastive method as the auxiliary task of a learner of actions (CURL; Laskin et al., 2020;
arXiv:2004.04136): frames from its replay buffer in, representations out, both NumPy arrays.

    task = control.auxiliary(config.load('configs/curl_control.py').to_dict(), frames.shape[1:])
    state = task.init()
    state, metrics = task.update(state, frames)        # uint8 [b, h, w, c] of any steps, as they come
    h = task.encode(state, frames)                     # [n, d], evaluation mode
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from clr_jax import parallel
from clr_jax.data import frames as stacks
from clr_jax.data import index
from clr_jax.entry import Problem
from clr_jax.evaluate.features import forward
from clr_jax.train import describe, make_state, make_step


class Auxiliary(NamedTuple):
    """An auxiliary task; its state is the `train.TrainState` of any run."""

    init: Callable  # () -> state
    update: (
        Callable  # (state, frames uint8 [b, h, w, c]) -> (state, {name: float}); uses up `state`
    )
    encode: Callable  # (state, frames uint8 [n, h, w, c]) -> features [n, d]


def auxiliary(config: dict, shape: tuple, steps: int = 10**6) -> Auxiliary:
    """The method of a config whose only views are of frames. shape: (h, w, c) of what the buffer
    holds. steps: how long the run may be, for schedules.

    The crops of the n-th update are drawn by config.seed, n and the row.
    """
    groups = list(config['views'].values())
    if len(groups) != 1 or groups[0].get('name') != 'frames':
        raise Problem('config.views: an auxiliary task of control has one group, of frames')
    batch_size = config['batch_size']
    run = describe(config | {'steps': steps}, batch_size, 0)
    (view,) = run.views
    h, w, c = shape
    if min(h, w) + 2 * view.pad < view.size or c != view.channels:
        here = f'config.views asks for {view.size} pixels and {view.channels} channels'
        raise Problem(f'frames of shape {tuple(shape)}: {here}')
    mesh = parallel.make_mesh(groups=config['bn_groups'])
    parallel.check_batch(batch_size, mesh, config['bn_groups'], **config['accumulate'])
    pace: dict = {'steps_per_epoch': run.steps_per_epoch, 'total_steps': run.total_steps}
    pace |= {'seed': config['seed'], 'plain': config['accumulate']['plain']}
    step = make_step(run.method, run.optimizer, mesh, **pace)
    compiled = forward(run.method.features, mesh)
    numbers = {'label': np.full(batch_size, -1, np.int32), 'index': np.arange(batch_size)}
    numbers['index'] = numbers['index'].astype(np.int32)

    def crops(frames, number):
        keys = index.key(config['seed'], number, np.arange(batch_size))
        drawn = (stacks.sample(view, keys, k)['crop'] for k in range(view.copies))
        return tuple(stacks.cropped(view, frames, share) for share in drawn)

    def init():
        batch = {'views': crops(np.zeros((batch_size, *shape), np.uint8), 0)} | numbers
        return make_state(run.method, run.optimizer, mesh, batch, seed=config['seed'])

    def update(state, frames):
        if frames.shape != (batch_size, *shape) or frames.dtype != np.uint8:
            what = f'{frames.dtype} {list(frames.shape)}'
            raise ValueError(f'frames are {what}, not uint8 {[batch_size, *shape]}')
        batch = {'views': crops(frames, int(state.step))} | numbers
        state, metrics = step(state, parallel.spread(batch, mesh))
        return state, {name: float(value) for name, value in jax.device_get(metrics).items()}

    def encode(state, frames):
        n = len(frames)
        whole = np.concatenate([frames, np.zeros((-n % mesh.size, *shape), np.uint8)])
        centre = stacks.cropped(view, whole, np.full((len(whole), 2), 0.5))
        label = np.full(len(whole), -1, np.int32)
        batch = {'views': (centre,), 'label': label, 'index': label}
        found = compiled(state.params, state.state, parallel.spread(batch, mesh))
        return jax.device_get(found.h)[:n]

    return Auxiliary(init, update, encode)
