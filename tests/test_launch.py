"""The launchers: a pod is made, used and given back by the commands that are printed, what is said to its
shells arrives as it was meant, and a run goes on until it is done or cannot be.

There is no Google Cloud here: `gcloud` is a script that writes down what it is asked, answers as told, and
runs what is meant for a worker in a folder of this machine.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time

import pytest

from tests.conftest import ROOT

POD = ROOT / 'launch' / 'tpu_pod.sh'
GCLOUD = r"""#!/usr/bin/env bash
set -u
printf '%q ' "$@" >>"$FAKE/calls"
echo >>"$FAKE/calls"
next() { local line; IFS= read -r line <"$FAKE/$1" || return; sed -i 1d "$FAKE/$1"; printf '%s' "$line"; }
what="$3 $4" node=$5
case $what in
  *' describe') answer=$(next states) || answer=READY
    case $answer in ERROR*) echo "$answer" >&2; exit 1 ;; esac
    echo "$answer" ;;
  *' create' | *' delete')
    read -r pid _ 2>/dev/null <"$FAKE/$node/.clr_jax/pid" && kill -KILL -- "-$pid"
    rm -rf "${FAKE:?}/$node" ;;
  *' scp') mkdir -p "$FAKE/${6%%:*}"; cp "$5" "$FAKE/${6#*:}"; mv "$FAKE/${6#*:}" "$FAKE/${6%%:*}/" ;;
  *' ssh')
    ! [ -e "$FAKE/deaf" ] || { rm "$FAKE/deaf"; exit 255; }
    mkdir -p "$FAKE/$node/.local/bin" && cd "$FAKE/$node" && ln -sf "$FAKE/uv" .local/bin/uv
    HOME=$PWD bash -c "${!##--command=}" ;;
esac
"""
# The environment of a worker, and the program there: it says what it was given, and ends as it is told.
UV = '#!/bin/sh\nmkdir -p .venv/bin && ln -sf "$FAKE/python" .venv/bin/python\n'
PYTHON = r"""#!/usr/bin/env bash
for word; do printf '%s\n' "$word" >>"$FAKE/given"; done
[ "$JAX_PLATFORMS" = tpu,cpu ] || exit 99
trap 'exit 42' TERM
read -r code <"$FAKE/codes" && sed -i 1d "$FAKE/codes"
if [ "$code" = wait ]; then while :; do sleep 0.1; done; fi
exit "$code"
"""


class Fake:
    """Google Cloud, as a folder."""

    def __init__(self, folder):
        self.folder, self.bin = folder, folder / 'bin'
        self.bin.mkdir()
        for path, text in (('bin/gcloud', GCLOUD), ('uv', UV), ('python', PYTHON)):
            (folder / path).write_text(text)
            (folder / path).chmod(0o755)
        for name in ('calls', 'states', 'codes', 'given'):
            (folder / name).touch()
        (folder / 'config').mkdir()
        kept = {name: os.environ[name] for name in ('HOME', 'LANG') if name in os.environ}
        self.env = kept | {'PATH': f'{self.bin}:/usr/bin:/bin', 'FAKE': str(folder)}
        self.env |= {'TPU_POD_POLL': '0.1', 'CLR_JAX_GRACE': '30'}
        self.env |= {'CLOUDSDK_CONFIG': str(folder / 'config'), 'TMPDIR': str(folder)}

    def told(self, name: str, *lines):
        """What it will answer, one line after the other."""
        (self.folder / name).write_text(''.join(f'{line}\n' for line in lines))

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of every call after `gcloud compute tpus`."""
        calls = [shlex.split(line) for line in self.lines('calls')]
        assert all(call[:2] == ['compute', 'tpus'] for call in calls)
        return [call[2:] for call in calls]

    def run(self, *words, script=POD, **env):
        command = [str(word) for word in (script, *words)]
        env = self.env | env
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def fake(tmp_path):
    fake = Fake(tmp_path)
    found = fake.run('-c', 'command -v gcloud', script=shutil.which('bash')).stdout.strip()
    assert found == str(fake.bin / 'gcloud')  # a real one on this machine is not the one in use
    yield fake
    for path in tmp_path.glob('*/.clr_jax/pid'):
        fake.run('stop', script=path.parents[1] / 'clr_jax/launch/worker.sh', HOME=path.parents[1])


HERE = '--name=pod', '--zone=us-central2-b'
TO = '--workdir=gs://bucket/run'
FLAGS = '--', '--config=configs/simclr_imagenet.py'


# What is asked of Google.


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (
            ['--type=v4-32'],
            'tpu-vm create pod --zone=us-central2-b --accelerator-type=v4-32 '
            '--version=tpu-ubuntu2204-base',
        ),
        (
            ['--type=v6e-8', '--spot', '--project=mine-1'],
            'tpu-vm create pod --zone=us-central2-b --project=mine-1 --accelerator-type=v6e-8 '
            '--version=v2-alpha-tpuv6e --spot',
        ),
        (
            ['--type=v5p-64', '--queued', '--reserved'],
            'queued-resources create pod --zone=us-central2-b --node-id=pod '
            '--accelerator-type=v5p-64 --runtime-version=v2-alpha-tpuv5 --reserved',
        ),
        (
            ['--type=v5litepod-256', '--slices=2', '--version=my-image'],
            'queued-resources create pod --zone=us-central2-b --node-count=2 --node-prefix=pod '
            '--accelerator-type=v5litepod-256 --runtime-version=my-image',
        ),
    ],
)
def test_machines_are_made_as_asked(fake, options, said):
    assert fake.run('create', *HERE, *options).returncode == 0
    assert fake.calls == [said.split()]


def test_machines_are_given_back(fake):
    fake.run('delete', *HERE)
    fake.run('delete', *HERE, '--slices=3')
    where = ['pod', '--zone=us-central2-b']
    queued = ['queued-resources', 'delete', *where, '--force', '--quiet']
    assert fake.calls == [['tpu-vm', 'delete', *where, '--quiet'], queued]


@pytest.mark.parametrize(
    ('option', 'flag'), [('--internal-ip', '--internal-ip'), ('--iap', '--tunnel-through-iap')]
)
def test_every_worker_of_every_slice_is_reached(fake, option, flag):
    fake.run('stop', *HERE, '--slices=2', option)
    assert [(call[2], call[4], call[5]) for call in fake.calls] == [
        ('pod-0', flag, '--worker=all'),
        ('pod-1', flag, '--worker=all'),
    ]


@pytest.mark.parametrize(
    'words',
    [
        ['create', '--zone=us-central2-b', '--type=v4-8', '--name=x;touch y'],
        ['create', '--zone=us-central2-b', '--type=v4-8', '--name=$(id)'],
        ['create', '--zone=us-central2-b', '--type=v4-8', '--name=Pod'],
        ['create', '--name=pod', '--zone=us central', '--type=v4-8'],
        ['create', *HERE, '--type=v4-8 --help'],
        ['create', *HERE, '--type=v4-8', '--slices=0'],
        ['create', *HERE, '--type=v4-8', '--project=`id`'],
        ['create', *HERE, '--type=v4-8', '--spoty'],
        ['create', *HERE],
        ['create', '--name=pod', '--type=v4-8'],
        ['create', '--zone=us-central2-b', '--type=v4-8'],
        ['create', *HERE, '--name'],
        ['start', *HERE, TO],
        ['start', *HERE, *FLAGS],
        ['start', *HERE, '--workdir=runs/x', *FLAGS],
        ['start', *HERE, '--workdir=gs://bucket/a b', *FLAGS],
        ['start', *HERE, TO, '--', 'python', 'x.py'],
        ['delete', *HERE, *FLAGS],
        ['destroy', *HERE],
        [],
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line_before_any_call(fake, words):
    done = fake.run(*words)
    assert (done.returncode, done.stdout, fake.calls) == (64, '', [])
    assert done.stderr.startswith('tpu_pod: ')
    assert len(done.stderr.splitlines()) == 1


def test_a_dry_run_calls_nobody_and_what_it_prints_does_the_same(fake):
    words = 'keep', *HERE, '--type=v4-8', '--slices=2', TO, *FLAGS, "--config.data.path=a 'b' $c"
    fake.told('codes', 0, 0)
    dry = fake.run(words[0], '--dry-run', *words[1:])
    assert (dry.returncode, fake.calls) == (0, [])
    assert fake.run('-c', f'set -e\n{dry.stdout}', script='/bin/bash').returncode == 0
    pasted = fake.calls
    assert [call[:2] for call in pasted] == [
        ['queued-resources', 'create'],
        *2 * [['tpu-vm', 'scp']],
        *4 * [['tpu-vm', 'ssh']],
    ]
    fake.told('calls')
    fake.told('codes', 0, 0)
    shutil.rmtree(fake.folder / 'pod-0')
    for step in ('create', 'install', 'start'):
        what = words[1:] if step == 'start' else words[1:5]
        assert fake.run(step, *[w for w in what if w != '--type=v4-8' or step == 'create'])
    assert fake.calls == pasted


# What arrives on a worker.


def test_words_arrive_as_they_were_given(fake):
    strange = '--config.data.path=/a b/$HOME/`id`/"c"/\'d\'/*;echo'
    fake.told('codes', 0)
    fake.run('install', *HERE)
    assert fake.run('start', *HERE, TO, *FLAGS, strange).returncode == 0
    while not fake.lines('given')[-1:] == ['--compilation_cache=~/.cache/clr_jax/programs']:
        time.sleep(0.05)
    assert fake.lines('given') == [
        *('-m', 'clr_jax.main', '--multihost', FLAGS[1], strange, TO),
        '--compilation_cache=~/.cache/clr_jax/programs',
    ]


def state(fake) -> str:
    return fake.run('state', *HERE).stdout.splitlines()[-1]


def wait_for(fake, wanted: str):
    deadline = time.monotonic() + 60
    while state(fake) != wanted:
        assert time.monotonic() < deadline, state(fake)
        time.sleep(0.1)


def test_the_life_of_a_run_on_a_worker(fake):
    assert state(fake) == 'clr_jax: absent'
    fake.run('install', *HERE)
    assert state(fake) == 'clr_jax: none'
    fake.told('codes', 'wait', 0)
    start = 'start', *HERE, TO, *FLAGS
    fake.run(*start)
    assert state(fake) == 'clr_jax: running'
    again = fake.run(*start)
    assert again.returncode != 0
    assert 'a run is under way on this worker' in again.stderr
    wait_for(fake, 'clr_jax: running')
    while not fake.lines('given'):  # it listens from then on
        time.sleep(0.05)
    assert fake.run('stop', *HERE).stdout == 'clr_jax: exit 42\n'
    fake.run(*start)
    wait_for(fake, 'clr_jax: exit 0')
    (fake.folder / 'pod' / '.clr_jax' / 'exit').unlink()  # as after the machine began anew
    wait_for(fake, 'clr_jax: lost')


# A run is kept going.


def keep(fake, *options):
    return fake.run('keep', *HERE, '--type=v4-8', *options, TO, *FLAGS)


def acts(fake) -> list[str]:
    """What was done, in short, without looking."""
    names = {'create': 'create', 'delete': 'delete', 'scp': 'copy'}
    found = []
    for call in fake.calls:
        acted = names.get(call[1]) or re.search(r'worker.sh (install|start|stop)', call[-1])
        if acted:
            found.append(acted if isinstance(acted, str) else acted[1])
    return found


def test_a_run_is_kept_going_through_preemptions_and_crashes(fake):
    lost = 'ERROR: (gcloud) NOT_FOUND: no such node'
    fake.told('states', lost, 'CREATING', *10 * ['READY'], 'PREEMPTED', lost)
    fake.told('codes', 42, 'wait', 1, 0)
    done = keep(fake, '--spot')
    assert done.returncode == 0, done.stderr
    new = ['create', 'copy', 'install', 'start']
    found = acts(fake)
    assert found == [*new, 'start', 'delete', *new, 'start']  # after 42; preempted; after 1
    given = [word for word in fake.lines('given') if word.startswith('--workdir')]
    assert given == 4 * [TO]
    assert done.stderr.splitlines()[-1].startswith('tpu_pod: done; the machines are still there')


@pytest.mark.parametrize('code', [65, 78])
def test_what_would_end_so_again_is_not_started_again(fake, code):
    fake.run('install', *HERE)
    fake.told('codes', code, 0)
    done = keep(fake)
    assert done.returncode == code
    assert acts(fake).count('start') == 1


def test_it_is_not_started_for_ever(fake):
    fake.run('install', *HERE)
    fake.told('codes', *9 * [1])
    assert keep(fake, '--restarts=2').returncode == 69
    assert acts(fake).count('start') == 4


def test_what_cannot_be_seen_is_not_taken_for_gone(fake):
    """A network that fails for a moment must not cost a pod."""
    fake.run('install', *HERE)
    fake.told('codes', 0)
    fake.told('states', 'ERROR: (gcloud) connection reset', 'READY')
    (fake.folder / 'deaf').touch()
    assert keep(fake).returncode == 0
    assert not {'create', 'delete'} & set(acts(fake))


# A pod of this machine.

WORKER = """
    import os, signal, sys, time
    words = dict(word[2:].split('=') for word in sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: os._exit(42))
    print(words, os.environ['JAX_PLATFORMS'], os.environ['XLA_FLAGS'], flush=True)
    {act}
"""


def local_pod(folder, act: str, *options):
    path = folder / 'worker.py'
    path.write_text(textwrap.dedent(WORKER).format(act=act))
    words = [ROOT / 'launch' / 'local_pod.sh', *options, '-l', folder / 'logs', '--']
    return subprocess.Popen(
        [*map(str, words), sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_know_each_other_and_their_devices(tmp_path):
    pod = local_pod(tmp_path, 'pass', '-n', '3', '-d', '2')
    out, err = pod.communicate(timeout=60)
    assert pod.returncode == 0, err
    said = [out, *((tmp_path / 'logs' / str(i)).read_text() for i in (1, 2))]
    ports = set()
    for i, line in enumerate(said):
        assert f"'processes': '3', 'process': '{i}'" in line
        assert line.rstrip().endswith('--xla_force_host_platform_device_count=2')
        assert '} cpu ' in line
        ports.add(re.search(r'127.0.0.1:(\d+)', line)[1])
    assert len(ports) == 1


@pytest.mark.parametrize(
    ('act', 'code'),
    [
        ('sys.exit(int(words["process"]) and 3)', 3),
        ('sys.exit(78 if words["process"] == "2" else 1)', 78),
        # the others never end by themselves
        ('time.sleep(600) if words["process"] != "1" else os.kill(os.getpid(), 9)', 137),
        ('os.kill(os.getpid(), signal.SIGSTOP) if words["process"] == "0" else sys.exit(1)', 1),
    ],
)
def test_a_pod_ends_with_the_first_that_fails(tmp_path, act, code):
    pod = local_pod(tmp_path, act, '-n', '3', '-g', '1')
    _, err = pod.communicate(timeout=60)
    assert pod.returncode == code, err


def test_a_notice_goes_on_to_all(tmp_path):
    pod = local_pod(tmp_path, 'time.sleep(600)', '-n', '2')
    pod.stdout.readline()
    other = tmp_path / 'logs' / '1'
    while not (other.exists() and other.read_text()):
        time.sleep(0.05)
    pod.terminate()
    assert pod.wait(timeout=60) == 42


@pytest.mark.parametrize(
    'options',
    [['-n', '0', '--', 'true'], ['-d', 'x', '--', 'true'], ['-n', '2'], ['-z', '--', 'true']],
)
def test_a_local_pod_says_what_is_wrong_with_its_options(options):
    script = str(ROOT / 'launch' / 'local_pod.sh')
    done = subprocess.run([script, *options], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (64, '')
    assert len(done.stderr.splitlines()) == 1
