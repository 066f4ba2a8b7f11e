"""What a run tells: a line of progress on the terminal, `metrics.jsonl`, TensorBoard events."""

import json
import math
import sys
import time
from contextlib import contextmanager
from typing import Any

import jax
from etils import epath


class Log:
    """The logs of one run, written by the first process only. Lines of steps after `start` (a
    killed run's) are dropped."""

    def __init__(self, workdir, *, start: int, total_steps: int, batch_size: int):
        self.total, self.batch_size = total_steps, batch_size
        self.step, self.clock, self.waited = start, time.perf_counter(), 0.0
        self.speeds: list[float] = []
        self.writer: Any = None
        self.file: Any = None
        if jax.process_index():
            return
        from clu import metric_writers

        path = epath.Path(workdir) / 'metrics.jsonl'
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step(line) <= start]
        temporary = path.with_suffix('.tmp')
        temporary.write_text(''.join(line + '\n' for line in kept))
        temporary.replace(path)
        self.file = path.open('a')
        self.writer = metric_writers.SummaryWriter(str(workdir))

    @contextmanager
    def wait(self):
        """Count the time inside as waiting for data."""
        begun = time.perf_counter()
        yield
        self.waited += time.perf_counter() - begun

    @contextmanager
    def pause(self):
        """Leave the time inside (an evaluation, a checkpoint) out of the speed."""
        begun = time.perf_counter()
        yield
        self.clock += time.perf_counter() - begun

    def write(self, step: int, metrics: dict):
        """Write one logged step: its metrics with speed, share of time spent waiting for data, and
        an ETA."""
        now = time.perf_counter()
        seconds, steps = now - self.clock, step - self.step
        speed = steps * self.batch_size / seconds
        self.speeds.append(steps / seconds)
        # NaN: not measured at this step
        record = {'step': step} | {k: v for k, v in metrics.items() if math.isfinite(v)}
        record['examples_per_second'] = round(speed, 2)
        record['data_wait'] = round(self.waited / seconds, 4)
        self.step, self.clock, self.waited = step, now, 0.0
        if self.writer is None:
            return
        self.file.write(json.dumps(record) + '\n')
        self.file.flush()
        self.writer.write_scalars(step, {k: v for k, v in record.items() if k != 'step'})
        recent = sorted(self.speeds[-9:])
        left = (self.total - step) / recent[len(recent) // 2]
        names = [k for k in ('loss', 'std', 'probe_top1', 'knn_top1', 'test_top1') if k in record]
        shown = '  '.join(f'{name} {record[name]:.3f}' for name in names)
        pace = f'{speed:,.0f} images/s  {duration(left)} left'
        say(f'step {step}/{self.total}  {shown}  {pace}')

    def close(self):
        """Flush and close the files."""
        if self.writer is not None:
            self.writer.close()
            self.file.close()


def say(text: str):
    """A line for the person at the terminal, from the first process only; results alone go to
    stdout."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """'1:02:03' for a number of seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f'{hours}:{rest // 60:02}:{rest % 60:02}'


def _step(line: str) -> float:
    try:
        return json.loads(line)['step']
    except (ValueError, KeyError):  # the line a kill cut in two
        return math.inf
