#!/usr/bin/env bash
# Runs the tests on the CPU, environment included: tests/run.sh [pytest arguments]
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/../launch/environment.sh"

export JAX_PLATFORMS=cpu
# A worker that crashes ends the run: to replace it would hang it.
exec "$python" -m pytest -n 2 --dist loadfile --max-worker-restart=0 "$@"
