"""Two processes of two devices each train as one of four does, through the program itself, also when one of
them is told to leave."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from clr_jax import train
from clr_jax.checkpoint import paths
from tests import faults
from tests.conftest import ROOT

STEP = 4  # where they are compared: later, rounding has grown


def alone(workdir):
    """The same run in one process of four devices."""
    count = '--xla_force_host_platform_device_count=4'
    env = os.environ | {'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {count}', 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-m', 'clr_jax.main', *faults.flags(workdir)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """-> (workdir of one process, workdir of two, what those two said)."""
    directory = tmp_path_factory.mktemp('runs')
    one, two = directory / 'one', directory / 'two'
    alone(one)
    pod = faults.finished(two)
    return one, two, [pod.said(0), pod.said(1)]


def logged(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_processes_agree_on_every_leaf_of_the_checkpoint(runs):
    """Within 1e-5 in float32: gloo sums in another order than one process does."""
    (_, one, _), (_, two, step) = (train.restore(workdir, STEP) for workdir in runs[:2])
    assert step == STEP
    one, two = paths(one), paths(two)
    assert one.keys() == two.keys()
    for path, leaf in one.items():
        np.testing.assert_allclose(two[path], leaf, rtol=1e-5, atol=1e-5, err_msg=path)


def test_processes_write_one_log(runs):
    one, two = (logged(workdir) for workdir in runs[:2])
    every = [*range(STEP, faults.RUN['steps'] + 1, STEP)]
    assert [line['step'] for line in two] == [line['step'] for line in one] == every
    for a, b in zip(one, two, strict=True):
        assert {len(values) for values in b.pop('processes').values()} == {2}
        assert a.keys() == b.keys()
        assert 0 < b['goodput'] < 1
    for a, b in zip(one[:1], two[:1], strict=True):
        np.testing.assert_allclose(b['loss'], a['loss'], rtol=1e-5)
        np.testing.assert_allclose(b['gradient_norm'], a['gradient_norm'], rtol=1e-4)
    assert (runs[0] / 'config.json').read_text() == (runs[1] / 'config.json').read_text()


def test_only_the_first_process_speaks(runs):
    first, second = runs[2]
    assert f'step {STEP}/{faults.RUN["steps"]}' in first
    assert '4 cpu devices of 2 processes' in first
    assert 'process 1 of 2: 2 of 4 cpu devices' in second
    assert 'step ' not in second


def test_a_notice_to_one_process_costs_no_bit(runs):
    """Both save the same step; what goes on from there ends as the run that was left alone."""
    workdir = runs[1].parent / 'preempted'
    step = faults.preempted(workdir)
    assert step < faults.RUN['steps']
    pod = faults.finished(workdir)
    assert f'resumed from step {step}\n' in pod.said(0)
    assert faults.differing(runs[1], workdir) == []
    assert not (workdir / 'lock').exists()
