#!/usr/bin/env bash
# Trains SimCLR on scikit-learn's digits and evaluates it, environment included: launch/local.sh [flags]
# Runs on the CPU; JAX_PLATFORMS=cuda or tpu chooses an accelerator whose JAX is installed in .venv.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname "$0")/environment.sh"

export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
# Two virtual devices, so that the collectives of a pod run here too; as fast as one.
[ "$JAX_PLATFORMS" != cpu ] || export XLA_FLAGS="--xla_force_host_platform_device_count=2 ${XLA_FLAGS:-}"

workdir=runs/simclr_digits
"$python" -m clr_jax.main --config=configs/simclr_digits.py --workdir="$workdir" "$@"
"$python" -m clr_jax.evaluate --workdir="$workdir" --protocol=knn --labels_per_class=1 --draws=20 --baselines
"$python" -m clr_jax.evaluate --workdir="$workdir" --protocol=knn --baselines
