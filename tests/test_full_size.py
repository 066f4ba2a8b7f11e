"""Every config at its full size is a program for 64 TPU chips: traced and lowered, from shapes alone."""

import gc
import math
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import jax
import pytest

from clr_jax import parallel, train
from clr_jax.preflight import program
from tests.conftest import ROOT, resolved
from tests.steps import check_gradients_in_float32, kinds

CONFIGS = sorted(path.stem for path in (ROOT / 'configs').glob('*.py'))
DEVICES = 64
# ImageNet's; a program depends on them by the length of the run, the probe and memories
EXAMPLES, CLASSES = 1281167, 1000


def lower(name: str) -> str:
    """StableHLO of the config's step for TPUs, its state and gradients checked: on all devices, or so many
    as its batch gives each an example."""
    c = resolved(name, classes=CLASSES)
    run = train.describe(c, EXAMPLES, CLASSES)
    number = math.gcd(DEVICES, c['batch_size'], run.extra)
    mesh = parallel.make_mesh(jax.devices()[:number], c['bn_groups'])
    parallel.check_batch(c['batch_size'], mesh, c['bn_groups'])
    ts = train.state_shapes(run, mesh)
    batch = program.batch(run, c['batch_size'], mesh)
    traced = train.step_of(c, run, mesh).trace(parallel.placed(ts, mesh), batch)
    after, metrics = traced.out_info
    assert kinds(after) == kinds(ts)
    probe = {'probe_top1'} if c['probe']['learning_rate'] else set()
    assert {'loss', 'gradient_norm', 'std'} | probe <= metrics.keys()
    text = traced.lower(lowering_platforms=('tpu',)).as_text()
    assert f'num_partitions = {mesh.size}' in text
    check_gradients_in_float32(text, ts.params)
    return text


@pytest.fixture(scope='module')
def lowered(tmp_path_factory):
    """A folder with `name.txt`, the program of each config, or `name.error`, why there is none."""
    folder = tmp_path_factory.mktemp('lowered')
    flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={DEVICES}'
    env = os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-m', 'tests.test_full_size', folder, *CONFIGS]
    subprocess.run(command, cwd=ROOT, env=env, check=True, timeout=3000)
    return folder


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_lowers_for_a_pod_of_64(name, lowered):
    error = lowered / f'{name}.error'
    assert not error.exists(), error.read_text()
    assert (lowered / f'{name}.txt').stat().st_size > 10_000


def test_simclr_on_imagenet_gathers_embeddings_and_computes_in_bfloat16(lowered):
    text = (lowered / 'simclr_imagenet.txt').read_text()
    assert 'tensor<128x224x224x3xbf16>' in text  # both views of 64 images in one pass
    gathered = re.findall(r'"stablehlo\.all_gather".*? : \((.*?)\) -> (\S+)', text)
    assert ('tensor<64x2x128xf32>', 'tensor<4096x2x128xf32>') in gathered  # z of the global batch
    convolutions = re.findall(r'stablehlo\.convolution.*-> tensor<(?:\d+x)*(\w+)>', text)
    layers = 1 + 16 * 3 + 4  # the stem, three in each of 16 blocks, four shortcuts
    passes = 3 * layers - 1  # forward, for weights, and for inputs but those of the first
    assert convolutions == ['bf16'] * passes


if __name__ == '__main__':
    folder, *names = sys.argv[1:]
    gc.disable()  # tracing makes millions of objects, over which it would go again and again
    for name in names:
        try:
            Path(folder, f'{name}.txt').write_text(lower(name))
        except Exception:  # for the test of that name
            Path(folder, f'{name}.error').write_text(traceback.format_exc())
        jax.clear_caches()
        gc.collect()
