"""The three stages of SimCLR v2 fit together: each begins with what the one before has left."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from clr_jax import parallel, train
from clr_jax.checkpoint import Checkpoints, paths
from clr_jax.entry import INPUT, Problem
from tests.conftest import ROOT, config

STAGES = ['simclrv2_imagenet', 'simclrv2_finetune_imagenet', 'simclrv2_distill_imagenet']


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with the configs in it, to which their workdirs are relative."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def smoke(name: str, steps: int) -> dict:
    """The config's smoke form, shorter and around a smaller encoder, with a checkpoint at every
    second step."""
    of = config(name, 'smoke')
    of.update(steps=steps, log_every=2, checkpoint_every=2)
    of.evaluation.update(every=0, train_examples=64, test_examples=32)
    return of.to_dict() | {'encoder': {'name': 'convnet', 'widths': (4, 8)}}


def fit(name: str, steps: int) -> Path:
    workdir = Path('runs', f'{name}_smoke').absolute()
    train.fit(smoke(name, steps), str(workdir))
    return workdir


def last(workdir) -> dict:
    return json.loads((workdir / 'metrics.jsonl').read_text().splitlines()[-1])


@pytest.mark.parametrize('variant', ['', 'smoke'])
def test_the_stages_have_the_same_network(variant):
    stages = [config(name, variant).to_dict() for name in STAGES]
    for stage in stages[1:]:
        assert stage['encoder'] == stages[0]['encoder']
        assert stage['method']['projector'] == stages[0]['method']['projector']
        assert stage['method']['head_layers'] == 1


def test_a_stage_says_which_one_is_missing(folder):
    for name, before in zip(STAGES[1:], STAGES, strict=False):
        with pytest.raises(Problem) as raised:
            fit(name, 2)
        assert raised.value.code == INPUT
        command = f'python -m clr_jax.main --config=configs/{before}.py:smoke'
        assert f'{command} --workdir=runs/{before}_smoke' in str(raised.value)
        assert not any((folder / 'runs').iterdir())


def test_each_stage_begins_with_what_the_one_before_has_left(folder):
    stage1, stage2 = fit(STAGES[0], 2), smoke(STAGES[1], 4)
    run = train.describe(stage2, 143, 10)
    taken = train.others(stage2, run, parallel.make_mesh())
    other, ts, _ = train.restore(stage1)
    left = other.method.variables(ts.params, ts.state)
    assert taken['params'].keys() == {'encoder', 'projector'}
    assert taken['params']['projector'].keys() == {'dense1', 'bn1'}
    assert left['params']['projector'].keys() > {'dense1', 'bn1', 'dense3', 'bn3'}
    for path, leaf in paths(taken).items():
        np.testing.assert_array_equal(leaf, paths(left)[path], err_msg=path)

    teacher = fit(STAGES[1], 4)
    assert {'loss', 'top1', 'test_top1'} <= last(teacher).keys()
    assert not {'probe_top1', 'knn_top1'} & last(teacher).keys()
    straight = fit(STAGES[2], 4)
    assert {'loss', 'agreement', 'test_top1'} <= last(straight).keys()
    best = json.loads((straight / 'checkpoints' / '4' / 'metrics' / 'metrics').read_text())
    assert best == {'top1': last(straight)['test_top1']}

    resumed = straight.with_name('resumed')
    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / 'checkpoints' / '4')
    shutil.rmtree(teacher)
    shutil.rmtree(stage1)
    assert Checkpoints(resumed, read_only=True).steps() == [2]
    train.fit(smoke(STAGES[2], 4), str(resumed))
    (_, one, _), (_, other, _) = train.restore(straight), train.restore(resumed)
    assert int(one.step) == int(other.step) == 4
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))
