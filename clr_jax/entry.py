"""How a program of this library starts and ends: quiet libraries, one line for a user's mistake, an
exit code that means something."""

import difflib
import errno
import os
import re
import sys
import traceback
from contextlib import contextmanager
from glob import glob

# Exit codes: the contract with launchers. 0 done, 1 crash; retrying these changes nothing:
USAGE, DATA, INPUT, NO_PROGRESS, OUTPUT, CONFIG = 64, 65, 66, 70, 73, 78
# 42: preempted and saved, 75: stuck. 69: preflight, a program that does not fit the devices.
PREEMPTED, STUCK, UNFIT = 42, 75, 69

# Why a system refuses to write, as it says it itself and libraries repeat it.
REFUSALS = [
    os.strerror(getattr(errno, name))
    for name in (
        'ENOSPC',
        'EDQUOT',
        'EROFS',
        'EACCES',
        'EPERM',
        'ENOTDIR',
        'EISDIR',
        'EEXIST',
        'EFBIG',
    )
]


class Problem(Exception):
    """What one line can explain to the person who started the program; `code` becomes the exit
    status."""

    def __init__(self, message: str, code: int = CONFIG):
        super().__init__(message)
        self.code = code


@contextmanager
def writing(what):
    """Inside, what the system refuses to write becomes a Problem: that `what` cannot be written."""
    try:
        yield
    except Exception as error:
        chain: list = [error]
        while cause := chain[-1].__cause__ or chain[-1].__context__:
            chain.append(cause)
        said = ' '.join(map(str, chain))
        refused = [why for why in REFUSALS if why in said]
        if not refused or isinstance(error, Problem):
            raise
        raise Problem(f'{what} cannot be written: {refused[0]}', OUTPUT) from error


def nearest(word: str, known) -> str:
    """' (did you mean "x"?)' when a known word is close, and what is allowed."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(word), known, n=1)
    hint = f'did you mean "{close[0]}"? ' if close else ''
    return f'{hint}Known: {", ".join(known)}'


def known(words, allowed, where: str):
    """Refuse any of `words` that is not allowed, naming the nearest that is."""
    for word in words:
        if word not in allowed:
            raise Problem(f'{where}: no "{word}"; {nearest(word, allowed)}', CONFIG)


def define_config():
    """--config=<file>, with --config.<key>=<value> for every key of that config."""
    from absl import flags
    from ml_collections import config_flags

    from clr_jax import config as configs

    def parse(argument):
        config = configs.load(argument)
        for word in sys.argv[1:]:
            if override := re.fullmatch(r'--?(?:no)?config\.([^=]+)=?(.*)', word, re.DOTALL):
                configs.check_override(config, *override.groups())
        return config.lock()

    help = 'A file of configs/; ":smoke" after it: laptop size. Its keys: --config.<key>=<value>.'
    config_flags.DEFINE_config_file('config', None, help)
    # The flag's own parser would not say what is allowed.
    flags.FLAGS['config'].parser.parse = parse  # type: ignore[method-assign]


def define_flags():
    """The flags every program has."""
    from absl import flags

    flags.DEFINE_boolean(
        'debug', False, 'Show the traceback of an error that has a one-line explanation.'
    )
    flags.DEFINE_boolean(
        'multihost', False, 'One process of a TPU pod, which finds the others by itself.'
    )
    flags.DEFINE_string('coordinator', None, 'host:port of process 0, to join processes by hand.')
    flags.DEFINE_integer('processes', 1, 'How many, with --coordinator.')
    flags.DEFINE_integer('process', 0, 'Which one this is, from 0, with --coordinator.')
    flags.DEFINE_integer(
        'start_timeout', 1800, 'Seconds to wait for the other processes and the devices.'
    )
    flags.DEFINE_integer(
        'heartbeat_timeout', 100, 'Seconds after which a process that is not heard of is lost.'
    )
    flags.DEFINE_string(
        'compilation_cache', None, 'A local folder that keeps compiled programs for the next start.'
    )


def start_devices():
    """Join the other processes, if there are any, before the first use of a device; then see that
    the devices are those that are expected."""
    from absl import flags

    tpus = [path for kind in ('accel*', 'vfio/[0-9]*') for path in glob(f'/dev/{kind}')]
    if os.environ.get('JAX_PLATFORMS', '' if tpus or glob('/dev/nvidia*') else 'cpu') == 'cpu':
        keep_memory()
    import jax

    from clr_jax.guard import Watchdog

    given = flags.FLAGS
    if given.compilation_cache:
        keep_programs(given.compilation_cache)
    limits = {
        'initialization_timeout': given.start_timeout,
        'heartbeat_timeout_seconds': given.heartbeat_timeout,
    }
    with Watchdog(given.start_timeout + 60, '--start_timeout and one minute'):
        if given.coordinator:
            where = given.coordinator, given.processes, given.process
            jax.distributed.initialize(*where, **limits)
        elif given.multihost:
            jax.distributed.initialize(**limits)
        check_platform('tpu' if given.multihost or tpus else '')
    if jax.process_count() > 1:
        kind, process = jax.default_backend(), f'process {jax.process_index()}'
        ours = f'{jax.local_device_count()} of {jax.device_count()} {kind} devices'
        print(f'{process} of {jax.process_count()}: {ours}', file=sys.stderr, flush=True)


def check_platform(expected: str):
    """Refuse to compute on the CPU where JAX_PLATFORMS, or else `expected`, says otherwise: JAX would
    do so without a word."""
    import jax

    asked = os.environ.get('JAX_PLATFORMS', '')
    mend = "install JAX for it (pip install '.[tpu]'), or set JAX_PLATFORMS=cpu to use the CPU"
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        raise Problem(f'JAX_PLATFORMS={asked}: no such device can be used: {why}', 1) from error
    if found == 'cpu' and not asked and expected:
        raise Problem(f'a {expected.upper()} is expected and JAX finds a CPU alone: {mend}')


def keep_programs(folder: str):
    """Have compiled programs kept in a local folder: a start that finds them there need not compile."""
    import jax

    flag = f'--compilation_cache={folder}'
    if '://' in folder:
        raise Problem(f'{flag}: on the local disk of each host, not on a bucket', USAGE)
    folder = absolute(folder)
    with writing(flag):
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    jax.config.update('jax_compilation_cache_dir', folder)


def keep_memory():
    """Have the C library keep freed memory. XLA's temporaries on a CPU are otherwise mapped anew at
    every step, which takes much of its time (`benchmarks/cpu_step.py`). Call it before JAX starts
    its threads: what they have taken by then is not kept."""
    if sys.platform == 'linux':
        import ctypes

        M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8  # of glibc's malloc.h
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except AttributeError:  # another C library
            return
        for option, value in (
            (M_MMAP_MAX, 0),
            (M_TRIM_THRESHOLD, 2**31 - 1),
            (M_TOP_PAD, 2**26),
            (M_ARENA_MAX, 1),
        ):
            mallopt(option, value)


def default_workdir(config_path: str) -> str:
    """runs/<name of the config, with its variant>."""
    path, _, variant = config_path.partition(':')
    name = os.path.splitext(os.path.basename(path))[0]
    return os.path.join('runs', f'{name}_{variant}' if variant else name)


def absolute(workdir: str) -> str:
    """The workdir as an absolute path; a bucket (gs://...) is one already."""
    return workdir if '://' in workdir else os.path.abspath(os.path.expanduser(workdir))


def run(main):
    """The only way a program of this library runs: parse flags, run `main`, exit with a code that
    means something.

    After an error the process leaves at once: in a run of several processes an ordinary exit would
    wait for the others, who wait for us. Only after a preemption, which all have heard of, none
    leaves while another still writes.
    """
    code = _guarded(main)
    sys.stdout.flush()
    sys.stderr.flush()
    if code == PREEMPTED:
        import jax

        jax.distributed.shutdown()
    if code:
        os._exit(code)
    sys.exit(0)


def _guarded(main) -> int:
    from absl import flags

    debug = '--debug' in sys.argv
    try:
        _quiet()
        _parse(flags)
        main()
        return 0
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    except Problem as problem:
        if debug:
            traceback.print_exc()
        kind = 'preempted' if problem.code == PREEMPTED else 'error'
        print(f'{kind}: {" ".join(str(problem).split())}', file=sys.stderr)
        return problem.code
    except BaseException:
        traceback.print_exc()
        return 1


def _parse(flags):
    """Parse sys.argv; what is wrong with it becomes a Problem."""
    program = sys.modules['__main__']
    if any(word in ('--help', '-help', '-h') for word in sys.argv[1:]):
        print(
            program.__doc__,
            flags.FLAGS.module_help(program),
            flags.FLAGS.module_help(__name__),
            sep='\n',
        )
        sys.exit(0)
    try:
        rest = flags.FLAGS([sys.argv[0], *map(_underscored, sys.argv[1:])])
    except (
        flags.Error,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:  # the latter: values of a config
        raise Problem(f'{error}', CONFIG if '--config.' in str(error) else USAGE) from error
    if len(rest) > 1:
        raise Problem(f'unexpected argument {rest[1]!r}: flags are --name=value', USAGE)


def _underscored(word: str) -> str:
    """--num-slices=2 as --num_slices=2, --no-cache as --nocache."""
    name, equals, value = word.partition('=')
    if not name.startswith('--') or name.startswith('--config.'):
        return word
    return re.sub('^--no-', '--no', name).replace('-', '_').replace('__', '--', 1) + equals + value


def _quiet():
    """Libraries speak when something is wrong; must come before they are imported."""
    import warnings
    from logging import getLogger

    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
    warnings.filterwarnings('ignore', module='tensorflow_datasets|google')
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    # Of a damaged checkpoint, or one that cannot be written, we say it ourselves; Orbax's threads
    # say it too, a traceback each, and so do its other reads, which it lets die.
    getLogger('asyncio').setLevel('CRITICAL')
    getLogger('absl').addFilter(lambda record: f'{os.sep}orbax{os.sep}' not in record.pathname)
    show = sys.unraisablehook
    sys.unraisablehook = lambda it: (
        None if 'Event loop is closed' in str(it.exc_value) else show(it)
    )
