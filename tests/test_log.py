"""Logs: what is written is what was measured, each step once, whatever a kill left behind."""

import json
import math

import jax
import numpy as np
import pytest
from etils import epath
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from clr_jax import log
from clr_jax.entry import OUTPUT, Problem
from clr_jax.log import Log, duration, say


class Clock:
    """A clock that the test turns."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(log, 'time', clock)
    return clock


def records(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_a_record_has_the_metrics_with_the_speed_and_the_wait_for_data(tmp_path, clock, capsys):
    written = Log(tmp_path, start=10, total_steps=50, batch_size=64)
    clock.now += 6  # of which 1 is spent waiting for data, and 2 do not count
    with written.wait():
        clock.now += 1
    with written.pause():
        clock.now += 2
    written.write(14, {'loss': 0.1 + 0.2, 'std': 1.0})  # 4 steps in 7 seconds
    with written.wait():
        clock.now += 2
    written.write(16, {'loss': 1.5, 'knn_top1': 0.25})  # 2 steps in 2 seconds
    written.close()
    first, second = records(tmp_path)
    speed = {'examples_per_second': round(4 * 64 / 7, 2), 'step_seconds': 7 / 4}
    share = {'data_wait': round(1 / 7, 4), 'seconds': 9.0, 'goodput': round(6 / 9, 4)}
    assert first == {'step': 14, 'loss': 0.1 + 0.2, 'std': 1.0} | speed | share
    speed = {'examples_per_second': 64.0, 'step_seconds': 1.0, 'data_wait': 1.0}
    share = {'seconds': 11.0, 'goodput': round(6 / 11, 4)}
    assert second == {'step': 16, 'loss': 1.5, 'knn_top1': 0.25} | speed | share
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for word in (
        'step 14/50',
        'loss 0.300',
        'std 1.000',
        '37 images/s',
        '0:01:03 left',
    ):  # 36 steps at 4 / 7
        assert word in lines[0]
    for word in (
        'step 16/50',
        'loss 1.500',
        'knn_top1 0.250',
        '64 images/s',
        '0:00:34 left',
    ):  # the median of 4 / 7 and 1
        assert word in lines[1]


CLOCKS = {'examples_per_second', 'step_seconds', 'data_wait', 'seconds', 'goodput'}


def test_goodput_counts_what_every_start_of_the_run_took(tmp_path, clock):
    """8 of 10 seconds are steps, 4 of them lost with a kill; the next start takes 5 to begin."""
    log = Log(tmp_path, start=0, total_steps=9, batch_size=8, begun=clock.now - 2)
    for step in (1, 2):
        clock.now += 4
        log.write(step, {'loss': 1.0})
    log.close()
    assert [(r['seconds'], r['goodput']) for r in records(tmp_path)] == [(6, 0.6667), (10, 0.8)]
    log = Log(tmp_path, start=1, total_steps=9, batch_size=8, begun=clock.now - 5)
    clock.now += 4
    log.write(2, {'loss': 1.0})
    log.close()
    assert records(tmp_path)[-1]['seconds'] == 19
    np.testing.assert_allclose(records(tmp_path)[-1]['goodput'], 8 / 19, atol=1e-4)


def test_the_slowest_process_is_shown_and_each_is_recorded(tmp_path, clock, monkeypatch):
    other = lambda own: np.float32([own, [3.0, 0.75]])
    monkeypatch.setattr(log.parallel, 'each_process', other)
    written = Log(tmp_path, start=0, total_steps=9, batch_size=8)
    clock.now += 2
    written.write(1, {'loss': 1.0})
    written.close()
    (record,) = records(tmp_path)
    assert (record['step_seconds'], record['data_wait']) == (3.0, 0.75)
    assert record['processes'] == {'step_seconds': [2.0, 3.0], 'data_wait': [0.0, 0.75]}


def test_a_trace_of_the_steps_asked_for(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: calls.append(folder))
    monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append('stop'))

    def run(steps, first, last):
        calls.clear()
        profile = log.Profile(tmp_path, first, last)
        for step in steps:
            profile.before(step)
            calls.append(step)
            profile.after(step, np.zeros(2))
        return list(calls)

    where = str(tmp_path / 'profile')
    assert run(range(1, 5), 2, 3) == [1, where, 2, 3, 'stop', 4]
    assert run(range(1, 3), 0, 0) == [1, 2]
    assert run(range(3, 5), 2, 4) == [3, 4]  # a resume within: there is nothing to stop


def test_a_full_disk_is_one_line(tmp_path, clock):
    written = Log(tmp_path, start=0, total_steps=9, batch_size=8)
    written.file = open('/dev/full', 'a')
    clock.now += 1
    with pytest.raises(Problem, match='the log cannot be written: No space left') as error:
        written.write(1, {'loss': 1.0})
    assert error.value.code == OUTPUT


def test_what_was_not_measured_is_left_out(tmp_path, clock):
    """Health measures are NaN at the steps that do not compute them; NaN is no JSON either."""
    written = Log(tmp_path, start=0, total_steps=4, batch_size=8)
    clock.now += 1
    written.write(2, {'loss': 1.0, 'std': math.nan, 'uniformity': math.inf})
    written.close()
    assert records(tmp_path)[0].keys() == {'step', 'loss', *CLOCKS}


def test_tensorboard_says_the_same(tmp_path, clock):
    written = Log(tmp_path, start=0, total_steps=4, batch_size=8)
    for step in (1, 2):
        clock.now += step
        written.write(step, {'loss': 0.5 * step})
    written.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    for name in ('loss', *CLOCKS):
        read = [(e.step, make_ndarray(e.tensor_proto)) for e in events.Tensors(name)]
        assert read == [(record['step'], np.float32(record[name])) for record in records(tmp_path)]
    assert {'loss', *CLOCKS} == set(events.Tags()['tensors'])


def test_lines_of_steps_to_be_done_again_are_dropped(tmp_path, clock):
    lines = [json.dumps({'step': step, 'loss': 1.0}) for step in (2, 4, 6, 8)]
    path = tmp_path / 'metrics.jsonl'
    path.write_text('\n'.join(lines) + '\n{"step": 10, "lo')  # killed in the middle of a line
    written = Log(tmp_path, start=4, total_steps=20, batch_size=8)
    assert path.read_text().splitlines() == lines[:2]
    clock.now += 1
    written.write(6, {'loss': 2.0})
    written.close()
    assert [(r['step'], r['loss']) for r in records(tmp_path)] == [(2, 1.0), (4, 1.0), (6, 2.0)]


def test_a_line_cut_anywhere_is_dropped(tmp_path, clock):
    path, line = tmp_path / 'metrics.jsonl', '{"step": 12, "loss": 1.5}'
    for length in range(len(line)):
        path.write_text(f'{{"step": 1}}\n{line[:length]}')
        Log(tmp_path, start=20, total_steps=40, batch_size=8).close()
        assert records(tmp_path) == [{'step': 1}]
    path.write_text(f'{{"step": 1}}\n{line}')  # only its newline is missing
    Log(tmp_path, start=20, total_steps=40, batch_size=8).close()
    assert records(tmp_path) == [{'step': 1}, {'step': 12, 'loss': 1.5}]


def test_a_kill_while_lines_are_dropped_loses_none(tmp_path, clock, monkeypatch):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 1}\n{"step": 2}\n')
    monkeypatch.setattr(
        type(epath.Path(path)), 'write_text', lambda self, text: self.write_bytes(text[:5].encode())
    )
    monkeypatch.setattr(
        type(epath.Path(path)), 'replace', lambda *_: (_ for _ in ()).throw(SystemExit)
    )
    with pytest.raises(SystemExit):
        Log(tmp_path, start=1, total_steps=40, batch_size=8)
    assert [record['step'] for record in records(tmp_path)] == [1, 2]


def test_a_record_is_on_disk_before_the_next_step(tmp_path, clock):
    written = Log(tmp_path, start=0, total_steps=4, batch_size=8)
    clock.now += 1
    written.write(1, {'loss': 1.0})
    assert records(tmp_path)[0]['loss'] == 1.0  # before it is closed
    written.close()


def test_only_the_first_process_speaks(tmp_path, clock, capsys, monkeypatch):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    written = Log(tmp_path, start=0, total_steps=4, batch_size=8)
    clock.now += 1
    written.write(1, {'loss': 1.0})
    written.close()
    say('hello')
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ('', '')
    monkeypatch.setattr(jax, 'process_index', lambda: 0)
    say('hello')
    assert capsys.readouterr() == ('', 'hello\n')  # results alone go to stdout


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (0, '0:00:00'),
        (59.6, '0:01:00'),
        (3599, '0:59:59'),
        (3723.4, '1:02:03'),
        (360000, '100:00:00'),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
