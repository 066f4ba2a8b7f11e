"""Population based augmentation (PBA; Ho et al., 2019; arXiv:1905.05393): a schedule of policies, each for
some epochs, and the steps by which a population of them is searched (`clr_jax.pba`).

A policy is two copies of fifteen operations, each with a probability and a level. For an image none, one
or two operations are wanted, with probabilities of 0.2, 0.3 and 0.5; the thirty are gone through in a
random order, and each is applied with its own probability, until so many have been. In the paper Cutout
follows: `View.cutout`.

A schedule is a list of phases [epochs, policy]; a policy is a list of thirty [operation, probability in
[0, 1], level in [0, 10]]. As JSON it is a file. Levels mean what `policies.CIFAR` says.

In a search the numbers of a policy are integers [30, 2]: tenths of a probability from 0 to 10, and a level
from 0 to 9.
"""

import json

import numpy as np
from etils import epath

from clr_jax.data import index
from clr_jax.data.policies import ALL, CIFAR, Policy, centres, directed, table
from clr_jax.entry import CONFIG, INPUT, Problem

OPERATIONS = 2 * tuple(name for name in ALL if name != 'SolarizeAdd')
COUNTS = (0.2, 0.3, 0.5)  # probabilities that none, one or two operations are wanted
MOST = np.array([10, 9])  # of an operation's two numbers in a search


def read(path: str) -> list:
    """The schedule in a file, checked."""
    try:
        schedule = json.loads(epath.Path(path).read_text())
    except OSError as error:
        raise Problem(f'the schedule {path} cannot be read: {error.strerror}', INPUT) from None
    except ValueError as error:
        raise Problem(f'the schedule {path} is not JSON: {error}', CONFIG) from None
    return check(schedule, f'the schedule {path}')


def check(schedule, where: str):
    """The schedule itself, or the Problem with it."""
    if not isinstance(schedule, list | tuple) or not schedule:
        raise Problem(f'{where} is not a list of phases', CONFIG)
    for number, phase in enumerate(schedule):
        try:
            epochs, policy = phase
            names = sorted(name for name, _, _ in policy)
            good = epochs == int(epochs) > 0
            good &= all(0 <= p <= 1 and 0 <= level <= 10 for _, p, level in policy)
        except (TypeError, ValueError):
            names, good = [], False
        if not good or names != sorted(OPERATIONS):
            form = 'two each of [operation, probability in 0..1, level in 0..10]'
            what = f'[epochs, policy], a policy of {len(OPERATIONS) // 2} operations, {form}'
            raise Problem(f'{where}: phase {number} is not {what}', CONFIG)
    return schedule


def text(schedule) -> str:
    """The content of its file: a line for each phase."""
    return '[\n' + ',\n'.join(map(json.dumps, schedule)) + '\n]\n'


def at(schedule, epoch: int, epochs: int = 0):
    """The schedule of the one phase that holds in an epoch, the last when all are over. epochs: over how
    many the schedule is spread; 0: as many as it has."""
    ends = np.cumsum([length for length, _ in schedule])
    own = epoch * int(ends[-1]) // epochs if epochs else epoch
    return [schedule[min(int((ends <= own).sum()), len(schedule) - 1)]]


def policy(schedule) -> Policy:
    """The policy of its first phase. All phases have the same operations."""
    _, entries = schedule[0]
    return Policy(tuple((tuple(entry),) for entry in entries), len(COUNTS) - 1, CIFAR)


def sample(policy: Policy, size: int, draw) -> dict:
    """As `policies.sample`: the numbers (0: none), signed arguments and centres of two slots."""
    choices, slots = table(policy, size)[:, 0], policy.draws  # [choices, 4]
    n = len(choices)
    order = draw('policy', n).argsort(1)  # [b, n]
    wanted = np.searchsorted(np.cumsum(COUNTS[:-1]), draw('count'), side='right')  # [b]
    applied = np.take_along_axis(draw('applied', n) < choices[:, 1], order, 1)  # [b, n]
    # what is applied comes first, and as much of it as is wanted
    first = np.argsort(~applied, axis=1, kind='stable')[:, :slots]
    which = np.take_along_axis(order, first, 1)  # [b, slots]
    chosen = np.take_along_axis(applied, first, 1) & (np.arange(slots) < wanted[:, None])
    number, _, argument, signed = np.moveaxis(choices[which], 2, 0)  # [b, slots] each
    return {
        'policy': np.where(chosen, number, 0).astype(np.int32),
        'argument': directed(argument, signed, draw),
        'centre': centres(slots, size, draw),
    }


# The search.


def entries(numbers) -> list:
    """The policy with these numbers [30, 2]."""
    pairs = zip(OPERATIONS, np.asarray(numbers).tolist(), strict=True)
    return [[name, tenths / 10, level] for name, (tenths, level) in pairs]


def initial(seed: int, trials: int) -> np.ndarray:
    """The numbers [trials, 30, 2] a population begins with. In the official code all are 0, and trials differ
    by their weights; here weights are the same, and each explores from there."""
    keys = index.key(seed, 'initial', np.arange(trials))
    return explored(np.zeros((trials, len(OPERATIONS), 2), int), keys)


def uniform(keys, name: str) -> np.ndarray:
    """Numbers [..., 30, 2] of each key, all equally likely."""
    return np.floor(each(keys, name) * (MOST + 1)).astype(int)


def each(keys, name: str) -> np.ndarray:
    """A draw for each of the numbers of a policy."""
    drawn = index.uniform(keys, name, 2 * len(OPERATIONS))
    return drawn.reshape(*drawn.shape[:-1], len(OPERATIONS), 2)


def explored(numbers, key) -> np.ndarray:
    """The paper's perturbation: with a probability of 0.2 a number is drawn anew, else it changes by 0, 1,
    2 or 3 up or down, within its range."""
    step = np.floor(4 * each(key, 'amount')) * np.where(each(key, 'sign') < 0.5, -1, 1)
    moved = np.clip(numbers + step.astype(int), 0, MOST)
    return np.where(each(key, 'resample') < 0.2, uniform(key, 'numbers'), moved)


def evolved(scores, numbers, key) -> tuple[np.ndarray, np.ndarray]:
    """The next round of a population [trials]: (parents: whose weights each goes on with; numbers
    [trials, 30, 2]). Truncation selection (Jaderberg et al., 2017; arXiv:1711.09846): each of the worst
    quarter, one at least, takes weights and numbers of one of the best quarter, and explores."""
    trials = len(scores)
    ranked = np.argsort(-np.asarray(scores), kind='stable')
    quarter = max(1, trials // 4)
    parents, numbers = np.arange(trials), np.array(numbers)
    for loser in ranked[-quarter:]:
        own = index.fold(key, loser)
        parents[loser] = ranked[int(quarter * index.uniform(own, 'exploit'))]
        numbers[loser] = explored(numbers[parents[loser]], own)
    return parents, numbers
