"""A schedule of augmentation, learned: `python -m clr_jax.pba --config=configs/pba_cifar10_small.py`.

Population based augmentation (Ho et al., 2019; arXiv:1905.05393): a population of networks is trained as
the config says, on its subset of the training examples, each with a policy of its own in all views of
images. After each `--interval` epochs those that do worst on the other training examples go on with
weights and policy of the best, the policy perturbed (`trials.py`).

Writes `schedule.json` in the workdir and prints its path on stdout, for `--config.views.<name>.policy=pba
--config.views.<name>.schedule=<path>` of any config. The same command goes on after a kill.
"""

from absl import flags
from ml_collections import config_flags

from clr_jax import entry

FLAGS = flags.FLAGS


def define_flags():
    """The flags of this program; not at import, for others use its functions."""
    entry.define_config()
    help = 'Where the search lives; the same command goes on with it. Default: runs/<config>_pba.'
    flags.DEFINE_string('workdir', None, help)
    flags.DEFINE_integer('trials', 8, 'How many networks; 16 in the paper.', 2)
    flags.DEFINE_integer('interval', 3, 'Epochs between two selections.', 1)
    entry.define_flags()


def main():
    """Flags, devices, the search."""
    if FLAGS.config is None:
        hint = '--config is missing, e.g. --config=configs/pba_cifar10_small.py'
        raise entry.Problem(hint, entry.USAGE)
    entry.start_devices()
    from clr_jax.trials import search

    name = config_flags.get_config_filename(FLAGS['config'])
    workdir = entry.absolute(FLAGS.workdir or f'{entry.default_workdir(name)}_pba')
    config = FLAGS.config.to_dict()
    print(search(config, workdir, trials=FLAGS.trials, interval=FLAGS.interval), flush=True)


if __name__ == '__main__':
    define_flags()
    entry.run(main)
