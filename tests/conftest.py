"""Eight CPU devices for every test; all of it before JAX is imported."""

import os
import sys
from pathlib import Path

os.environ['JAX_PLATFORMS'] = 'cpu'
FLAGS = [
    '--xla_force_host_platform_device_count=8',
    # most of a test's time is compilation, which these nearly halve
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    os.environ.get('XLA_FLAGS', ''),
]
os.environ['XLA_FLAGS'] = ' '.join(FLAGS)
# several threads of one small decomposition spend their time waiting for each other
os.environ['OPENBLAS_NUM_THREADS'] = '1'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # configs/ and tests/ are not installed

import importlib.util  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

from clr_jax.preflight import answers  # noqa: E402


@pytest.fixture(autouse=True, scope='module')
def programs():
    """Compiled programs go with the file that made them: the system maps only so many pieces of memory
    into a process (65,530 on Linux), and XLA's compiler crashes when there are no more."""
    yield
    jax.clear_caches()


@pytest.fixture
def float64():
    """Everything in float64 inside the test: devices are compared there, where correct programs agree to 1e-12."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def libtpu(monkeypatch):
    """The compiler for TPUs, in this process. It exists for Linux on x86-64, and is part of the
    environment of development there."""
    pytest.importorskip('libtpu')
    for name, value in answers.QUIET.items():
        monkeypatch.setenv(name, value)


def config(name: str, variant: str = ''):
    """The ConfigDict of `configs/<name>.py`."""
    path = ROOT / 'configs' / f'{name}.py'
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def resolved(name: str, variant: str = '', classes: int = 10) -> dict:
    """The config as `train.fit` completes it: with what it needs of the run that is its teacher."""
    of = config(name, variant).to_dict()
    if of['teacher']['workdir']:
        teacher = Path(of['teacher']['workdir']).name.removesuffix('_smoke')
        about = {'run': resolved(teacher, variant, classes), 'examples': 10**6, 'classes': classes}
        of['teacher'] |= about
    return of
