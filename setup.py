"""Package metadata. Lower bounds: those of requirements.lock; upper bounds: the last tested."""

from pathlib import Path

from setuptools import find_packages, setup

SOURCE = (Path(__file__).parent / 'clr_jax' / '__init__.py').read_text(encoding='utf-8')
VERSION = SOURCE.split("__version__ = '")[1].split("'")[0]

# TensorFlow's CPU-only build exists for one platform. Never both: they write the same folder.
LINUX_X86 = 'platform_system == "Linux" and platform_machine == "x86_64"'
ELSEWHERE = 'platform_system != "Linux" or platform_machine != "x86_64"'

# The compiler for TPUs that this JAX accepts: to run on them, or (preflight) to compile for them anywhere.
TPU = ['jax[tpu]>=0.10.2,<0.13']
TEXT = ['tokenizers>=0.23']
NOTEBOOKS = ['ipykernel>=7.4', 'jupytext>=1.19', 'matplotlib>=3.11', 'nbclient>=0.11']

setup(
    name='clr_jax',
    version=VERSION,
    description='Self-supervised contrastive learning in JAX, exact on any number of devices',
    license='Apache-2.0',
    python_requires='>=3.11,<3.14',
    packages=find_packages(include=['clr_jax', 'clr_jax.*']),
    install_requires=[
        'absl-py>=2.5',
        'clu>=0.0.12',
        'flax>=0.12.8,<0.13',
        'importlib_resources>=7.1',  # tensorflow-datasets needs it and does not declare it
        'jax>=0.10.2,<0.13',
        'ml-collections>=1.1',
        'numpy>=2.4',
        'optax>=0.2.8,<0.3',
        'orbax-checkpoint>=0.12.8,<0.13',
        'safetensors>=0.8',
        'scikit-learn>=1.9',
        'scipy>=1.17',
        'tensorboard>=2.21',  # likewise clu
        'tensorflow-datasets>=4.9.10',
        f'tensorflow-cpu>=2.21,<2.22; {LINUX_X86}',
        f'tensorflow>=2.21,<2.22; {ELSEWHERE}',
    ],
    extras_require={
        'tpu': TPU,
        'preflight': TPU,
        'text': TEXT,
        'notebooks': NOTEBOOKS,
        'dev': [
            *TEXT,
            *NOTEBOOKS,
            f'jax[tpu]>=0.10.2,<0.13; {LINUX_X86}',
            'mypy>=2.4',
            'pre-commit>=4.7',
            'pytest>=9.2',
            'pytest-xdist>=3.8',
            'ruff>=0.17,<0.18',  # another series may format differently
        ],
    },
)
