"""4,000 labels of CIFAR-10, with and without the other images.

    python benchmarks/few_labels.py [--data_dir=~/tensorflow_datasets] [--seeds=3] [--out=runs/few_labels]

Trains `configs/uda_cifar10_convnet.py`, and the same ConvNet in as many steps on the same labels alone
(`configs/supervised_cifar10_small.py`), for each seed, and prints the accuracy of their classifiers on
all test images as a Markdown table. What is done is kept in --out.
"""

import argparse
import json
import os
import statistics
from pathlib import Path

from programs import call

ROWS = {
    'supervised': (
        'supervised_cifar10_small',
        '--config.subset.per_class=400',
        '--config.batch_size=64',
        '--config.steps=2500',
        '--config.views.view.area=(0.7,1.0)',
        '--config.evaluation.every=500',
    ),
    'UDA': ('uda_cifar10_convnet',),
}


def main():
    """Train what is missing, print the table."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument('--data_dir', default='', help="where cifar10 is; else TFDS's own place")
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--out', default='runs/few_labels')
    options = parser.parse_args()
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    if options.data_dir:
        os.environ['TFDS_DATA_DIR'] = os.path.expanduser(options.data_dir)
    print('| training | test accuracy | of each seed |\n|---|---|---|')
    for row, recipe in ROWS.items():
        found = [
            100 * accuracy(Path(options.out) / f'{row}_{seed}', seed, *recipe)
            for seed in range(options.seeds)
        ]
        each = ', '.join(f'{top1:.1f}' for top1 in found)
        print(f'| {row} | {statistics.mean(found):.1f} | {each} |', flush=True)


def accuracy(workdir: Path, seed: int, config: str, *flags: str) -> float:
    """Of the classifier that a run ends with, on all test images."""
    where = f'--config=configs/{config}.py', f'--workdir={workdir}', f'--config.seed={seed}'
    call('clr_jax.main', *where, *flags)
    log = map(json.loads, (workdir / 'metrics.jsonl').open())
    return [line['test_top1'] for line in log if 'test_top1' in line][-1]


if __name__ == '__main__':
    main()
