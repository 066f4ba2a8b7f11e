"""The smoke form of a published config is the real program: its own encoder, data, log, checkpoint
and online kNN."""

import json

from clr_jax import train
from clr_jax.checkpoint import Checkpoints
from tests.conftest import config


def test_simclr_on_imagenet_runs_two_steps(tmp_path):
    smoke = config('simclr_imagenet', 'smoke')
    smoke.update(steps=2, log_every=1)
    smoke.evaluation.update(train_examples=100, test_examples=50)
    assert (smoke.encoder.name, smoke.encoder.dtype) == ('resnet', 'bfloat16')
    train.fit(smoke.to_dict(), str(tmp_path / 'run'))
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').open()]
    assert [row['step'] for row in rows] == [1, 2]
    assert rows[0]['loss'] != rows[1]['loss']
    assert {'information', 'std', 'effective_rank', 'probe_top1', 'knn_top1'} <= rows[1].keys()
    assert Checkpoints(tmp_path / 'run', read_only=True).steps() == [2]
