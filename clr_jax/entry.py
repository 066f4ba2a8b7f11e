"""How a program of this library starts and ends: quiet libraries, one line for a user's mistake, an
exit code that means something."""

import difflib
import os
import re
import sys
import traceback
from glob import glob

# Exit codes: the contract with launchers. 0 done, 1 crash; retrying the four below changes nothing.
USAGE, DATA, INPUT, CONFIG = 64, 65, 66, 78
# 70: no progress is possible (the loss is not finite), 42: preempted and saved, 75: stuck.
PREEMPTED, NO_PROGRESS, STUCK = 42, 70, 75


class Problem(Exception):
    """What one line can explain to the person who started the program; `code` becomes the exit
    status."""

    def __init__(self, message: str, code: int = CONFIG):
        super().__init__(message)
        self.code = code


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


def start_devices():
    """Join the other processes, if there are any, before the first use of a device."""
    from absl import flags

    accelerators = [
        path for kind in ('accel*', 'vfio/*', 'nvidia*') for path in glob(f'/dev/{kind}')
    ]
    if os.environ.get('JAX_PLATFORMS', '' if accelerators else 'cpu') == 'cpu':
        keep_memory()
    import jax

    given = flags.FLAGS
    if given.coordinator:
        jax.distributed.initialize(given.coordinator, given.processes, given.process)
    elif given.multihost:
        jax.distributed.initialize()


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
    wait for the others, who wait for us.
    """
    code = _guarded(main)
    sys.stdout.flush()
    sys.stderr.flush()
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
        print(f'error: {" ".join(str(problem).split())}', file=sys.stderr)
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
        rest = flags.FLAGS(sys.argv)
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


def _quiet():
    """Libraries speak when something is wrong; must come before they are imported."""
    import warnings
    from logging import getLogger

    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
    warnings.filterwarnings('ignore', module='tensorflow_datasets|google')
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    # Of a damaged checkpoint we say it ourselves; Orbax lets its other reads die in their threads,
    # a traceback each.
    getLogger('asyncio').setLevel('CRITICAL')
    show = sys.unraisablehook
    sys.unraisablehook = lambda it: (
        None if 'Event loop is closed' in str(it.exc_value) else show(it)
    )
