"""Faults, as they happen to runs: machines that vanish, stand still or are taken away, disks that fill, bits
that flip. `make faults` makes them happen many times, to real runs, for hours; the tests make some of
them once. What is lost or hangs is an AssertionError.

`python -m tests.faults [scenario ...] [--times=N]` runs some of them, each so many times.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from clr_jax.checkpoint import paths
from clr_jax.entry import CONFIG, OUTPUT, PREEMPTED
from clr_jax.train import restore
from tests.conftest import ROOT

RUN = {
    'steps': 24,
    'batch_size': 32,
    'log_every': 4,
    'checkpoint_every': 4,
    'keep': 6,
    # AdamW's 1e-8 makes a step as large as the rate of the rounding in a gradient of zero.
    'optimizer.eps': 1e-3,
    # A wrong gradient shows at any rate, while rounding, where a channel is nearly dead, grows with it.
    'optimizer.learning_rate': 2e-4,
    'evaluation.every': 0,
    'evaluation.train_examples': 64,
    'evaluation.test_examples': 64,
}
HEARTBEAT = 10  # seconds
KEEP_PROGRAMS = {  # for the next start, however small they are
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
}


def flags(workdir, **changes) -> list[str]:
    """Of one small run."""
    settings = [f'--config.{key}={value}' for key, value in (RUN | changes).items()]
    return ['--config=configs/simclr_digits.py:smoke', f'--workdir={workdir}', *settings]


class Pod:
    """A run as several processes of this machine, by `launch/local_pod.sh`."""

    def __init__(
        self, workdir, processes=2, devices=2, command=(), timeout=60, programs=None, **changes
    ):
        self.logs, self.workdir = Path(tempfile.mkdtemp()), Path(workdir)
        script = [ROOT / 'launch' / 'local_pod.sh', '-n', processes, '-d', devices]
        command = command or ('-m', 'clr_jax.main')
        program = [sys.executable, *command, *flags(workdir, **changes)]
        words = [*script, '-g', 20, '-l', self.logs, '--', *program]
        words += [f'--heartbeat_timeout={HEARTBEAT}', f'--start_timeout={timeout}']
        words += [f'--compilation_cache={programs or self.workdir.parent / "programs"}']
        with (self.logs / '0').open('w') as said:
            env = os.environ | {'PYTHONPATH': str(ROOT)} | KEEP_PROGRAMS
            run = [*map(str, words)]
            self.process = subprocess.Popen(run, cwd=ROOT, env=env, stdout=said, stderr=said)

    def said(self, process: int) -> str:
        """What a process wrote so far."""
        return (self.logs / str(process)).read_text()

    def pid(self, process: int) -> int:
        """Of one of the processes."""
        while not (line := self.said(0).partition(';')[0]).startswith('local_pod: processes'):
            time.sleep(0.01)
        return int(line.split()[2 + process])

    def until(self, step: int):
        """Wait until a step after `step` is committed. -> self"""
        while max(committed(self.workdir), default=0) <= step:
            assert self.process.poll() is None, self.said(0)
            time.sleep(0.005)
        return self

    def signal(self, process: int, kind: int):
        """-> self"""
        os.kill(self.pid(process), kind)
        return self

    def end(self) -> int:
        """The exit code of the pod, which comes within a time."""
        try:
            return self.process.wait(timeout=900)
        finally:
            self.process.terminate()


def committed(workdir) -> list[int]:
    """Steps of which there is a checkpoint."""
    folder = Path(workdir) / 'checkpoints'
    names = [p.name for p in folder.iterdir()] if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def differing(workdir, other, step: int | None = None) -> list[str]:
    """Leaves of the checkpoints of two runs, at their end or at `step`, that are not equal in every
    bit."""
    (_, a, _), (_, b, _) = (restore(w, -1 if step is None else step) for w in (workdir, other))
    a, b = paths(a), paths(b)
    assert a.keys() == b.keys()
    return [p for p in a if np.asarray(a[p]).tobytes() != np.asarray(b[p]).tobytes()]


def struck(workdir, process: int, kind: int, delay: float = 0.0, **of):
    """One process of a pod is killed or stands still, `delay` seconds after it has saved a step: all
    end, and what was committed stays."""
    pod = Pod(workdir, **of).until(max(committed(workdir), default=0))
    time.sleep(delay)
    before = committed(workdir)
    code = pod.signal(process, kind).end()
    assert code not in (0, PREEMPTED), pod.said(0)
    assert set(before) <= set(committed(workdir))


def preempted(workdir, process: int = 1, **of) -> int:
    """One process of a pod is told to leave: all save the same step, which is returned."""
    last = max(committed(workdir), default=0)
    pod = Pod(workdir, **of).until(last).signal(process, signal.SIGTERM)
    assert pod.end() == PREEMPTED, pod.said(0) + pod.said(1)
    steps = {said(line) for i in range(of.get('processes', 2)) for line in pod.said(i).splitlines()}
    (step,) = steps - {None}
    assert committed(workdir)[-1] == step
    return step


def said(line: str) -> int | None:
    """The step that a process says it has saved."""
    return int(line.split()[2]) if line.startswith('preempted: step ') else None


def finished(workdir, **of) -> Pod:
    """A run to its end."""
    pod = Pod(workdir, **of)
    assert pod.end() == 0, pod.said(0)
    assert committed(workdir)[-1] == RUN['steps']
    return pod


# Many times: `make faults`.

FAULTY = """
import sys, time
import clr_jax.main
from clr_jax import entry, log

kind, process = sys.argv.pop(1), sys.argv.pop(1)
chosen = f'--process={process}' in sys.argv
if chosen and kind == 'absent':
    time.sleep(10**6)
if chosen and kind == 'differ':
    sys.argv.append('--config.seed=7')

def before(self, step):
    if chosen and step == 6:
        if kind == 'raise':
            raise ValueError('a bug')
        if kind == 'exit':
            sys.exit(3)
        if kind == 'sleep':
            time.sleep(10**6)

log.Profile.before = before
entry.run(clr_jax.main.main)
"""


def faulty(folder, rng, kind: str, **of) -> tuple[int, Pod]:
    """A pod of which one process goes wrong in a way of its own. -> its exit code, and itself"""
    chosen = str(rng.randrange(2))
    pod = Pod(folder / 'run', command=('-c', FAULTY, kind, chosen), **of)
    return pod.end(), pod


def until_done(folder, rng, straight, fault, **of):
    """A run with a fault in each start, as long as there is time for one, ends as the one left alone, and every
    checkpoint on its way is that one's."""
    workdir = folder / 'run'
    while max(committed(workdir), default=0) < RUN['steps'] - 12:
        fault(workdir, rng)
        for step in committed(workdir):
            if step in committed(straight):
                assert differing(straight, workdir, step) == []
    finished(workdir, **of)
    assert differing(straight, workdir) == []


def kill(processes: int):
    """-> the scenario in which processes are killed at any moment."""

    def scenario(folder, rng):
        of = {'processes': processes, 'devices': 4 // processes}
        strike = lambda workdir, rng: struck(
            workdir, rng.randrange(processes), signal.SIGKILL, rng.uniform(0, 1), **of
        )
        until_done(folder, rng, left_alone(folder, **of), strike, **of)

    return scenario


def left_alone(folder, **of):
    """The workdir of a run without faults, made once."""
    workdir = folder.parent / f'alone_{of.get("processes", 2)}'
    if RUN['steps'] not in committed(workdir):
        finished(workdir, **of)
    return workdir


def stop(folder, rng):
    """Processes stand still."""
    strike = lambda workdir, rng: struck(workdir, rng.randrange(2), signal.SIGSTOP)
    until_done(folder, rng, left_alone(folder), strike)


def preempt(folder, rng):
    """Processes are told to leave."""
    until_done(folder, rng, left_alone(folder), lambda w, rng: preempted(w, rng.randrange(2)))


def crash(folder, rng):
    """An exception in one process, or its exit."""
    for kind in ('raise', 'exit'):
        code, pod = faulty(folder, rng, kind)
        assert code not in (0, PREEMPTED), pod.said(0)


def stuck(folder, rng):
    """One process waits for ever, alive."""
    code, pod = faulty(folder, rng, 'sleep', stuck_after=90.0)
    assert code != 0
    assert 'error: stuck: nothing was done for 90 s (config.stuck_after)' in pod.said(0) + pod.said(
        1
    )


def absent(folder, rng):
    """One process never starts."""
    code, _ = faulty(folder, rng, 'absent', timeout=20)
    assert code != 0


def differ(folder, rng):
    """One process has another config."""
    code, pod = faulty(folder, rng, 'differ')
    assert code == CONFIG, pod.said(0)
    assert 'processes [1] have another config than process 0' in pod.said(0)


def flip(folder, rng):
    """A bit of the newest checkpoint flips: it is not loaded."""
    straight, workdir = left_alone(folder), folder / 'run'
    shutil.copytree(straight, workdir)
    newest = workdir / 'checkpoints' / str(RUN['steps'])
    files = [p for p in sorted(newest.rglob('*')) if p.is_file() and p.stat().st_size]
    path = rng.choices(files, [p.stat().st_size for p in files])[0]
    content, bit = bytearray(path.read_bytes()), rng.randrange(8 * path.stat().st_size)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    _, ts, step = restore(workdir)
    _, expected, _ = restore(straight, step)
    same = {p: np.asarray(x).tobytes() for p, x in paths(expected).items()}
    assert {p: np.asarray(x).tobytes() for p, x in paths(ts).items()} == same, (path, bit)


def full(folder, rng):
    """A disk that fills, and one that becomes read-only: one line, nothing lost, and with room again it
    goes on. It needs the right to mount one."""
    disk, of = folder / 'disk', {'processes': 1, 'devices': 4}
    disk.mkdir()
    mount = lambda *options: subprocess.run(['mount', *options, disk], check=True)
    mount('-t', 'tmpfs', '-o', 'size=2m', 'tmpfs')
    try:
        workdir = disk / 'run'
        for change in ('', 'remount,ro'):
            if change:
                mount('-o', change)
            pod = Pod(workdir, programs=folder / 'programs', **of)
            assert pod.end() == OUTPUT, pod.said(0)
            errors = [line for line in pod.said(0).splitlines() if line.startswith('error: ')]
            assert len(errors) == 1
            assert 'cannot be written' in errors[0]
            assert 'Traceback' not in pod.said(0)
            assert committed(workdir)
        mount('-o', 'remount,rw,size=99m')
        finished(workdir, programs=folder / 'programs', **of)
        assert differing(left_alone(folder, **of), workdir) == []
    finally:
        subprocess.run(['umount', disk], check=True)


SCENARIOS = {
    **{f'kill_{processes}': kill(processes) for processes in (1, 2, 4)},
    **{f.__name__: f for f in (stop, preempt, crash, stuck, absent, differ, flip, full)},
}


def main():
    """Run the scenarios named, or all; the first that fails ends it, and its folder stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', metavar='scenario', help=', '.join(SCENARIOS))
    parser.add_argument('--times', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix='faults.'))
    for name in given.names or SCENARIOS:
        for number in range(given.times):
            begun, folder = time.monotonic(), root / f'{name}_{number}'
            folder.mkdir()
            SCENARIOS[name](folder, random.Random(f'{given.seed} {name} {number}'))
            shutil.rmtree(folder)
            print(f'{name} {number + 1}: {time.monotonic() - begun:.0f} s', flush=True)
    print('nothing was lost')


if __name__ == '__main__':
    main()
