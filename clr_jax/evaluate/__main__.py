"""Evaluate a run: `python -m clr_jax.evaluate --workdir=runs/simclr_digits --protocol=knn`.

Prints one JSON line per source of features on stdout and appends it to `results.jsonl` in the
workdir.
"""

from absl import flags

from clr_jax import entry

FLAGS = flags.FLAGS
flags.DEFINE_string('workdir', None, 'The run to evaluate.')
flags.DEFINE_string('protocol', 'knn', 'knn | knn200 | linear')
flags.DEFINE_integer('step', -1, 'The checkpoint; -1: the latest.')
flags.DEFINE_integer('labels_per_class', 0, 'Labels of each class to use; 0: all.')
flags.DEFINE_integer(
    'draws',
    0,
    'Seeds over which few labels are drawn, for mean and spread. 0: 20 with few labels, else 1.',
)
flags.DEFINE_boolean(
    'baselines', False, 'Also evaluate the encoder at random initialisation and the raw pixels.'
)
flags.DEFINE_string(
    'data_dir', None, "Where the data is now, if not where the run's config says (tfds)."
)
entry.define_flags()


def main():
    """Flags, devices, evaluation."""
    if FLAGS.workdir is None:
        raise entry.Problem('--workdir is missing: the folder of a run', entry.USAGE)
    entry.start_devices()
    from clr_jax.evaluate.protocols import evaluate

    evaluate(
        entry.absolute(FLAGS.workdir),
        FLAGS.protocol,
        step=FLAGS.step,
        labels_per_class=FLAGS.labels_per_class,
        draws=FLAGS.draws,
        baselines=FLAGS.baselines,
        data_dir=FLAGS.data_dir,
    )


if __name__ == '__main__':
    entry.run(main)
