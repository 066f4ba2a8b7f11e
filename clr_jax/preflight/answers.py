"""Questions to the TPU compiler, each in a process of its own with a time limit, and the answers kept."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import clr_jax
from clr_jax.entry import CONFIG, STUCK, Problem, writing

# libtpu looks for a machine around it: these keep it to what it is told, without a word.
QUIET = {
    'JAX_PLATFORMS': 'cpu',  # the TPUs are the compiler's alone
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-16',  # any
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_STDERR_LOG_LEVEL': '3',
    'TPU_MIN_LOG_LEVEL': '3',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # its lock is for machines with TPUs
    'TF_CPP_MIN_LOG_LEVEL': '3',
}
# of the user's run, not of this: they would change the program
LOUD = ('JAX_', 'XLA_', 'LIBTPU_', 'TPU_')


def versions() -> dict[str, str]:
    """Of what compiles; raises Problem where libtpu is not installed."""
    if importlib.util.find_spec('libtpu') is None:
        mend = "pip install 'clr_jax[preflight]'"
        raise Problem(f'preflight needs libtpu, the compiler for TPUs: {mend}', CONFIG)
    named = {name: importlib.metadata.version(name) for name in ('libtpu', 'jax', 'jaxlib')}
    return named | {'clr_jax': clr_jax.__version__}


def answer(request: dict, minutes: float, cache: bool = True) -> dict:
    """`program.facts` of a request, from the cache if it has been asked before with the same versions
    and the same source. Raises Problem for what the process refuses, and when its time is over."""
    kept = folder() / f'{key(request)}.json'
    if cache and kept.is_file():
        return json.loads(kept.read_text())
    said = _ask(request, minutes)
    if cache:
        with writing(f'the cache of preflight, {kept.parent} (--nocache: without),'):
            kept.parent.mkdir(parents=True, exist_ok=True)
            temporary = kept.with_suffix(f'.{os.getpid()}')
            temporary.write_text(json.dumps(said))
            temporary.replace(kept)
    return said


def folder() -> Path:
    """Where answers are kept."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(home) / 'clr_jax' / 'preflight'


def key(request: dict) -> str:
    """The name of an answer: other contents, versions or source, another name."""
    root = Path(clr_jax.__file__).parent
    source = b''.join(path.read_bytes() for path in sorted(root.rglob('*.py')))
    asked = json.dumps([request, versions(), hashlib.sha256(source).hexdigest()], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:32]


def environment() -> dict[str, str]:
    """The environment of the compiling process."""
    return {k: v for k, v in os.environ.items() if not k.startswith(LOUD)} | QUIET


def _ask(request: dict, minutes: float) -> dict:
    with tempfile.TemporaryDirectory() as inside:
        question, said = Path(inside) / 'request.json', Path(inside) / 'facts.json'
        question.write_text(json.dumps(request))
        command = [sys.executable, '-m', 'clr_jax.preflight.program', str(question), str(said)]
        try:
            done = subprocess.run(
                command, env=environment(), timeout=60 * minutes, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            over = f'the TPU compiler has not ended after --timeout={minutes:g} minutes'
            raise Problem(f'{over}: give it more', STUCK) from None
        if not said.is_file():
            words = done.stderr.strip().splitlines() or ['it said nothing']
            how = f'ended with exit code {done.returncode}: {words[-1]}'
            raise Problem(f'the process that compiles {how}', 1)
        facts = json.loads(said.read_text())
    if 'problem' in facts:
        raise Problem(facts['problem'], facts['code'])
    return facts
