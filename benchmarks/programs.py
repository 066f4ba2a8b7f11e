"""How benchmarks call the programs of this library."""

import subprocess
import sys


def call(module: str, *flags: str):
    """`python -m module flags`, without what it prints to stdout; its failure ends the benchmark."""
    done = subprocess.run([sys.executable, '-m', module, *flags], stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f'{module} {" ".join(flags)} ended with exit code {done.returncode}')
