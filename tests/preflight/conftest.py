"""The compiler for TPUs, in this process."""

import pytest

from clr_jax.preflight import answers


@pytest.fixture
def libtpu(monkeypatch):
    """libtpu and its environment. It exists for Linux on x86-64, and is part of the environment of
    development there."""
    pytest.importorskip('libtpu')
    for name, value in answers.QUIET.items():
        monkeypatch.setenv(name, value)
