"""Train a config: `python -m clr_jax.main --config=configs/simclr_imagenet.py`."""

from absl import flags
from ml_collections import config_flags

from clr_jax import entry

FLAGS = flags.FLAGS


def define_flags():
    """--config=<file>, with --config.<key>=<value> for every key of that config, and --workdir."""
    entry.define_config()
    help = 'Where the run lives; the same command resumes it. Default: runs/<config>.'
    flags.DEFINE_string('workdir', None, help)
    entry.define_flags()


define_flags()


def main():
    """Flags, devices, fit."""
    config, workdir = FLAGS.config, FLAGS.workdir
    if config is None:
        hint = '--config is missing, e.g. --config=configs/simclr_digits.py'
        raise entry.Problem(hint, entry.USAGE)
    entry.start_devices()
    from clr_jax.train import fit

    workdir = workdir or entry.default_workdir(config_flags.get_config_filename(FLAGS['config']))
    fit(config.to_dict(), entry.absolute(workdir))


if __name__ == '__main__':
    entry.run(main)
