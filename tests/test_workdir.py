"""A workdir belongs to one run at a time; a dead one's is free, unless it leads nowhere."""

import json
import os

import jax
import numpy as np
import pytest

from clr_jax import config as configs
from clr_jax import workdir as workdirs
from clr_jax.entry import CONFIG, NO_PROGRESS, PREEMPTED, Problem
from clr_jax.workdir import STARTS, occupied


@pytest.fixture
def place(tmp_path):
    return tmp_path / 'run'


def crash(place, newest: int, error=RuntimeError):
    with pytest.raises(error), occupied(place, newest):
        raise error('while it ran')


def test_a_run_that_wrote_nothing_leaves_nothing(place):
    with occupied(place, 0) as ours:
        assert json.loads((place / 'lock').read_text())['pid'] == os.getpid()
        workdirs.check(place, {})  # a start that was killed here may be repeated
        ours()
    assert not place.exists()


def test_a_second_run_is_refused_and_the_first_goes_on(place):
    with occupied(place, 0) as ours:
        with pytest.raises(Problem) as error, occupied(place, 0):
            pass
        assert f'{place} is in use by process {os.getpid()} on ' in str(error.value)
        assert error.value.code == CONFIG
        ours()
        (place / 'config.json').touch()
    assert [p.name for p in place.iterdir()] == ['config.json']
    with occupied(place, 0):
        pass


def test_starts_that_lead_nowhere_come_to_an_end(place):
    for newest in (0, 4):  # a checkpoint between: it counts anew
        for _ in range(STARTS):
            crash(place, newest)
        with pytest.raises(Problem) as error, occupied(place, newest):
            pass
        assert f'before the first checkpoint after step {newest}' in str(error.value)
        assert error.value.code == NO_PROGRESS
    (place / 'lock').unlink()
    crash(place, 4)


@pytest.mark.parametrize('end', [Problem, KeyboardInterrupt])
def test_an_end_in_order_does_not_count(place, end):
    for _ in range(STARTS + 1):
        crash(place, 0, end)
    with pytest.raises(Problem, match='saved'), occupied(place, 0):
        raise Problem('saved', PREEMPTED)
    assert not place.exists()


def test_a_lock_that_a_kill_cut_is_none(place):
    place.mkdir()
    (place / 'lock').write_text('{"pid": 3, "ho')
    with occupied(place, 0):
        pass


def test_where_nothing_can_be_locked_the_later_run_takes_over(place, monkeypatch):
    """As on a bucket: the earlier notices before it writes."""
    monkeypatch.setattr(workdirs, '_lock', lambda path: None)
    with occupied(place, 0) as ours:
        ours()
        with occupied(place, 0) as theirs:
            with pytest.raises(Problem, match='was taken over by process') as error:
                ours()
            theirs()
            assert error.value.code == CONFIG
        ours()  # there is nobody else now


def test_the_first_process_alone_locks(place, monkeypatch):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    with occupied(place, 0) as ours:
        ours()
    assert not place.exists()


def test_what_changes_no_result_may_change_in_a_run(place):
    config = configs.finish(configs.default()).to_dict()
    workdirs.claim(place, config)
    workdirs.check(place, config | {'sharded': True, 'accumulate': {'exact': 8, 'plain': 1}})
    workdirs.check(place, config | {'encoder': config['encoder'] | {'remat': 'full'}})
    with pytest.raises(Problem, match=r'another config \(accumulate.plain: 1 -> 8\)'):
        workdirs.check(place, config | {'accumulate': {'exact': 1, 'plain': 8}})


def test_a_workdir_that_processes_do_not_share_is_refused(place, monkeypatch):
    each = lambda own: np.int32([own, np.zeros_like(own), own])
    monkeypatch.setattr(workdirs.parallel, 'each_process', each)
    config = configs.default().to_dict()
    with pytest.raises(Problem, match=rf'processes \[1\] do not see --workdir={place}'):
        workdirs.claim(place, config)
