#!/usr/bin/env bash
# Runs a program of this library as several processes with a few CPU devices each, on this machine, as a
# pod does on many: launch/local_pod.sh -n 4 -d 2 -- python -m clr_jax.main --config=...
#   -n  processes    -d  CPU devices of each    -g  seconds that the others have once one has ended
#   -l  folder for what all but the first process say (default: a new one under /tmp, named at the start)
# A SIGTERM or Ctrl-C goes on to all. Ends as they end: 0 if all do, else with a code that says that trying again
# is of no use, if one of them has it, else with that of the first that failed.
set -euo pipefail

fail() { printf 'local_pod: %s\n' "$1" >&2; exit 64; }
number() { [[ $2 =~ ^[1-9][0-9]{0,3}$ ]] || fail "$1 needs a number above zero, not '$2'"; }

n=2 d=1 grace=30 logs=''
while getopts ':n:d:g:l:' option; do
  case $option in
    n) number -n "$OPTARG"; n=$OPTARG ;;
    d) number -d "$OPTARG"; d=$OPTARG ;;
    g) number -g "$OPTARG"; grace=$OPTARG ;;
    l) logs=$OPTARG ;;
    *) fail "-$OPTARG is unknown or lacks its value; see the first lines of this script" ;;
  esac
done
shift $((OPTIND - 1))
(($#)) || fail 'no command: launch/local_pod.sh -n 4 -d 2 -- python -m clr_jax.main --config=...'
[ -n "$logs" ] || logs=$(mktemp -d "${TMPDIR:-/tmp}/local_pod.XXXXXX")
mkdir -p "$logs"

free='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port=$(python3 -c "$free")
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$d"

pids=() codes=()
everyone() { # signal: to those that still run
  local i
  for ((i = 0; i < ${#pids[@]}; i++)); do
    [ -n "${codes[i]}" ] || kill "-$1" "${pids[i]}" 2>/dev/null || true
  done
}
ending=0 # when the others are killed, by $SECONDS; 0: not yet
trap 'everyone TERM; ((ending)) || ending=$((SECONDS + grace))' TERM INT
trap 'everyone KILL' EXIT

for ((i = 0; i < n; i++)); do
  join=("--coordinator=127.0.0.1:$port" "--processes=$n" "--process=$i")
  if ((i)); then "$@" "${join[@]}" >"$logs/$i" 2>&1 & else "$@" "${join[@]}" & fi
  pids+=($!) codes+=('')
done
printf 'local_pod: processes %s; all but the first write to %s/\n' "${pids[*]}" "$logs" >&2

first=0 left=$n
while ((left)); do
  sleep 0.2 || true # a signal may end it
  for ((i = 0; i < n; i++)); do
    if [ -n "${codes[i]}" ] || kill -0 "${pids[i]}" 2>/dev/null; then continue; fi
    code=0
    wait "${pids[i]}" || code=$?
    codes[i]=$code left=$((left - 1))
    ((code == 0 || first)) || first=$code
    ((code == 0 || ending)) || ending=$((SECONDS + grace))
  done
  ((!ending || SECONDS < ending)) || everyone KILL
done

for ((i = 1; i < n; i++)); do
  case ${codes[i]} in
    0 | 42) ;;
    *) printf 'local_pod: process %s ended with %s:\n' "$i" "${codes[i]}" >&2; tail -n 20 "$logs/$i" >&2 ;;
  esac
done
for code in "${codes[@]}"; do
  case $code in 64 | 65 | 66 | 70 | 73 | 78) exit "$code" ;; esac
done
exit "$first"
