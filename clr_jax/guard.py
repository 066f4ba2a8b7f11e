"""What keeps a run from standing still, and its work from being lost when its machine is taken away."""

import faulthandler
import os
import signal
import threading
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils

from clr_jax.entry import STUCK


class Watchdog:
    """Inside `with`: ends the process (exit code 75) when it has not called `beat` for `limit` seconds
    (0: never), after printing the stacks of all threads and `hint`: where the limit is set.

    A process that waits for another, or for a device, raises no error, and its signal handlers do not
    run while it is inside a call: a thread of its own does. Time in which the whole process is
    stopped (Ctrl-Z) does not count.
    """

    def __init__(self, limit: float, hint: str):
        self.limit, self.hint = limit, hint
        self.quiet, self.over = 0.0, threading.Event()

    def __enter__(self):
        if self.limit > 0:
            said = os.dup(2)  # the user's: libraries are imported with another in its place
            threading.Thread(target=self._watch, args=(said,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()

    def beat(self):
        """Something has been done."""
        self.quiet = 0.0

    def _watch(self, said: int):
        tick = min(1.0, self.limit / 4)
        while not self.over.wait(tick):
            self.quiet += tick
            if self.quiet > self.limit:
                self._end(said)
        os.close(said)

    def _end(self, said: int):
        why = 'another process, a device or the data keeps it waiting'
        line = f'error: stuck: nothing was done for {self.limit:g} s ({self.hint}): {why}\n'
        os.write(said, line.encode())
        faulthandler.dump_traceback(said, all_threads=True)
        os._exit(STUCK)


@contextmanager
def preemption():
    """-> reached(step), which every process asks after each of its steps: whether to save this one and
    end.

    SIGTERM says that the machine will be taken away. Of several processes any one may hear it: JAX's
    preemption service tells the others, and finds a step that none of them has passed. A single
    process hears it itself.
    """
    if jax.distributed.is_initialized():
        yield multihost_utils.reached_preemption_sync_point
        return
    heard = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals are not ours
        yield lambda step: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: heard.set())
    try:
        yield lambda step: heard.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
