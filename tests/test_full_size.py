"""Every config at its full size is a program for TPUs: traced and lowered, from shapes alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from clr_jax import parallel, train
from tests.conftest import ROOT, resolved
from tests.steps import arguments, check_gradients_in_float32, kinds

CONFIGS = sorted(path.stem for path in (ROOT / 'configs').glob('*.py'))
EXAMPLES, CLASSES = (
    1281167,
    1000,
)  # ImageNet's; a program depends on them by the length of the run and the probe


def lower(name: str):
    """StableHLO of the config's step for TPUs on all devices, and its TrainState without values."""
    c = resolved(name, classes=CLASSES)
    run = train.describe(c, EXAMPLES, CLASSES)
    mesh = parallel.make_mesh(groups=c['bn_groups'])
    parallel.check_batch(c['batch_size'], mesh, c['bn_groups'])
    blank = train.blank_batch(run.views, 1)
    ts = jax.eval_shape(lambda: train.make_state(run.method, run.optimizer, mesh, blank, seed=0))
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((c['batch_size'], *x.shape[1:]), x.dtype), blank
    )
    pace = {'steps_per_epoch': run.steps_per_epoch, 'total_steps': run.total_steps}
    step = train.make_step(run.method, run.optimizer, mesh, seed=0, **pace)
    traced = step.trace(*arguments(mesh, ts, batch))
    after, metrics = traced.out_info
    assert kinds(after) == kinds(ts)
    assert {'loss', 'gradient_norm', 'std'} <= metrics.keys()
    assert ('probe_top1' in metrics) == (c['probe']['learning_rate'] > 0)
    return traced.lower(lowering_platforms=('tpu',)).as_text(), ts


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_lowers_at_full_size(name):
    text, ts = lower(name)
    assert 'num_partitions = 8' in text
    check_gradients_in_float32(text, ts.params)


def test_simclr_on_imagenet_lowers_for_a_pod_of_64(tmp_path):
    flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=64'
    env = os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-m', 'tests.test_full_size', 'simclr_imagenet', tmp_path / 'text']
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / 'text').read_text()
    assert 'num_partitions = 64' in text
    assert 'tensor<128x224x224x3xbf16>' in text  # both views of 64 images in one pass
    gathered = re.findall(r'"stablehlo\.all_gather".*? : \((.*?)\) -> (\S+)', text)
    assert ('tensor<64x2x128xf32>', 'tensor<4096x2x128xf32>') in gathered  # z of the global batch
    convolutions = re.findall(r'stablehlo\.convolution.*-> tensor<(?:\d+x)*(\w+)>', text)
    layers = 1 + 16 * 3 + 4  # the stem, three in each of 16 blocks, four shortcuts
    passes = 3 * layers - 1  # forward, for weights, and for inputs but those of the first
    assert convolutions == ['bf16'] * passes


if __name__ == '__main__':
    name, path = sys.argv[1:]
    text, ts = lower(name)
    check_gradients_in_float32(text, ts.params)
    Path(path).write_text(text)
