python := .venv/bin/python

.PHONY: check environment format lint types test smoke faults lock

check: lint types test

environment:
	@launch/environment.sh

format: environment
	$(python) -m ruff check --select I --fix .
	$(python) -m ruff format .
	$(python) -m jupytext --quiet --update --to ipynb notebooks/*.py

lint: environment
	$(python) -m ruff format --check .
	$(python) -m ruff check .

types: environment
	$(python) -m mypy

test: environment
	tests/run.sh

# Every config's laptop form, to the end: about an hour on two cores.
smoke: environment
	JAX_PLATFORMS=cpu XLA_FLAGS=--xla_backend_optimization_level=1 $(python) -m tests.every_smoke

# What happens to machines, many times, to real runs: hours.
faults: environment
	JAX_PLATFORMS=cpu $(python) -m tests.faults

# The exact versions of a fresh install; on Linux x86-64 with Python 3.11.
lock:
	python3.11 -m venv --clear .lock
	.lock/bin/python -m pip install --quiet --editable '.[dev]'
	.lock/bin/python -m pip check
	echo '# Python 3.11, Linux x86-64: a fresh install of .[dev]. Made by `make lock`.' >requirements.lock
	.lock/bin/python -m pip freeze --exclude-editable >>requirements.lock
	rm -rf .lock
