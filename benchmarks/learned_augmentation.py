"""A learnt schedule of augmentation against none, on 4,000 labels of CIFAR-10.

    python benchmarks/learned_augmentation.py [--data_dir=~/tensorflow_datasets] [--seeds=3] [--out=runs/learned_augmentation]

Searches a schedule by `python -m clr_jax.pba --config=configs/pba_cifar10_small.py`, which validates on 2,000
training images without a part in the training. Then trains that config for each seed with crops and flips
alone and with the schedule, and prints the accuracy on all test images as a Markdown table. No square is cut
out after either. What is done is kept in --out. --trials, --interval and --epochs make it shorter.
"""

import argparse
import json
import os
import statistics
from pathlib import Path

from programs import call

CONFIG = '--config=configs/pba_cifar10_small.py'
POLICY = '--config.views.view.policy'


def main():
    """Search and train what is missing, print the table."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument('--data_dir', default='', help="where cifar10 is; else TFDS's own place")
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--trials', type=int, default=8, help='of the search')
    parser.add_argument('--interval', type=int, default=3, help='its epochs between selections')
    parser.add_argument('--epochs', type=float, default=24.0, help='of every training')
    parser.add_argument('--out', default='runs/learned_augmentation')
    options = parser.parse_args()
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    if options.data_dir:
        os.environ['TFDS_DATA_DIR'] = os.path.expanduser(options.data_dir)
    out, length = Path(options.out), f'--config.epochs={options.epochs}'
    how = f'--trials={options.trials}', f'--interval={options.interval}'
    call('clr_jax.pba', CONFIG, f'--workdir={out / "search"}', length, *how)
    schedule = out / 'search' / 'schedule.json'
    learnt = f'{POLICY}=pba', f'--config.views.view.schedule={schedule}'
    rows: dict = {'crops and flips': (), 'PBA': learnt}
    print('| policy | test accuracy | of each seed |\n|---|---|---|')
    for row, flags in rows.items():
        found = [
            100 * accuracy(out / f'{row.replace(" ", "_")}_{seed}', seed, length, *flags)
            for seed in range(options.seeds)
        ]
        each = ', '.join(f'{top1:.1f}' for top1 in found)
        print(f'| {row} | {statistics.mean(found):.1f} | {each} |', flush=True)


def accuracy(workdir: Path, seed: int, *flags: str) -> float:
    """Of the classifier that a run ends with, on all test images."""
    where = f'--workdir={workdir}', f'--config.seed={seed}'
    call('clr_jax.main', CONFIG, *where, '--config.evaluation.test_examples=10000', *flags)
    log = map(json.loads, (workdir / 'metrics.jsonl').open())
    return [line['test_top1'] for line in log if 'test_top1' in line][-1]


if __name__ == '__main__':
    main()
