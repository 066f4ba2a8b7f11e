"""Train a config: `python -m clr_jax.main --config=configs/simclr_imagenet.py`."""

from absl import flags
from ml_collections import config_flags

from clr_jax import entry

FLAGS = flags.FLAGS
entry.define_config()
flags.DEFINE_string(
    'workdir', None, 'Where the run lives; the same command resumes it. Default: runs/<config>.'
)
entry.define_flags()


def main():
    """Flags, devices, fit."""
    config, workdir = FLAGS.config, FLAGS.workdir
    if config is None:
        raise entry.Problem(
            '--config is missing, e.g. --config=configs/simclr_digits.py', entry.USAGE
        )
    entry.start_devices()
    from clr_jax.train import fit

    workdir = workdir or entry.default_workdir(config_flags.get_config_filename(FLAGS['config']))
    fit(config.to_dict(), entry.absolute(workdir))


if __name__ == '__main__':
    entry.run(main)
