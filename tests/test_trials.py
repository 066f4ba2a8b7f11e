"""The search of a schedule: its rounds against a simulation, a trial against `fit`, and that it goes on to
the same bits after a kill."""

import json
import shutil

import jax
import numpy as np
import pytest

from clr_jax import train, trials
from clr_jax.checkpoint import Checkpoints
from clr_jax.data import index, population, sources, subsets
from clr_jax.entry import CONFIG, Problem
from tests.conftest import config


def digits(epochs: float) -> dict:
    """A ConvNet on 130 digits, two steps an epoch."""
    of = config('pba_cifar10_small', 'smoke')
    of.epochs, of.subset.per_class, of.log_every = epochs, 13, 100
    of.views.view.size = of.evaluation.size = 8
    of.evaluation.test_examples = 64
    return of.to_dict() | {'encoder': {'name': 'convnet', 'widths': (4, 8)}}


def left(folder, step: int) -> tuple:
    """What a run or a trial left at its last step: (data, the fingerprint of each leaf)."""
    checkpoints = Checkpoints(folder, read_only=True)
    assert checkpoints.steps()[-1] == step
    return checkpoints.data(step), checkpoints._about(step)['leaves']


# Rounds, with a training that is made up.


@pytest.fixture
def calls(monkeypatch):
    """The steps of each training so far, of which number `calls.end` is interrupted. A state is half of
    what it was and a number that the policy gives, and so is the score."""

    class Calls(list):
        end = 0

    def advanced(common, ts, policy, start, end):
        calls.append((start, end))
        if len(calls) == calls.end:
            raise KeyboardInterrupt
        assert int(ts.step) == start
        params = jax.tree.map(lambda x: (x if start else 0 * x) / 2 + policy.sum() % 97, ts.params)
        score = float(jax.tree.leaves(params)[0].ravel()[0])
        return ts._replace(step=ts.step + (end - start), params=params), score

    calls = Calls()
    monkeypatch.setattr(trials, 'advanced', advanced)
    return calls


def test_rounds_are_those_of_a_simulation_also_after_kills(calls, tmp_path, capsys):
    of, folder = digits(5.0), tmp_path / 'search'  # rounds of two epochs: the last is shorter
    for calls.end in (7, 0):
        try:
            path = trials.search(of, str(folder), trials=4, interval=2)
        except KeyboardInterrupt:
            assert calls.end
    assert len(calls) == 12 + 1  # what was interrupted comes again, and no other
    score, policies = np.zeros(4), population.initial(0, 4)
    lineages: list[list] = [[] for _ in range(4)]
    for start, epochs in ((0, 2), (4, 2), (8, 1)):
        parents = np.arange(4)
        if start:
            key = index.key(0, 'evolved', start)
            parents, policies = population.evolved(score, policies, key)
            assert (parents != np.arange(4)).sum() == 1
        score = np.array([score[p] / 2 + policies[k].sum() % 97 for k, p in enumerate(parents)])
        new = [{'trial': k, 'epochs': epochs, 'policy': policies[k].tolist()} for k in range(4)]
        new = [step | {'score': score[step['trial']]} for step in new]
        lineages = [[*lineages[p], new[k]] for k, p in enumerate(parents)]
    for trial in range(4):
        assert left(folder / 'trials' / str(trial), 10)[0] == {'lineage': lineages[trial]}
    found = population.read(path)
    best = lineages[int(score.argmax())]
    assert found == [[step['epochs'], population.entries(step['policy'])] for step in best]
    assert [epochs for epochs, _ in found] == [2, 2, 1]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('round 3/3  trial 4/4')
    assert last.endswith('0:00:00 left')

    assert trials.search(of, str(folder), trials=4, interval=2) == path  # nothing is left to do
    assert len(calls) == 13
    with pytest.raises(Problem, match='another config .search.interval: 2 -> 1') as raised:
        trials.search(of, str(folder), trials=4, interval=1)
    assert raised.value.code == CONFIG


# Trials.


def test_a_trial_is_the_run_of_a_config_with_its_schedule_to_the_bit(tmp_path):
    """Of a trial that went on from the other; and again after a kill in its last round."""
    of, folder = digits(2.0), tmp_path / 'search'
    trials.search(of, str(folder), trials=2, interval=1)
    both = [left(folder / 'trials' / str(k), 4) for k in range(2)]
    (k,) = [k for k in range(2) if both[k][0]['lineage'][0]['trial'] != k]
    data, leaves = both[k]
    shutil.rmtree(folder / 'trials' / str(k) / 'checkpoints' / '4')
    trials.search(of, str(folder), trials=2, interval=1)
    assert left(folder / 'trials' / str(k), 4) == (data, leaves)

    path = tmp_path / 'schedule.json'
    path.write_text(population.text(trials.schedule(data['lineage'])))
    of['views']['view'] |= {'policy': 'pba', 'schedule': str(path)}
    train.fit(of, str(tmp_path / 'run'))
    assert left(tmp_path / 'run', 4)[1] == leaves
    assert both[1 - k][1] != leaves
    path.unlink()
    assert train.restore(str(tmp_path / 'run'))[2] == 4  # the config is whole
    saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert len(saved['views']['view']['schedule']) == 2


def test_what_cannot_be_searched_is_refused():
    whole = sources.load({'name': 'digits'}, 'train')
    few = {'fraction': 0.5, 'per_class': 0, 'list': '', 'seed': 0}
    of = trials.with_policies(digits(1.0))
    run = train.describe(of, 130, 10)
    half, rest = subsets.subset(whole, **few), subsets.rest(whole, **few)
    trials.check(of, run, half, rest)
    nothing = subsets.rest(whole, **few | {'fraction': 1.0})
    refresh = run._replace(method=run.method._replace(refresh=print))
    for wrong, said in (
        ((run, half, nothing), 'none are left to validate on'),
        ((run._replace(views=[]), half, rest), 'no images'),
        ((run, half._replace(classes=None), rest), 'no labels'),
        ((refresh, half, rest), 'finetune looks at all examples'),
    ):
        with pytest.raises(Problem, match=said) as raised:
            trials.check(of, *wrong)
        assert raised.value.code == CONFIG
