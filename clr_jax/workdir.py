"""The folder of a run: that it is this run's, that nobody else writes to it, and that coming back to it
leads on."""

import fcntl
import json
import os
import socket
from contextlib import contextmanager
from datetime import datetime

import jax
from etils import epath

from clr_jax import config as configs
from clr_jax import parallel
from clr_jax.data import text, tokens
from clr_jax.entry import CONFIG, NO_PROGRESS, Problem, writing

STARTS = 3  # from one checkpoint, of which each ended in a crash or a kill
# What a run may change when it goes on.
FREE = (
    *('log_every', 'checkpoint_every', 'keep', 'evaluation.', 'data.data_dir', 'data.path'),
    *('data.max_bad_fraction', 'sharded', 'accumulate.exact', 'compiler_options', 'stuck_after'),
    *('encoder.remat', 'text_encoder.remat', 'profile'),
)


def check(workdir, config: dict):
    """Refuse a place where something else than this run lives."""
    path = epath.Path(workdir)
    if path.exists() and not path.is_dir():
        raise Problem(f'--workdir={workdir} is a file')
    if (path / 'config.json').exists():
        found = configs.differences(configs.saved(workdir), config)
        changed = [difference for difference in found if not difference.startswith(FREE)]
        if changed:
            these = '; '.join(difference[:200] for difference in changed[:3])
            raise Problem(
                f'{workdir} holds a run of another config ({these}): use another --workdir'
            )
    elif path.exists() and any(p.name not in ('config.tmp', 'lock') for p in path.iterdir()):
        raise Problem(f'--workdir={workdir} is not empty and holds no run: use another')


def claim(workdir, config: dict, tokenizer=None):
    """Write the config of the run, and its tokenizer, to its `workdir`, which all processes must
    share."""
    if jax.process_index() == 0:
        with writing(f'--workdir={workdir}'):
            epath.Path(workdir).mkdir(parents=True, exist_ok=True)
            configs.save(config, workdir)
            if tokenizer:
                tokens.save(tokenizer, epath.Path(workdir) / text.KEPT)
    parallel.each_process([0])  # none looks before it is written
    seen = parallel.each_process([(epath.Path(workdir) / 'config.json').exists()])[:, 0]
    if not seen.all():
        blind = [process for process, there in enumerate(seen) if not there]
        raise Problem(f'processes {blind} do not see --workdir={workdir}: it must be shared by all')


@contextmanager
def occupied(workdir, newest: int):
    """Have `workdir` for this run alone, which goes on from its checkpoint `newest` (0: none).
    -> ours(), to be called before something is written.

    `workdir/lock` names the process. Where the file system can lock it, a second run is refused, and
    the lock of a dead one is free at once. A bucket cannot: there the later run takes over, and the
    earlier, if it still lives, is refused by `ours` before its next checkpoint. A run that ends in
    order removes the file, so that one that is found tells of a crash or a kill; after `STARTS`
    of them from the same checkpoint another start is refused.

    Raises Problem, in the first process, which is the one that looks.
    """
    if jax.process_index():
        yield lambda: None
        return
    path, held = epath.Path(workdir) / 'lock', None
    try:
        with writing(f'--workdir={workdir}'):
            path.parent.mkdir(parents=True, exist_ok=True)
            held = _lock(path)
            me = _signed(path, newest)
        try:
            yield lambda: _check_ours(path, me)
        except (Problem, KeyboardInterrupt):
            _leave(path, me)
            raise
        _leave(path, me)
    finally:
        if held is not None:
            os.close(held)


def _signed(path, newest: int) -> dict:
    """What the lock says from now on: who we are, and how often a run has started from here."""
    last = _read(path)
    starts = 1 + (last.get('starts', 0) if last.get('newest') == newest else 0)
    if starts > STARTS:
        raise Problem(
            f'{STARTS} runs in {path.parent} were killed or crashed before the first checkpoint after '
            f'step {newest}: mend what ended them or lower config.checkpoint_every, and remove {path}',
            NO_PROGRESS,
        )
    me = {'host': socket.gethostname(), 'pid': os.getpid(), 'began': f'{datetime.now()}'}
    me |= {'newest': newest, 'starts': starts}
    path.write_text(json.dumps(me))
    return me


def _check_ours(path, me: dict):
    other = _read(path)
    if other and other != me:
        raise Problem(f'{path.parent} was taken over by {_named(other)}', CONFIG)


def _leave(path, me: dict):
    if _read(path) == me:
        path.unlink()
    if path.parent.exists() and not any(path.parent.iterdir()):
        path.parent.rmdir()  # nothing was written


def _lock(path):
    """The file at `path`, made and locked: a descriptor, or None where there are no locks."""
    if '://' in os.fspath(path):
        return None
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            holder = _named(_read(path))
            raise Problem(f'{path.parent} is in use by {holder}: use another --workdir') from None
        except OSError:  # of a network's file system
            os.close(file)
            return None
        if path.exists() and os.path.samestat(os.fstat(file), os.stat(path)):
            return file
        os.close(file)  # its last holder has just removed it


def _read(path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # absent, or cut by a kill
        return {}


def _named(holder: dict) -> str:
    whose = f'process {holder.get("pid")} on {holder.get("host")}'
    return f'{whose}, since {str(holder.get("began"))[:19]}'
