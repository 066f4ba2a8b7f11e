"""Runs the `:smoke` form of every config to its end, as a user would: `make smoke`.

Each is a process of its own; those that start from another's run come after it. What is done is kept
in runs/, so that the same command goes on where it was stopped.
"""

import subprocess
import sys
import time

from tests.conftest import ROOT, config

NAMES = sorted(path.stem for path in (ROOT / 'configs').glob('*.py'))


def needs(name: str) -> set:
    """The runs that a config's smoke form begins with."""
    of = config(name, 'smoke')
    return {run for run in (of.pretrained.workdir, of.teacher.workdir) if run}


def main():
    """Run what has not ended yet; exit code 1 if any of them fails."""
    chosen, failed = sys.argv[1:] or NAMES, []
    for name in sorted(chosen, key=lambda name: (depth(name), name)):
        workdir = ROOT / 'runs' / f'{name}_smoke'
        if (workdir / 'done').exists():
            continue
        begun = time.monotonic()
        command = [sys.executable, '-m', 'clr_jax.main', f'--config=configs/{name}.py:smoke']
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            failed.append(name)
            print(done.stderr[-2000:])
        else:
            (workdir / 'done').touch()
        last = done.stderr.strip().split('\n')[-2:]
        print(
            f'{name}: exit {done.returncode}, {time.monotonic() - begun:.0f} s, {last}', flush=True
        )
    print(f'{len(chosen) - len(failed)} of {len(chosen)} ran to the end', *failed)
    sys.exit(bool(failed))


def depth(name: str) -> int:
    """How many runs come before it."""
    before = [run.removeprefix('runs/').removesuffix('_smoke') for run in needs(name)]
    return max((1 + depth(other) for other in before), default=0)


if __name__ == '__main__':
    main()
