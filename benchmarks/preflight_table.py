"""Preflight of every published config, for one pod that fits it, in one table.

    python benchmarks/preflight_table.py                                    # the table of what is recorded
    python benchmarks/preflight_table.py --run [--configs=simclr_imagenet,...]

Each config is compiled for the largest of v5e:8x8, 4x4 and 2x2 whose chips share its batch evenly; where
it does not fit, for the larger ones after it that do (v5e:16x16, v5p:4x4x4). A compilation takes minutes of one core, the whole table
hours. Each is recorded in `preflight_table.jsonl` beside this file as soon as it is done, with the
versions and a checksum of its recipe: the same command goes on where it was stopped, and makes anew
what a change has made old. It needs libtpu: pip install 'clr_jax[preflight]'.
"""

import argparse
import ast
import json
import math
import subprocess
import sys
import zlib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).with_suffix('.jsonl')
PODS = {'v5e:8x8': 64, 'v5e:4x4': 16, 'v5e:2x2': 4}
LARGER = {'v5e:16x16': 256, 'v5p:4x4x4': 64}
HEAD = """\
| config | pod | batch | HBM a device, GiB | of usable | GFLOP a device | collectives (sync) | MB reduced, gathered | warnings |
|---|---|---|---|---|---|---|---|---|"""


def main():
    """Compile what is missing, print the table."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument('--run', action='store_true', help='compile what is not recorded')
    parser.add_argument('--configs', default=','.join(published()))
    parser.add_argument('--timeout', type=float, default=60.0, help='minutes for one compilation')
    options = parser.parse_args()
    if options.run:
        for name in options.configs.split(','):
            record(name, options.timeout)
    print(table())


def published() -> list[str]:
    """The configs of published recipes: all but the small ones."""
    small = ('_small', '_digits', '_emoji', '_folder', '_wordnet', '_stsb', '_convnet')
    return sorted(p.stem for p in (ROOT / 'configs').glob('*.py') if not p.stem.endswith(small))


def pods(name: str) -> list[str]:
    """Where a config is tried, in order."""
    sys.path.insert(0, str(ROOT))
    from clr_jax import config as configs

    c = configs.load(f'{ROOT}/configs/{name}.py')
    batch = math.gcd(c.batch_size, c.unlabelled.batch_size)
    shared = [pod for pod, chips in PODS.items() if batch % chips == 0]
    return shared[:1] + [pod for pod, chips in LARGER.items() if batch % chips == 0]


def about(name: str) -> dict:
    """What makes a record old when it changes."""
    file = ast.parse((ROOT / f'configs/{name}.py').read_text())
    recipe = f'{zlib.crc32(ast.unparse(file.body[1:]).encode()):08x}'  # without its docstring
    return {'recipe': recipe, 'libtpu': version('libtpu'), 'jax': version('jax')}


def record(name: str, minutes: float):
    """Compile a config for its pods until it fits, and write down each that is new."""
    for pod in pods(name):
        now = {'config': name, 'pod': pod} | about(name)
        found = [line for line in records() if now.items() <= line.items()]
        if not found:
            print(f'{name} on {pod} ...', file=sys.stderr, flush=True)
            flags = [f'--config=configs/{name}.py', f'--topology={pod}', f'--timeout={minutes}']
            command = [sys.executable, '-m', 'clr_jax.preflight', *flags, '--json']
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            if done.returncode not in (0, 69):
                return  # it has said why
            found = [now | row(json.loads(done.stdout))]
            with RECORD.open('a') as file:
                file.write(json.dumps(found[0]) + '\n')
        if found[-1]['fits']:
            return


def row(said: dict) -> dict:
    """The numbers of the table, of a report."""
    if not said['fits']:
        return {'fits': False, 'batch': said['batch']['global'], 'needed': said['needed']}
    kept = {'fits': True, 'batch': said['batch']['global'], 'hbm': said['memory']['total']}
    kept |= {'usable': said['usable'], 'warnings': len(said['warnings'])}
    if 'flops' not in said:
        return kept
    always = [each for each in said['collectives'] if each['always']]
    return kept | {
        'gflop': round(said['flops'] / 1e9, 1),
        'collectives': sum(each['number'] for each in always),
        'sync': sum(each['number'] for each in always if not each['is_async']),
        'sent': sum(each['number'] * each['bytes'] for each in always),
    }


def records() -> list[dict]:
    """The lines of the record."""
    lines = RECORD.read_text().splitlines() if RECORD.exists() else []
    return [json.loads(line) for line in lines]


def table() -> str:
    """The latest line of each config that fits a pod, as Markdown."""
    latest = {line['config']: line for line in records() if line['fits']}
    rows = [HEAD]
    for name, line in sorted(latest.items()):
        hbm, share = line['hbm'] / 2**30, line['hbm'] / line['usable']
        cells = [name, line['pod'], f'{line["batch"]:,}', f'{hbm:.2f}', f'{share:.0%}']
        if 'gflop' in line:
            number, sync = line['collectives'], line['sync']
            cells += [f'{line["gflop"]:,.0f}', f'{number} ({sync})', f'{line["sent"] / 1e6:,.1f}']
        else:
            cells += ['', '', '']
        rows.append(f'| {" | ".join([*cells, str(line["warnings"])])} |')
    return '\n'.join(rows)


if __name__ == '__main__':
    main()
