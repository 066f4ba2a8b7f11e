"""The compiler for TPUs, in this process."""

import pytest

from clr_jax.preflight import answers


@pytest.fixture
def libtpu(monkeypatch):
    """libtpu's environment."""
    for name, value in answers.QUIET.items():
        monkeypatch.setenv(name, value)
