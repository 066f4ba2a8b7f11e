"""A process that stands still ends itself, with its stacks; one that is told to leave is heard."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

from clr_jax.entry import STUCK
from clr_jax.guard import Watchdog, preemption
from tests.conftest import ROOT


class Ticks:
    """An event of which `act(n)` happens before its n-th wait, and which is set after `count`."""

    def __init__(self, count, act):
        self.left, self.act = iter(range(count)), act

    def wait(self, seconds):
        tick = next(self.left, None)
        if tick is not None:
            self.act(tick)
        return tick is None


def ended(limit, count, act=lambda tick: None) -> int:
    """How often a watchdog of `limit` seconds would have ended the process in `count` ticks of one."""
    watchdog, ends = Watchdog(limit, 'here'), []
    watchdog._end = ends.append
    watchdog.over = Ticks(count, lambda tick: act(tick) and watchdog.beat())
    watchdog._watch(os.dup(2))
    return len(ends)


def test_a_watchdog_waits_for_its_limit_and_starts_anew_with_every_beat():
    assert ended(8, 8) == 0
    assert ended(8, 9) == 1
    assert ended(8, 100, lambda tick: tick % 8 == 0) == 0
    assert ended(8, 100, lambda tick: tick == 80) == 72 + 12


def test_no_limit_is_no_watchdog():
    before = threading.active_count()
    with Watchdog(0, 'here'):
        assert threading.active_count() == before
    with Watchdog(100, 'here') as watchdog:
        assert threading.active_count() == before + 1
    assert watchdog.over.is_set()


def test_a_process_that_stands_still_tells_where(tmp_path):
    """Its main thread is inside a call that never returns, as in a collective."""
    program = """
        import os, threading
        from clr_jax.guard import Watchdog

        def waits_for_ever():
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()

        with Watchdog(0.5, 'config.stuck_after'):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # as while TensorFlow is imported
            waits_for_ever()
    """
    (tmp_path / 'stuck.py').write_text(textwrap.dedent(program))
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, tmp_path / 'stuck.py'], env=env, capture_output=True, text=True
    )
    assert done.returncode == STUCK
    said = 'error: stuck: nothing was done for 0.5 s (config.stuck_after): '
    assert done.stderr.startswith(said)
    assert 'in waits_for_ever' in done.stderr


def test_a_notice_is_heard_inside_alone():
    before = signal.getsignal(signal.SIGTERM)
    with preemption() as reached:
        assert not reached(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert reached(2)
        assert reached(3)
    assert signal.getsignal(signal.SIGTERM) is before
