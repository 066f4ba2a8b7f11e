#!/usr/bin/env bash
# What launch/tpu_pod.sh does on each worker of a pod, in the checkout that it copied there:
#   launch/worker.sh install           an environment in .venv, with a Python of its own where the image has none
#   launch/worker.sh start [flags]     python -m clr_jax.main --multihost [flags], which outlives the connection
#   launch/worker.sh state | stop      prints one line: clr_jax: none | running | lost | exit <code>
#   launch/worker.sh log               the last lines, and what follows
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { printf 'clr_jax: %s\n' "$1" >&2; exit 1; }
run=${CLR_JAX_RUN:-$HOME/.clr_jax} # log; pid, with the boot that it is of; exit, the code
mkdir -p "$run"
boot=$(cat /proc/sys/kernel/random/boot_id)

alive() {
  local pid of
  [ ! -e "$run/exit" ] && read -r pid of 2>/dev/null <"$run/pid" || return 1
  [ "$of" = "$boot" ] && kill -0 "$pid" 2>/dev/null
}

state() {
  if [ -e "$run/exit" ]; then
    printf 'clr_jax: exit %s\n' "$(cat "$run/exit")"
  elif alive; then
    echo 'clr_jax: running'
  elif [ -e "$run/pid" ]; then
    echo 'clr_jax: lost'
  else
    echo 'clr_jax: none'
  fi
}

case ${1:-} in
  install)
    uv=$HOME/.local/bin/uv # brings Python 3.11; images of TPU VMs have an older one
    [ -x "$uv" ] || python3 -m pip install --quiet --user uv
    [ -x .venv/bin/python ] || "$uv" venv --quiet --python 3.11 .venv
    "$uv" pip install --quiet --python .venv/bin/python --constraint requirements.lock --editable '.[tpu]'
    ;;
  start)
    shift
    ! alive || fail 'a run is under way on this worker; launch/tpu_pod.sh stop ends it'
    rm -f "$run/exit"
    # the shell stays to write down how the program ended, also when both are told to stop
    # shellcheck disable=SC2016
    watch='trap : TERM; code=0; "$@" || code=$?; echo "$code" >"$0.new"; mv "$0.new" "$0"'
    # with the platform named, JAX says why it cannot use the TPU, instead of using the CPU
    JAX_PLATFORMS=tpu,cpu setsid nohup bash -c "$watch" "$run/exit" \
      "${CLR_JAX_PYTHON:-.venv/bin/python}" -m clr_jax.main --multihost "$@" >>"$run/log" 2>&1 </dev/null &
    printf '%s %s\n' "$!" "$boot" >"$run/pid"
    state
    ;;
  state) state ;;
  stop)
    read -r pid _ 2>/dev/null <"$run/pid" || true
    if alive; then kill -TERM -- "-$pid" || true; fi # it saves, and ends
    for ((second = 0; second < ${CLR_JAX_GRACE:-120}; second++)); do
      alive || break
      sleep 1
    done
    if alive; then kill -KILL -- "-$pid" || true; fi
    state
    ;;
  log) exec tail -n 100 -F "$run/log" ;;
  *) fail 'launch/worker.sh install | start [flags] | state | stop | log' ;;
esac
