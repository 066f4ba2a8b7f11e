"""Before a pod is booked: `python -m clr_jax.preflight --config=configs/simclr_imagenet.py --topology=v5e:8x8`.

Compiles the train step by the compiler for TPUs, on any Linux machine, and says whether it fits, what
it computes and what it communicates. Exit code 0: it fits; 69: it does not.
"""

import json
import math
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from clr_jax import config as configs
from clr_jax import entry
from clr_jax.preflight import answers, search, topologies
from clr_jax.preflight import report as reports

FLAGS = flags.FLAGS


def define_flags():
    """The flags of this program; not at import, for others use its functions."""
    entry.define_config()
    kinds = ', '.join(topologies.GENERATIONS)
    flags.DEFINE_string('topology', None, f'The pod, as v5e:16x16; of {kinds}.')
    flags.DEFINE_integer('num_slices', 1, 'Slices of that size.')
    flags.DEFINE_boolean('json', False, 'Print JSON.')
    flags.DEFINE_integer('examples', 0, 'Training examples; 0: of the data set.', 0)
    flags.DEFINE_integer('classes', -1, 'Classes, 0: no labels; -1: of the data set.', -1)
    help = 'Look for the largest batch that fits instead, a compilation for each that is tried.'
    flags.DEFINE_boolean('largest_batch', False, help)
    help = 'Two configs, <file>,<file>: the ratio of their estimated cycles instead.'
    flags.DEFINE_list('compare', None, help)
    flags.DEFINE_float('timeout', 60.0, 'Minutes for one compilation.', 0.0)
    flags.DEFINE_boolean('cache', True, 'Keep answers in the cache of the user, and use them.')
    entry.define_flags()


def main():
    """Flags, the compiler, a report."""
    if FLAGS.topology is None:
        raise entry.Problem('--topology is missing, e.g. --topology=v5e:16x16', entry.USAGE)
    topology = topologies.parse(FLAGS.topology, FLAGS.num_slices)
    if FLAGS.compare:
        said, words = compare(FLAGS.compare, topology)
    elif FLAGS.config is None:
        hint = '--config is missing, e.g. --config=configs/simclr_imagenet.py'
        raise entry.Problem(hint, entry.USAGE)
    else:
        name = config_flags.get_config_filename(FLAGS['config'])
        work = largest_batch if FLAGS.largest_batch else one
        said, words = work(*question(FLAGS.config.to_dict(), name, topology), topology)
    print(json.dumps(said) if FLAGS.json else words, flush=True)
    if not said['fits']:
        raise SystemExit(entry.UNFIT)


def question(config: dict, name: str, topology) -> tuple[dict, dict]:
    """What to ask of a config, and how its report begins."""
    from clr_jax.preflight.request import request

    versions = answers.versions()
    given = FLAGS.examples, FLAGS.classes
    asked, origin = request(config, topology.name, topology.slices, *given)
    about: dict = {'config': Path(name.partition(':')[0]).stem + ':smoke' * name.endswith(':smoke')}
    about |= {'topology': topology.name, 'slices': topology.slices, 'versions': versions}
    about |= {'examples': asked['examples'], 'classes': asked['classes'], 'data': origin}
    return asked, about


def one(asked: dict, about: dict, topology) -> tuple[dict, str]:
    """The report of a config, and its words."""
    facts = answers.answer(asked, FLAGS.timeout, FLAGS.cache)
    said = reports.report(facts, asked, topology, about)
    return said, reports.text(said)


def largest_batch(asked: dict, about: dict, topology) -> tuple[dict, str]:
    """The report at the largest batch that fits, or at the smallest that was tried."""
    from clr_jax.parallel import share

    unit = topology.slices * math.prod(topology.size) * topology.generation.devices
    unit = share(unit, asked['config']['bn_groups'], **asked['config']['accumulate'])
    found: dict = {}

    def fits(batch):
        try:
            config = asked['config'] | {'batch_size': batch}
            found[batch] = one(asked | {'config': config}, about, topology)
        except entry.Problem as problem:  # as a queue that is shorter than the batch
            if problem.code != entry.CONFIG or not found:
                raise
            print(f'batch {batch:,}: {problem}', file=sys.stderr, flush=True)
            return False
        fit = found[batch][0]['fits']
        print(f'batch {batch:,} {"fits" if fit else "does not fit"}', file=sys.stderr, flush=True)
        return fit

    best = search.largest(fits, unit, asked['config']['batch_size'], asked['examples'])
    if not found:
        few = f'{asked["examples"]} training examples are fewer than {unit}'
        raise entry.Problem(f'no batch to try: {few}, the least that the devices can share')
    said, words = found[best or min(found)]
    head = f'largest batch that fits, in multiples of {unit:,}: {best:,}'
    return said | {'largest_batch': best, 'unit': unit}, f'{head}\n{words}'


def compare(paths: list[str], topology) -> tuple[dict, str]:
    """Two configs by the cycles that XLA estimates: what is alike in both cancels, and nothing else is
    known of their times."""
    if len(paths) != 2:
        raise entry.Problem('--compare=<config>,<config>: two of them', entry.USAGE)
    asked = [question(configs.load(path).to_dict(), path, topology) for path in paths]
    both = [one(*each, topology)[0] for each in asked]
    said = {'fits': all(of['fits'] for of in both), 'configs': paths, 'topology': topology.name}
    cycles = [of.get('estimated_cycles', 0) for of in both]
    if not all(cycles):
        why = [of['config'] for of, count in zip(both, cycles, strict=True) if not count]
        return said | {'ratio': None}, f'no ratio: {", ".join(why)} does not fit, or cannot be read'
    said['ratio'] = cycles[1] / cycles[0]
    return said, (
        f'{both[1]["config"]} / {both[0]["config"]} on {topology.name}: {said["ratio"]:.3f} in estimated cycles a '
        f'step (libtpu {both[0]["versions"]["libtpu"]}); batches {both[1]["batch"]["global"]:,} and '
        f'{both[0]["batch"]["global"]:,}. Collectives, copies and Pallas kernels have no cycles.'
    )


if __name__ == '__main__':
    define_flags()
    entry.run(main)
