"""Evaluate a run: `python -m clr_jax.evaluate --workdir=runs/simclr_digits --protocol=knn`.

knn, knn200, linear, retrieval, zeroshot, sts and regression look at frozen features; finetune and lora train, in folders of the workdir,
where the same command goes on with what was interrupted. Prints one JSON line per source of
features on stdout and appends it to `results.jsonl` in the workdir.
"""

from absl import flags

from clr_jax import entry

FLAGS = flags.FLAGS
flags.DEFINE_string('workdir', None, 'The run to evaluate.')
flags.DEFINE_string(
    'protocol',
    'knn',
    'knn | knn200 | linear | finetune | lora | retrieval | zeroshot | sts | regression, or several: knn,linear',
)
flags.DEFINE_integer('step', -1, 'The checkpoint; -1: the latest.')
flags.DEFINE_integer('labels_per_class', 0, 'Labels of each class to use; 0: all.')
flags.DEFINE_float(
    'label_fraction', 1.0, 'finetune, lora: the share of all labels to use, evenly of each class.'
)
flags.DEFINE_string(
    'label_list', '', 'finetune, lora: a file that names an example to use on each line.'
)
flags.DEFINE_integer(
    'draws',
    0,
    'Seeds over which few labels are drawn (and finetune and lora trained), for mean and spread. '
    '0: 20 with few labels of a protocol that does not train, else 1.',
)
flags.DEFINE_float('epochs', None, "finetune, lora: instead of the protocol's.", 0.0)
flags.DEFINE_float('learning_rate', None, "finetune, lora: instead of the protocol's.", 0.0)
flags.DEFINE_boolean(
    'baselines',
    False,
    'Also evaluate the encoder at random initialisation and, if frozen, the raw pixels.',
)
flags.DEFINE_string(
    'data_dir', None, "Where the data is now, if not where the run's config says (tfds)."
)
flags.DEFINE_string('pairs', '', "sts: a file of scored pairs of sentences, as STS Benchmark's.")
flags.DEFINE_string('prompts', '', 'zeroshot: a file of sentences with {} for the class.')
flags.DEFINE_string('label', '', 'Instead of config.data.label, where the data has several.')
flags.DEFINE_string('test', '', 'Instead of config.data.test: what to test on.')
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
        label_fraction=FLAGS.label_fraction,
        label_list=FLAGS.label_list and entry.absolute(FLAGS.label_list),
        draws=FLAGS.draws,
        baselines=FLAGS.baselines,
        data_dir=FLAGS.data_dir,
        epochs=FLAGS.epochs,
        learning_rate=FLAGS.learning_rate,
        pairs=FLAGS.pairs and entry.absolute(FLAGS.pairs),
        prompts=FLAGS.prompts and entry.absolute(FLAGS.prompts),
        label=FLAGS.label,
        test=FLAGS.test,
    )


if __name__ == '__main__':
    entry.run(main)
