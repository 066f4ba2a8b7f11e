"""What sharding, remat and accumulation save, by preflight, in one table.

    python benchmarks/memory.py            # the table of what is recorded
    python benchmarks/memory.py --run      # compile what is missing, some minutes of one core each

Each case is a published config with some changes, on one pod. It is recorded in `memory.jsonl` beside
this file as soon as it is done, with the versions and a checksum of its recipe, and made anew when one
of these has changed. It needs libtpu: pip install 'clr_jax[preflight]'.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from preflight_table import ROOT, about

RECORD = Path(__file__).with_suffix('.jsonl')
LARGE, BASE = {'encoder.variant': 'L'}, {'encoder.variant': 'B', 'encoder.heads': '12'}
SHARDED = {'sharded': 'True'}
CASES = [  # config, pod, what makes its size, what is to save memory
    ('dino_imagenet', 'v5p:4x4x4', LARGE, {}),
    ('dino_imagenet', 'v5p:4x4x4', LARGE, SHARDED),
    ('dino_imagenet', 'v5p:4x4x4', LARGE, {'encoder.remat': 'dots'}),
    ('dino_imagenet', 'v5p:4x4x4', LARGE, {'encoder.remat': 'full'}),
    ('dino_imagenet', 'v5p:4x4x4', LARGE, {'encoder.remat': 'full'} | SHARDED),
    ('instdisc_imagenet', 'v5e:2x4', {}, {}),
    ('instdisc_imagenet', 'v5e:2x4', {}, SHARDED),
    ('mocov3_vit_imagenet', 'v5e:4x4', BASE, {}),
    ('mocov3_vit_imagenet', 'v5e:4x4', BASE, {'encoder.remat': 'full'}),
    ('mocov3_vit_imagenet', 'v5e:4x4', BASE, {'accumulate.exact': '8'}),
    ('mocov3_vit_imagenet', 'v5e:4x4', BASE, {'accumulate.exact': '8'} | SHARDED),
    ('mocov3_vit_imagenet', 'v5e:4x4', BASE, {'accumulate.plain': '8'}),
]
HEAD = """\
| config | pod | batch | saves memory | HBM a device, GiB | of usable | state | temporaries |
|---|---|---|---|---|---|---|---|"""


def main():
    """Compile what is missing, print the table."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument('--run', action='store_true', help='compile what is not recorded')
    for case in CASES if parser.parse_args().run else ():
        if not recorded(*case):
            record(*case)
    print(table())


def named(config: str, pod: str, base: dict, changes: dict) -> dict:
    """What a record is of."""
    return {'config': config, 'pod': pod, 'base': base, 'changes': changes}


def record(config: str, pod: str, base: dict, changes: dict):
    """Compile a case and write down what is said of it."""
    flags = [f'--config={ROOT}/configs/{config}.py', f'--topology={pod}', '--json']
    flags += [f'--config.{key}={value}' for key, value in (base | changes).items()]
    print(*flags, file=sys.stderr, flush=True)
    command = [sys.executable, '-m', 'clr_jax.preflight', *flags]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 69):
        return  # it has said why
    said = json.loads(done.stdout)
    line = named(config, pod, base, changes) | about(config)
    line |= {'batch': said['batch']['global'], 'usable': said['usable'], 'fits': said['fits']}
    kept = ('state', 'memory') if said['fits'] else ('needed',)
    with RECORD.open('a') as file:
        file.write(json.dumps(line | {name: said[name] for name in kept}) + '\n')


def recorded(*case, versions: bool = True) -> dict:
    """The latest line of a case, of its recipe as it is and, unless told otherwise, these versions."""
    lines = RECORD.read_text().splitlines() if RECORD.exists() else []
    now = named(*case) | (about(case[0]) if versions else {})
    return next((x for x in map(json.loads, reversed(lines)) if now.items() <= x.items()), {})


def table() -> str:
    """What is recorded, as Markdown."""
    rows, size = [HEAD], lambda n: f'{n / 2**30:.2f}'
    for config, pod, base, changes in CASES:
        if not (line := recorded(config, pod, base, changes, versions=False)):
            continue
        words = lambda of: ', '.join(f'`{key}={value}`' for key, value in of.items())
        cells = [' '.join([config, words(base)]).strip(), pod, f'{line["batch"]:,}', words(changes)]
        if line['fits']:
            total, usable = line['memory']['total'], line['usable']
            cells += [size(total), f'{total / usable:.0%}', size(line['state'])]
            cells.append(size(line['memory']['temporaries']))
        else:
            cells += [f'{size(line["needed"])}: does not fit', '', '', '']
        rows.append(f'| {" | ".join(cells)} |')
    return '\n'.join(rows)


if __name__ == '__main__':
    main()
