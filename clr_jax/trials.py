"""Population based training (Jaderberg et al., 2017; arXiv:1711.09846) of a config, which searches a
schedule of augmentation policies: population based augmentation (Ho et al., 2019; arXiv:1905.05393).

The trials begin with the same weights and see the same examples in the same order, so that their policies
alone make them differ. A round is some epochs of each, then its score: the accuracy on training examples
that the config's subset leaves out, as a run's online evaluation measures it. What follows from the scores
is a function of (seed, round), and each trial's checkpoint at the end of a round has its lineage: the
policies that it and those it descends from have had, and their scores. So a search that is killed goes on
to the same bits, from the last trial that had ended a round.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from clr_jax import parallel, train
from clr_jax import workdir as workdirs
from clr_jax.checkpoint import Checkpoints
from clr_jax.data import index, population, subsets, views
from clr_jax.data.augment import View
from clr_jax.data.source import Source
from clr_jax.entry import Problem, writing
from clr_jax.evaluate.online import online_judge
from clr_jax.guard import Watchdog
from clr_jax.log import duration, say


class Search(NamedTuple):
    """What the trials have in common."""

    config: dict
    run: train.Run
    mesh: Any
    whole: Source  # all training examples
    few: Source  # those that are trained on
    begin: train.TrainState
    step: Callable
    judge: Callable
    alive: Callable  # to be called after whatever takes time


def search(config: dict, workdir: str, *, trials: int, interval: int) -> str:
    """Search, from what there is in `workdir`, to the end of the config's epochs. -> the path of the
    best trial's schedule.

    trials: at least 2. interval: the epochs of a round. The states of a trial are in `trials/<number>`.
    """
    config = with_policies(train.with_teacher(config, workdir))
    mesh, whole, few, run = train.prepare(config, workdir)
    rest = subsets.rest(whole, **config['subset'])
    check(config, run, few, rest)
    own = {'trials': trials, 'interval': interval, 'content': few.fingerprint}
    workdirs.check(workdir, config | {'search': own})
    folders = [epath.Path(workdir) / 'trials' / str(trial) for trial in range(trials)]
    found = [max(Checkpoints(f, read_only=True).steps(), default=0) for f in folders]
    watchdog = Watchdog(config['stuck_after'], 'config.stuck_after')
    with watchdog, workdirs.occupied(workdir, sum(found)) as ours:
        begin = train.state_of(config, run, mesh, new=not min(found))
        workdirs.claim(workdir, config | {'search': own}, few.tokenizer)
        step = train.step_of(config, run, mesh)
        judge = online_judge(config, run.method, mesh, few, rest)
        common = Search(config, run, mesh, whole, few, begin, step, judge, watchdog.beat)
        judged = min(rest.size, config['evaluation']['test_examples'])
        counts = f'{run.total_steps} steps of {config["batch_size"]}, validated on {judged}'
        say(f'{trials} trials on {few.name}: {few.size} examples, {counts}')
        lineages = rounds(common, [Checkpoints(f, keep=2) for f in folders], interval, ours)
        best = max(lineages, key=lambda lineage: lineage[-1]['score'])
        path = epath.Path(workdir) / 'schedule.json'
        if jax.process_index() == 0:
            with writing(path):
                path.write_text(population.text(schedule(best)))
    return str(path)


def with_policies(config: dict) -> dict:
    """The config with a policy, of which nothing counts, in its views of images."""
    pba = {'policy': 'pba', 'schedule': [[1, population.entries(np.zeros((30, 2)))]]}
    image = lambda section: section.get('name', 'image') == 'image'
    of = {name: v | pba if image(v) else v for name, v in config['views'].items()}
    return views.with_schedules(config | {'views': of})


def check(config: dict, run: train.Run, few: Source, rest: Source):
    """Refuse what cannot be searched."""
    if not any(isinstance(view, View) for view in run.views):
        raise Problem('config.views has no images, of which a policy could be searched')
    if not few.classes:
        raise Problem(f'{few.name} has no labels, by which a policy could be judged')
    if not rest.size:
        all_of = 'config.subset takes all training examples, and none are left to validate on'
        raise Problem(f'{all_of}: set config.subset.per_class or fraction')
    if run.method.refresh:
        name = config['method']['name']
        raise Problem(f'config.method.name={name} looks at all examples: no search of policies')


def rounds(common: Search, keepers: list, interval: int, ours: Callable) -> list:
    """Every trial's lineage at the end, after the rounds that are not done yet."""
    pace, total = interval * common.run.steps_per_epoch, common.run.total_steps
    spans = list(pairwise([*range(0, total, pace), total]))
    done = min(max(keeper.steps(), default=0) for keeper in keepers)  # by all
    seconds: list[float] = []  # of each trial's round
    for number, (start, end) in enumerate(spans):
        if end <= done:
            continue
        lineages = [keeper.data(start)['lineage'] if start else [] for keeper in keepers]
        parents, policies = following(common.config['seed'], start, lineages)
        for trial, (keeper, parent) in enumerate(zip(keepers, parents, strict=True)):
            if end in keeper.steps():
                continue
            begun, ts = time.perf_counter(), jax.tree.map(jnp.copy, common.begin)
            if start:
                ts, _, _ = keepers[parent].restore(ts, start)
            ts, score = advanced(common, ts, policies[trial], start, end)
            epochs = -(-(end - start) // common.run.steps_per_epoch)
            own = {'trial': trial, 'epochs': epochs, 'policy': policies[trial].tolist()}
            ours()
            keeper.save(end, ts, {'lineage': [*lineages[parent], own | {'score': score}]})
            keeper.wait()
            seconds.append(time.perf_counter() - begun)
            left = (len(spans) - number) * len(keepers) - trial - 1
            eta = duration(left * sum(seconds) / len(seconds))
            where = f'round {number + 1}/{len(spans)}  trial {trial + 1}/{len(keepers)}'
            say(f'{where}  from {parent + 1}  score {score:.3f}  {eta} left')
    lineages = [keeper.data(total)['lineage'] for keeper in keepers]
    for keeper in keepers:
        keeper.close()
    return lineages


def following(seed: int, start: int, lineages: list) -> tuple[np.ndarray, np.ndarray]:
    """(whose state each trial goes on with, its policy [trials, 30, 2]) in the round from `start` on."""
    if not start:
        return np.arange(len(lineages)), population.initial(seed, len(lineages))
    scores, policies = zip(
        *((line[-1]['score'], line[-1]['policy']) for line in lineages), strict=True
    )
    return population.evolved(scores, policies, index.key(seed, 'evolved', start))


def advanced(common: Search, ts, policy, start: int, end: int) -> tuple[train.TrainState, float]:
    """A trial's state at step `end`, and its score."""
    own = [[1, population.entries(policy)]]
    groups = [v._replace(schedule=own) if isinstance(v, View) else v for v in common.run.views]
    run = common.run._replace(views=groups)
    stream = train.batches(run, common.config, common.mesh, common.few, common.whole, start)
    previous = None
    for _ in range(start, end):
        ts, metrics = common.step(ts, parallel.spread(next(stream), common.mesh))
        if previous is not None:
            jax.block_until_ready(previous)  # at most two steps in flight
        previous = metrics['loss']
        common.alive()
    (score,) = common.judge(ts.params, ts.state).values()
    common.alive()
    return ts, score


def schedule(lineage: list) -> list:
    """What a trial and those it descends from have had."""
    return [[step['epochs'], population.entries(step['policy'])] for step in lineage]
