"""What a run tells: a line of progress on the terminal, `metrics.jsonl`, TensorBoard events."""

import json
import math
import sys
import time
from contextlib import contextmanager
from typing import Any

import jax
from etils import epath

from clr_jax import parallel
from clr_jax.entry import writing


class Log:
    """The logs of one run, written by the first process only. Lines of steps after `start` (a
    killed run's) are dropped.

    begun: when this start of the program began, by `time.perf_counter()`; None: now.
    """

    def __init__(self, workdir, *, start: int, total_steps: int, batch_size: int, begun=None):
        self.total, self.batch_size = total_steps, batch_size
        self.step, self.clock, self.waited = start, time.perf_counter(), 0.0
        self.begun = self.clock if begun is None else begun
        self.spent = self.useful = 0.0  # seconds of earlier starts, and those in steps that count
        self.speeds: list[float] = []
        self.writer: Any = None
        self.file: Any = None
        if jax.process_index():
            return
        from clu import metric_writers

        path = epath.Path(workdir) / 'metrics.jsonl'
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step(line) <= start]
        self.spent = _record(lines).get('seconds', 0.0)
        last = _record(kept)
        self.useful = last.get('goodput', 0.0) * last.get('seconds', 0.0)
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
        """Write one logged step, and say it with an ETA. All processes must call it.

        Beside the metrics: `examples_per_second`; `step_seconds` and `data_wait`, the share of a step
        spent waiting for data, of the slowest process, and under `processes` of each where there are
        several; `seconds` of all starts of the run, and `goodput`, the share of them in steps that
        count: not in starting, compiling, waiting for data, evaluating, saving, or in steps that
        were done again.
        """
        now = time.perf_counter()
        seconds, steps = now - self.clock, step - self.step
        speed = steps * self.batch_size / seconds
        self.speeds.append(steps / seconds)
        own = [seconds / steps, self.waited / seconds]
        each = parallel.each_process(own).astype(float).round(4)  # [processes, 2]
        self.useful += seconds - self.waited
        spent = self.spent + now - self.begun
        # NaN: not measured at this step
        record: dict = {'step': step} | {k: v for k, v in metrics.items() if math.isfinite(v)}
        record['examples_per_second'] = round(speed, 2)
        record |= dict(zip(('step_seconds', 'data_wait'), each.max(0).tolist(), strict=True))
        record |= {'seconds': round(spent, 2), 'goodput': round(self.useful / spent, 4)}
        self.step, self.clock, self.waited = step, now, 0.0
        if self.writer is None:
            return
        scalars = {k: v for k, v in record.items() if k != 'step'}
        if len(each) > 1:
            by_process = dict(zip(('step_seconds', 'data_wait'), each.T.tolist(), strict=True))
            record['processes'] = by_process
        with writing('the log'):
            self.file.write(json.dumps(record) + '\n')
            self.file.flush()
            self.writer.write_scalars(step, scalars)
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


class Profile:
    """A trace of the steps `first` to `last` of the first process, in `workdir/profile`; 0: none."""

    def __init__(self, workdir, first: int, last: int):
        self.folder, self.first, self.last = str(epath.Path(workdir) / 'profile'), first, last
        self.running = False

    def before(self, step: int):
        """To be called before a step begins."""
        if step == self.first and self.first <= self.last and not jax.process_index():
            jax.profiler.start_trace(self.folder)
            self.running = True

    def after(self, step: int, result):
        """To be called when a step was given to the devices; it waits for the last one's result."""
        if self.running and step == self.last:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            say(f'profile of steps {self.first} to {self.last}: {self.folder}')
            self.running = False


def say(text: str):
    """A line for the person at the terminal, from the first process only; results alone go to
    stdout."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """'1:02:03' for a number of seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f'{hours}:{rest // 60:02}:{rest % 60:02}'


def _record(lines: list[str]) -> dict:
    """The last whole one."""
    return next((json.loads(line) for line in reversed(lines) if _step(line) < math.inf), {})


def _step(line: str) -> float:
    try:
        return json.loads(line)['step']
    except (ValueError, KeyError):  # the line a kill cut in two
        return math.inf
