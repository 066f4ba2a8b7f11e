"""Checkpoints: Orbax, with a fingerprint of every leaf, because Orbax returns a flipped bit as if
it were the truth."""

import json
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import lax

from clr_jax.entry import DATA, INPUT, Problem, absolute, writing
from clr_jax.log import say

TRASH = (
    'trash'  # steps are renamed into it and then deleted: none that is half deleted is ever listed
)


class Checkpoints:
    """The checkpoints of one run, under `workdir/checkpoints/<step>`. A step that exists restores,
    or says why not.

    keep: how many of the latest stay; the one with the best online accuracy stays too.
    """

    def __init__(self, workdir, keep: int = 3, read_only: bool = False):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

        self.ocp, self.read_only = ocp, read_only
        self.directory = epath.Path(absolute(str(workdir))) / 'checkpoints'
        accuracy = lambda metrics: metrics['top1']
        best = preservation.BestN(
            get_metric_fn=accuracy, n=1, keep_checkpoints_without_metrics=False
        )
        self._purge()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation.AnyPreservationPolicy(
                [preservation.LatestN(keep), best]
            ),
            best_fn=accuracy,  # without it Orbax keeps metrics in memory only
            best_mode='max',
            keep_checkpoints_without_metrics=False,
            todelete_subdir=None if read_only else TRASH,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self.manager = ocp.CheckpointManager(self.directory, options=options)
        self.damaged: list[int] = []  # newer steps than the one in use; the next save replaces them

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return sorted(self.manager.all_steps())

    def save(self, step: int, state, data: dict, top1: float | None = None):
        """Write `state` (a pytree of arrays) and `data` (JSON) in the background; they are copied
        before this returns."""
        about = {'data': data, 'leaves': describe(state)}
        items = self.ocp.args.Composite(
            state=self.ocp.args.StandardSave(state),
            about=self.ocp.args.JsonSave(about | {'crc': crc(about)}),
        )
        self.wait()
        while self.damaged:
            self.manager.delete(self.damaged.pop())
        self._purge()
        metrics = {'top1': top1} if top1 is not None and math.isfinite(top1) else None
        later = [other for other in self.steps() if other >= step]
        with writing(f'checkpoint {step} in {self.directory}'):
            written = not later and self.manager.save(step, args=items, metrics=metrics, force=True)
        if not written:
            raise RuntimeError(f'checkpoint {step} is not written: {self.directory} has {later}')

    def data(self, step: int | None = None) -> dict:
        """What was saved beside the state of the latest step, or of `step`."""
        return self._newest(step, self._about)[0]['data']

    def restore(self, like, step: int | None = None):
        """-> (state, data, step) of the latest step, or of `step`, placed as `like` (arrays or
        shapes with shardings).

        A state of another shape is refused with the first leaf that differs. A damaged latest step
        is named aloud and the one before it used; a damaged `step` that was asked for is an error.
        """
        (state, data), step = self._newest(step, lambda step: self._restore(step, like))
        return state, data, step

    def _newest(self, step, read):
        """-> (read(step), step) of the latest step whose files are whole, or of `step`."""
        steps = self.steps()
        if step not in (None, *steps):
            raise Problem(f'{self.directory} has no checkpoint {step}; it has {steps}', INPUT)
        self.damaged, reasons = [], []
        for candidate in [step] if step is not None else reversed(steps):
            try:
                return read(candidate), candidate
            except Problem:
                raise
            except (
                Exception
            ) as error:  # whatever Orbax, TensorStore or the fingerprint say of a damaged file
                reason = (
                    str(error).strip().splitlines()[0][:200]
                    if str(error).strip()
                    else type(error).__name__
                )
                reasons.append(f'step {candidate}: {reason}')
                if step is None:
                    self.damaged.append(candidate)
                    say(f'warning: a checkpoint is damaged, trying an older one: {reasons[-1]}')
        found = '; '.join(reasons) or 'none was written'
        raise Problem(
            f'no checkpoint in {self.directory} can be restored ({found})',
            DATA if reasons else INPUT,
        )

    def _about(self, step) -> dict:
        """The 'data' and the 'leaves' of a step."""
        args = self.ocp.args
        about = self.manager.restore(step, args=args.Composite(about=args.JsonRestore())).about
        if about.pop('crc') != crc(about):
            raise ValueError('its description differs from what was saved')
        return about

    def _restore(self, step, like):
        args, about = self.ocp.args, self._about(step)
        check_structure(about['leaves'], like, f'checkpoint {step} in {self.directory}')
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        state = self.manager.restore(
            step, args=args.Composite(state=args.StandardRestore(shapes))
        ).state
        for path, found in fingerprints(state).items():
            if found != about['leaves'][path]['fingerprint']:
                raise ValueError(f'{path} differs from what was saved')
        return state, about['data']

    def wait(self):
        """Until everything asked for is committed; raises what went wrong in the background."""
        with writing(f'a checkpoint in {self.directory}'):
            self.manager.wait_until_finished()

    def close(self):
        """Wait, and let go of the directory."""
        self.wait()
        self._purge()
        self.manager.close()

    def _purge(self):
        """Delete what Orbax moved aside."""
        trash = self.directory / TRASH
        if not self.read_only and jax.process_index() == 0 and trash.exists():
            trash.rmtree()


def describe(tree) -> dict:
    """{leaf path: {'shape', 'dtype', 'fingerprint'}} of a pytree of arrays."""
    prints = fingerprints(tree)
    return {path: about | {'fingerprint': prints[path]} for path, about in shapes(tree).items()}


def shapes(tree) -> dict:
    """{leaf path: {'shape', 'dtype'}} of a pytree of arrays."""
    return {
        path: {'shape': list(x.shape), 'dtype': str(x.dtype)} for path, x in paths(tree).items()
    }


def paths(tree) -> dict:
    """{'params/encoder/conv1/kernel': leaf} of a pytree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator='/'): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def fingerprints(tree) -> dict[str, int]:
    """{leaf path: uint32}: integer arithmetic on the bits and their positions, so equal on any
    devices and sharding."""
    return {path: int(x) for path, x in paths(jax.device_get(_fingerprint(tree))).items()}


def checksum(tree) -> str:
    """Eight hex digits for a whole pytree: its leaves' paths and fingerprints."""
    return f'{crc(fingerprints(tree)):08x}'


def crc(value) -> int:
    """Of a value that JSON can hold, whatever the order of its keys."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


@jax.jit
def _fingerprint(tree):
    def one(x):
        x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
        words = lax.bitcast_convert_type(
            x, jnp.uint8 if x.dtype.itemsize == 1 else f'uint{min(32, 8 * x.dtype.itemsize)}'
        )
        u = words.astype(jnp.uint32).reshape(-1)
        h = (u ^ (lax.iota(jnp.uint32, u.size) * np.uint32(0x9E3779B1))) * np.uint32(0x85EBCA6B)
        h = (h ^ (h >> 15)) * np.uint32(0xC2B2AE35)
        return (h ^ (h >> 13)).sum(dtype=jnp.uint32)

    return jax.tree.map(one, tree)


def check_structure(leaves: dict, like, where: str):
    """Refuse to restore what was saved as `leaves` into `like`, naming the first leaf that does not
    fit."""
    ours = paths(like)
    for path in sorted(ours.keys() | leaves.keys()):
        if path not in leaves:
            raise Problem(f'{where} lacks {path}: it is of another method, encoder or optimizer')
        if path not in ours:
            raise Problem(f'{where} has {path}, which this config has not: it is of another method')
        then, now = leaves[path], ours[path]
        if then['shape'] != list(now.shape) or then['dtype'] != str(now.dtype):
            ours_is = f'this config has {now.dtype}{list(now.shape)}'
            raise Problem(f'{where}: {path} is {then["dtype"]}{then["shape"]}, {ours_is}')
