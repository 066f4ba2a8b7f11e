#!/usr/bin/env bash
# Makes this checkout's environment, .venv, or finds it up to date. Sourced by the other scripts; leaves
# them in the checkout, with .venv's interpreter in $python. PYTHON=... chooses what .venv is made from.
# Exactly requirements.lock where that was made (Python 3.11, Linux x86-64), else what setup.py allows.
set -euo pipefail

say() { printf 'clr_jax: %s\n' "$1" >&2; }
fail() { say "$1"; exit 1; }

candidates=(python3 python3.11 python3.12 python3.13)
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
base='' unequipped=''
for candidate in "${candidates[@]}"; do
  # Run it: a name on the PATH may be a version manager's placeholder.
  "$candidate" -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14)' 2>/dev/null || continue
  if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
    base=$("$candidate" -c 'import sys; print(sys.executable)')
    break
  fi
  unequipped=$candidate
done
if [ -z "$base" ]; then
  [ -z "$unequipped" ] || fail "$unequipped lacks venv; install it (Debian, Ubuntu: apt install python3-venv)"
  fail "needs Python 3.11, 3.12 or 3.13, tried ${candidates[*]}; name one with PYTHON=/path/to/python"
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$PWD/.venv/bin/python
version=$("$base" -V)
stamp="$PWD, $version, $(cat setup.py requirements.lock | cksum)" # what the environment was made for

install() {
  "$python" -m pip install -qq --disable-pip-version-check "$@" ||
    fail 'pip failed, see above; the same command tries again'
}

if ! [ -x "$python" ] || [ "$(cat .venv/stamp 2>/dev/null)" != "$stamp" ]; then
  say "making the environment in .venv with $version: 4 GB on disk, some minutes ..."
  if [ "$("$python" -V 2>/dev/null)" != "$version" ] || ! "$python" -m pip -V >/dev/null 2>&1; then
    "$base" -m venv --clear .venv
  fi
  platform=$("$python" -c 'import platform as p; print(p.system(), p.machine(), p.python_version()[:4])')
  if [ "$platform" = 'Linux x86_64 3.11' ]; then
    install -r requirements.lock
    install --no-deps -e .
  else
    install -e '.[dev]'
  fi
  printf '%s\n' "$stamp" >.venv/stamp
  say 'the environment is ready'
fi
