#!/usr/bin/env bash
# A Cloud TPU pod, from the first command to the last: launch/tpu_pod.sh COMMAND OPTIONS [-- FLAGS of clr_jax.main]
#
#   keep      create, install, start, and do so again after a preemption or a crash until the run is done
#   create    the machines           install   this commit, and its environment, on all workers
#   start     the run on all workers state     of the machines and of the run on each worker
#   log       of the first worker    stop      the run, which saves first
#   delete    the machines
#
#   --name=NAME --zone=ZONE    of the pod; [--project=PROJECT] else gcloud's own
#   --type=TYPE                of accelerators, as v5litepod-64, for keep and create
#   --spot | --reserved        else on demand        --queued     as a queued resource: wait for capacity
#   --slices=N                 several slices, as one queued resource; nodes are NAME-0, NAME-1, ...
#   --version=IMAGE            of the TPU VM; else the one for the type
#   --workdir=gs://...         of the run, for keep and start; what a preemption does not take away
#   --restarts=50              how often keep starts again
#   --internal-ip | --iap      how to reach the workers where they have no public address
#   --dry-run                  print the commands instead, to be pasted
#
# Give every command of a pod the same options. An interrupted keep leaves the run alone; the same command goes on
# watching it. keep ends with the run's exit code, or with 69 when it has started too often.
set -euo pipefail

say() { printf 'tpu_pod: %s\n' "$1" >&2; }
fail() { say "$1"; exit 64; }
match() { [[ $2 =~ ^$3$ ]] || fail "$1 is not one: '$2'"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
command=${1:-}
case $command in
  keep | create | install | start | state | log | stop | delete) shift ;;
  *) fail "COMMAND is keep, create, install, start, state, log, stop or delete, not '$command'" ;;
esac
name='' zone='' project='' type='' version='' workdir='' slices=1 restarts=50
queued='' dry='' kind=() reach=()
while (($#)); do
  value=${1#*=}
  case $1 in
    --name=*) match --name "$value" '[a-z]([-a-z0-9]{0,55}[a-z0-9])?'; name=$value ;;
    --zone=*) match --zone "$value" '[a-z]+-[a-z]+[0-9]+-[a-z]'; zone=$value ;;
    --project=*) match --project "$value" '[a-z][-a-z0-9.:]{3,60}'; project=$value ;;
    --type=*) match --type "$value" '[a-z0-9]+-[0-9]+'; type=$value ;;
    --version=*) match --version "$value" '[a-z][-a-z0-9.]+'; version=$value ;;
    --workdir=*) match --workdir "$value" '(gs:/|/mnt)(/[-A-Za-z0-9._=+]+)+'; workdir=$value ;;
    --slices=*) match --slices "$value" '[1-9][0-9]{0,2}'; slices=$value ;;
    --restarts=*) match --restarts "$value" '[0-9]{1,4}'; restarts=$value ;;
    --spot) kind=(--spot) ;;
    --reserved) kind=(--reserved) ;;
    --queued) queued=1 ;;
    --internal-ip) reach=(--internal-ip) ;;
    --iap) reach=(--tunnel-through-iap) ;;
    --dry-run) dry=1 ;;
    --) shift; break ;;
    *) fail "'$1' is unknown; options are --name=value, see the first lines of this script" ;;
  esac
  shift
done
[ -n "$name" ] || fail '--name is missing'
[ -n "$zone" ] || fail '--zone is missing'
case $command in keep | create) [ -n "$type" ] || fail '--type is missing' ;; esac
case $command in
  keep | start)
    [ -n "$workdir" ] || fail '--workdir is missing: gs://... or a shared file system below /mnt/'
    (($#)) || fail 'what to run is missing: -- --config=configs/simclr_imagenet.py'
    ;;
  *) (($# == 0)) || fail "$command runs nothing: '$1'" ;;
esac
for word in "$@"; do [[ $word == -* ]] || fail "flags of clr_jax.main are --name=value, not '$word'"; done
flags=("$@" "--workdir=$workdir" '--compilation_cache=~/.cache/clr_jax/programs')

if [ -z "$version" ]; then
  case $type in
    v6e-*) version=v2-alpha-tpuv6e ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    *) version=tpu-ubuntu2204-base ;;
  esac
fi
where=("--zone=$zone")
[ -z "$project" ] || where+=("--project=$project")
nodes=("$name")
if ((slices > 1)); then
  queued=1 nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi

quoted() { printf '%q ' "$@"; }
run() { if [ -n "$dry" ]; then printf '%s\n' "$(quoted "$@")"; else "$@"; fi; }
tpu() { run gcloud compute tpus "$@"; }
ssh_to() { # node, workers, command
  tpu tpu-vm ssh "$1" "${where[@]}" ${reach[@]+"${reach[@]}"} "--worker=$2" "--command=$3"
}
everywhere() { # on all workers of all slices, whatever happens on others
  local node failed=0
  for node in "${nodes[@]}"; do ssh_to "$node" all "$1" || failed=$?; done
  return "$failed"
}

create() {
  if [ -z "$queued" ]; then
    tpu tpu-vm create "$name" "${where[@]}" "--accelerator-type=$type" "--version=$version" ${kind[@]+"${kind[@]}"}
    return
  fi
  local of=("--node-id=$name")
  ((slices == 1)) || of=("--node-count=$slices" "--node-prefix=$name")
  tpu queued-resources create "$name" "${where[@]}" "${of[@]}" \
    "--accelerator-type=$type" "--runtime-version=$version" ${kind[@]+"${kind[@]}"}
}

delete() {
  if [ -n "$queued" ]; then
    tpu queued-resources delete "$name" "${where[@]}" --force --quiet
  else
    tpu tpu-vm delete "$name" "${where[@]}" --quiet
  fi
}

install() {
  local archive=${TMPDIR:-/tmp}/clr_jax-$name.tar.gz node
  [ -z "$(git -C "$root" status --porcelain)" ] || say 'what is not committed is not copied'
  run git -C "$root" archive --format=tar.gz -o "$archive" HEAD
  for node in "${nodes[@]}"; do
    tpu tpu-vm scp "$archive" "$node:clr_jax.tar.gz" "${where[@]}" ${reach[@]+"${reach[@]}"} --worker=all || return
  done
  everywhere 'mkdir -p clr_jax && tar -xzf clr_jax.tar.gz -C clr_jax && clr_jax/launch/worker.sh install'
}

start() { everywhere "clr_jax/launch/worker.sh start $(quoted "${flags[@]}")"; }

described() { # kind, name, field: its value; absent, or unknown where Google does not say
  local said
  if said=$(gcloud compute tpus "$1" describe "$2" "${where[@]}" "--format=value($3)" 2>&1); then
    printf '%s\n' "${said##*$'\n'}"
  elif [[ $said == *NOT_FOUND* || $said == *'not found'* ]]; then
    echo absent
  else
    say "$said"
    echo unknown
  fi
}

machines() { # in one word: absent, coming, ready, gone or unknown
  local node state all=ready
  if [ -n "$queued" ]; then
    state=$(described queued-resources "$name" state.state)
    case $state in
      ACTIVE) ;;
      absent | unknown) echo "$state"; return ;;
      FAILED | SUSPENDED | SUSPENDING) echo gone; return ;;
      *) echo coming; return ;;
    esac
  fi
  for node in "${nodes[@]}"; do
    state=$(described tpu-vm "$node" state)
    case $state in
      READY) ;;
      absent) all=${queued:+gone}; all=${all:-absent} ; break ;;
      PREEMPTED | TERMINATED | STOPPED | STOPPING | SUSPENDED | SUSPENDING) all=gone; break ;;
      unknown) all=unknown ;;
      *) [ "$all" = unknown ] || all=coming ;;
    esac
  done
  echo "$all"
}

ask='if [ -x clr_jax/launch/worker.sh ]; then clr_jax/launch/worker.sh state; else echo clr_jax: absent; fi'
# The state of the run on each worker, a line each; fails where one cannot be reached.
workers() {
  local said
  said=$(everywhere "$ask") || return
  grep -o 'clr_jax: [a-z]*\( [0-9]*\)\?' <<<"$said"
}

keep() {
  local lines line failed ending=0 attempts=0
  again() { # why
    say "$1"
    attempts=$((attempts + 1)) ending=0
    ((attempts <= restarts + 1)) || { say "started $((attempts - 1)) times; --restarts=$restarts"; exit 69; }
  }
  while :; do
    case $(machines) in
      absent) again 'creating the machines'; create || say 'not created; trying again' ;;
      gone) say 'the machines are gone'; delete || say 'not deleted; trying again' ;;
      ready)
        if ! lines=$(workers); then
          say 'a worker cannot be reached; trying again'
        elif [[ $lines == *absent* ]]; then
          install || again 'not installed; trying again'
        elif line=$(grep -Em1 ' (64|65|66|70|73|78)$' <<<"$lines"); then
          say "the run ended with ${line##* }, and would again: launch/tpu_pod.sh log tells why, delete ends the machines"
          everywhere 'clr_jax/launch/worker.sh stop' || true
          exit "${line##* }"
        elif ! grep -qv ' exit 0$' <<<"$lines"; then
          say 'done; the machines are still there: launch/tpu_pod.sh delete'
          exit 0
        elif failed=$(grep -Ev 'running$' <<<"$lines") && [[ $lines != *running* || $ending -ge 5 ]]; then
          # all have ended, or some linger: in order or not, from its last checkpoint it goes on
          [[ $failed == *none* ]] || again "starting again after: ${failed//$'\n'/, }"
          [[ $lines != *running* ]] || everywhere 'clr_jax/launch/worker.sh stop' || true
          start || say 'not started; trying again'
          ending=0
        elif [ -n "$failed" ]; then
          ending=$((ending + 1))
        fi
        ;;
      *) ;;
    esac
    sleep "${TPU_POD_POLL:-30}"
  done
}

case $command in
  create | delete | install | start) "$command" ;;
  state)
    [ -n "$dry" ] || machines
    everywhere "$ask"
    ;;
  stop) everywhere 'clr_jax/launch/worker.sh stop' ;;
  log) ssh_to "${nodes[0]}" 0 'clr_jax/launch/worker.sh log' ;;
  keep) if [ -n "$dry" ]; then create && install && start; else keep; fi ;;
esac
