"""Two processes of two devices each train as one of four does, through the program itself."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clr_jax import train
from clr_jax.checkpoint import paths
from tests.conftest import ROOT

STEPS = 4
RUN = {
    'steps': STEPS,
    'batch_size': 32,
    'log_every': 2,
    'checkpoint_every': 2,
    # AdamW's 1e-8 makes a step as large as the rate of the rounding in a gradient of zero.
    'optimizer.eps': 1e-3,
    # A wrong gradient shows at any rate, while rounding, where a channel is nearly dead, grows with it.
    'optimizer.learning_rate': 2e-4,
    'evaluation.train_examples': 64,
    'evaluation.test_examples': 64,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def start(workdir: Path, devices: int, *flags) -> subprocess.Popen:
    settings = [f'--config.{key}={value}' for key, value in RUN.items()]
    config = '--config=configs/simclr_digits.py:smoke'
    command = [
        sys.executable,
        '-m',
        'clr_jax.main',
        config,
        f'--workdir={workdir}',
        *settings,
        *flags,
    ]
    count = f'--xla_force_host_platform_device_count={devices}'
    env = os.environ | {'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {count}', 'PYTHONPATH': str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True)


def finish(workers: list[subprocess.Popen]) -> list[str]:
    """-> what each wrote to stderr, once all ended well."""
    try:
        said = [worker.communicate(timeout=300)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * len(workers), '\n=====\n'.join(said)
    return said


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """-> (workdir of one process, workdir of two, what those two said)."""
    directory = tmp_path_factory.mktemp('runs')
    one, two = directory / 'one', directory / 'two'
    finish([start(one, 4)])
    together = f'--coordinator=127.0.0.1:{free_port()}', '--processes=2'
    said = finish([start(two, 2, *together, f'--process={i}') for i in range(2)])
    return one, two, said


def logged(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_processes_agree_on_every_leaf_of_the_checkpoint(runs):
    """Within 1e-5 in float32: gloo sums in another order than one process does."""
    (_, one, step), (_, two, _) = (train.restore(workdir) for workdir in runs[:2])
    assert step == STEPS
    one, two = paths(one), paths(two)
    assert one.keys() == two.keys()
    for path, leaf in one.items():
        np.testing.assert_allclose(two[path], leaf, rtol=1e-5, atol=1e-5, err_msg=path)


def test_processes_write_one_log(runs):
    one, two = (logged(workdir) for workdir in runs[:2])
    assert [line['step'] for line in two] == [line['step'] for line in one] == [2, 4]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(b['loss'], a['loss'], rtol=1e-5)
        np.testing.assert_allclose(b['gradient_norm'], a['gradient_norm'], rtol=1e-4)
    assert (runs[0] / 'config.json').read_text() == (runs[1] / 'config.json').read_text()


def test_only_the_first_process_speaks(runs):
    first, second = runs[2]
    assert f'step {STEPS}/{STEPS}' in first
    assert '4 cpu devices of 2 processes' in first
    assert 'step ' not in second
