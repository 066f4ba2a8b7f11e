"""Every method on CIFAR-10 with a four-layer ConvNet at a laptop's budget, in one table.

    python benchmarks/small_compute.py --data_dir=~/tensorflow_datasets [--seeds=3] [--methods=byol,moco]

Trains each `configs/*_cifar10_small.py` once for each seed and evaluates nearest neighbours and a
linear classifier on all 50,000 / 10,000 images; beside them the ConvNet at random initialisation,
raw pixels and supervised training. Two runs show what collapse looks like: SimSiam without its
stopped gradient and BYOL without its predictor.

Each run takes minutes on two cores, the whole table hours. What is done is kept in --out: the same
command goes on where it was stopped, and prints the table of what there is.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUFFIX = '_cifar10_small'
COLLAPSED = {
    'simsiam without stopped gradient': ('simsiam', '--config.method.stop_gradient=False'),
    'byol without predictor': ('byol', '--config.method.predictor=()'),
}
PROTOCOLS = ('knn', 'linear')
RANDOM = {'simclr': 'random', 'mae': 'random ViT'}  # whose encoder is also judged as it begins


def main():
    """Train and evaluate what is missing, print the table."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    names = sorted(p.stem.removesuffix(SUFFIX) for p in (ROOT / 'configs').glob(f'*{SUFFIX}.py'))
    parser.add_argument('--data_dir', default='', help="where cifar10 is; else TFDS's own place")
    parser.add_argument('--methods', default=','.join(names))
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--out', default='runs/small_compute')
    options = parser.parse_args()
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    if options.data_dir:
        os.environ['TFDS_DATA_DIR'] = os.path.expanduser(options.data_dir)
    out, methods = Path(options.out), options.methods.split(',')
    for seed in range(options.seeds):
        for method in methods:
            run(out / f'{method}_{seed}', method, seed)
    for name, (method, change) in COLLAPSED.items():
        if method in methods:
            run(out / name.replace(' ', '_'), method, 0, change)
    print(table(out, methods, options.seeds))


def run(workdir: Path, method: str, seed: int, *changes: str):
    """Train one run and evaluate it, as far as that has not been done."""
    program = [sys.executable, '-m']
    config = f'--config=configs/{method}{SUFFIX}.py'
    done = records(workdir / 'results.jsonl')
    if not done:
        call(
            [
                *program,
                'clr_jax.main',
                config,
                f'--workdir={workdir}',
                f'--config.seed={seed}',
                *changes,
            ]
        )
    for protocol in PROTOCOLS:
        if protocol not in {record['protocol'] for record in done}:
            baselines = ['--baselines'] if method in RANDOM else []
            options = [f'--workdir={workdir}', f'--protocol={protocol}', *baselines]
            call([*program, 'clr_jax.evaluate', *options])


def call(command: list):
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f'{" ".join(command)} ended with exit code {done.returncode}')


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open()] if path.exists() else []


def table(out: Path, methods: list[str], seeds: int) -> str:
    """The Markdown table of all that is in `out`."""
    rows = ['| features | kNN | linear | embedding std | minutes |', '|---|---|---|---|---|']
    runs = {method: [out / f'{method}_{seed}' for seed in range(seeds)] for method in methods}
    rows.append(row('pixels', runs.get('simclr', []), 'pixels'))
    rows += [row(name, runs.get(method, []), 'random') for method, name in RANDOM.items()]
    rows += [row(method, places) for method, places in runs.items()]
    rows += [row(name, [out / name.replace(' ', '_')]) for name in COLLAPSED]
    return '\n'.join(filter(None, rows))


def row(name: str, places: list[Path], source: str = 'encoder') -> str:
    """Mean and spread over the runs in `places` of what `source` scores, or '' if there are none."""
    scores: dict[str, list] = {protocol: [] for protocol in PROTOCOLS}
    for place in places:
        for record in records(place / 'results.jsonl'):
            if record['source'] == source and record['protocol'] in scores:
                scores[record['protocol']].append(100 * record['top1'])
    if not scores['knn']:
        return ''
    cells = [spread(values) for values in scores.values()]
    trained = [
        place for place in places if source == 'encoder' and (place / 'metrics.jsonl').exists()
    ]
    logs = [records(place / 'metrics.jsonl') for place in trained]
    last = [next((line['std'] for line in reversed(log) if 'std' in line), None) for log in logs]
    std = f'{statistics.mean(last):.2f}' if logs and None not in last else ''
    minutes = f'{statistics.mean(map(duration, trained, logs)):.1f}' if logs else ''
    return '| ' + ' | '.join([name, *cells, std, minutes]) + ' |'


def spread(values: list[float]) -> str:
    if not values:
        return ''
    deviation = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.1f}{deviation}'


def duration(workdir: Path, log: list[dict]) -> float:
    """Minutes of training at the run's median speed: a pause of the machine does not count."""
    batch = json.loads((workdir / 'config.json').read_text())['batch_size']
    speed = statistics.median(line['examples_per_second'] for line in log)
    return log[-1]['step'] * batch / speed / 60


if __name__ == '__main__':
    main()
