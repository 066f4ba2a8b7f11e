"""Every method on CIFAR-10 with a four-layer ConvNet at a laptop's budget, in one table.

    python benchmarks/small_compute.py                                        # the table of what is recorded
    python benchmarks/small_compute.py --data_dir=~/tensorflow_datasets --run [--seeds=3] [--methods=byol,moco] [--jobs=2]

Trains each `configs/*_cifar10_small.py` once for each seed and evaluates nearest neighbours and a
linear classifier on all 50,000 / 10,000 images; beside them the encoders at random initialisation,
raw pixels and supervised training. Two runs show what collapse looks like: SimSiam without its
stopped gradient and BYOL without its predictor.

A run takes five to thirty minutes of one core, the whole table hours. Each is recorded in `small_compute.jsonl`
beside this file as soon as it is done, under a checksum of its recipe: the same command goes on where
it was stopped, and makes anew what a change of a recipe has made old. --jobs: runs at a time, which
share the cores; their workdirs are in --out.
"""

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).with_suffix('.jsonl')
SUFFIX = '_cifar10_small'
COLLAPSED = {
    'simsiam without stopped gradient': ('simsiam', {'method.stop_gradient': False}),
    'byol without predictor': (
        'byol',
        # and with nothing in its optimizer group, all learn at one rate
        {
            'method.predictor': (),
            'groups.predictor.pattern': '.',
            'groups.predictor.learning_rate': 1.0,
        },
    ),
}
SUPERVISED = ('supcon', 'supervised')  # last in the table
BASELINES = {
    'simclr': ('pixels', 'random'),
    'mae': ('random',),
    'cmc': ('random',),
}  # by whose first run they are judged
NAMES = {
    ('simclr', 'random'): 'random',
    ('mae', 'random'): 'random ViT (of mae)',
    ('cmc', 'random'): 'random pair (of cmc)',
}


class Run(NamedTuple):
    """One training: a method's small config, with other settings if it is to fail."""

    name: str
    method: str
    seed: int
    changes: dict

    def recipe(self) -> str:
        """The checksum of its config file, but for comments and docstring."""
        file = ast.parse((ROOT / f'configs/{self.method}{SUFFIX}.py').read_text())
        code = ast.unparse(file.body[1:])
        return f'{zlib.crc32((code + str(self.changes)).encode()):08x}'


def main():
    """Train and evaluate what is missing, print the table."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    known = sorted(p.stem.removesuffix(SUFFIX) for p in (ROOT / 'configs').glob(f'*{SUFFIX}.py'))
    parser.add_argument('--run', action='store_true', help='train what is not recorded')
    parser.add_argument('--data_dir', default='', help="where cifar10 is; else TFDS's own place")
    parser.add_argument('--methods', default=','.join(known))
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--jobs', type=int, default=1)
    parser.add_argument('--out', default='runs/small_compute')
    options = parser.parse_args()
    methods = options.methods.split(',')
    if options.run:
        os.environ.setdefault('JAX_PLATFORMS', 'cpu')
        if options.data_dir:
            os.environ['TFDS_DATA_DIR'] = os.path.expanduser(options.data_dir)
        train(missing(methods, options.seeds), Path(options.out), options.jobs)
    print(table())


def missing(methods: list[str], seeds: int) -> list[Run]:
    """The runs that are not recorded, or whose config has changed since."""
    runs = [Run(method, method, seed, {}) for seed in range(seeds) for method in methods]
    runs += [
        Run(name, method, 0, changes)
        for name, (method, changes) in COLLAPSED.items()
        if method in methods
    ]
    done = {(r['run'], r['seed'], r['recipe']) for r in records(RECORD)}
    return [run for run in runs if (run.name, run.seed, run.recipe()) not in done]


def train(runs: list[Run], out: Path, jobs: int):
    """Make and record `runs`, `jobs` at a time, each on its share of the cores."""
    cores, free = sorted(os.sched_getaffinity(0)), threading.local()
    shares = iter([set(cores[i::jobs]) or set(cores) for i in range(jobs)])
    lock = threading.Lock()

    def settle():
        free.cores = next(shares)

    def one(run: Run):
        lines = measure(run, out, free.cores)
        with lock, RECORD.open('a') as file:
            file.writelines(json.dumps(line) + '\n' for line in lines)

    with ThreadPoolExecutor(jobs, initializer=settle) as pool:
        for done in [pool.submit(one, run) for run in runs]:
            done.result()


def measure(run: Run, out: Path, cores: set) -> list[dict]:
    """Train and evaluate one run; what is recorded of it."""
    recipe = run.recipe()
    workdir = out / f'{run.name.replace(" ", "_")}_{run.seed}_{recipe}'
    file = f'--config=configs/{run.method}{SUFFIX}.py'
    changes = [f'--config.{key}={value}' for key, value in run.changes.items()]
    baselines = BASELINES.get(run.name, ()) if run.seed == 0 else ()
    program, where = [sys.executable, '-m'], f'--workdir={workdir}'
    seconds = call(
        [*program, 'clr_jax.main', file, where, f'--config.seed={run.seed}', *changes], cores, out
    )
    evaluation = [*program, 'clr_jax.evaluate', where, '--protocol=knn,linear']
    (workdir / 'results.jsonl').unlink(missing_ok=True)
    call([*evaluation, *(['--baselines'] if baselines else [])], cores, out)
    lines = {}
    for result in records(workdir / 'results.jsonl'):
        source = result['source']
        if source == 'encoder' or source in baselines:
            about = {'run': run.name, 'seed': run.seed, 'recipe': recipe, 'source': source}
            line = lines.setdefault(source, about)
            line[result['protocol']] = round(100 * result['top1'], 2)
    log = records(workdir / 'metrics.jsonl')
    std = next(line['std'] for line in reversed(log) if 'std' in line)
    lines['encoder'] |= {'std': round(std, 3), 'cpu_minutes': round(seconds / 60, 1)}
    return list(lines.values())


def call(command: list, cores: set, out: Path) -> float:
    """The seconds of processor time a command took."""
    cache = {'JAX_COMPILATION_CACHE_DIR': str((ROOT / out / 'compiled').absolute())}
    pin = lambda: os.sched_setaffinity(0, cores)
    # waited for by hand, because only that tells its own processor time
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, preexec_fn=pin, env=os.environ | cache
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f'{" ".join(command)} ended with exit code {process.returncode}')
    return usage.ru_utime + usage.ru_stime


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open()] if path.exists() else []


def table() -> str:
    """The Markdown table of all that is recorded: mean and standard deviation over seeds."""
    found: dict[tuple, list] = {}
    # of one run and seed the last line counts
    latest = {(r['run'], r['seed'], r['source']): r for r in records(RECORD)}
    for (name, _, source), record in sorted(latest.items()):
        row = name if source == 'encoder' else NAMES.get((name, source), source)
        found.setdefault((rank(row, name, source), row), []).append(record)
    rows = [
        '| features | kNN | linear | seeds | std of z | CPU minutes |',
        '|---|---|---|---|---|---|',
    ]
    for (_, row), of in sorted(found.items()):
        cells = [spread([r[key] for r in of if key in r]) for key in ('knn', 'linear')]
        about = [
            f'{statistics.mean(values):.{digits}f}' if values else ''
            for values, digits in (
                ([r['std'] for r in of if 'std' in r], 2),
                ([r['cpu_minutes'] for r in of if 'cpu_minutes' in r], 1),
            )
        ]
        rows.append('| ' + ' | '.join([row, *cells, str(len(of)), *about]) + ' |')
    return '\n'.join(rows)


def rank(row: str, name: str, source: str) -> int:
    """Baselines first, then methods, those with labels, and what collapsed."""
    if source != 'encoder':
        return 0
    return 3 if row in COLLAPSED else 2 if name in SUPERVISED else 1


def spread(values: list[float]) -> str:
    deviation = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.1f}{deviation}' if values else ''


if __name__ == '__main__':
    main()
