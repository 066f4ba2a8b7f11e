"""Schedules of policies: what is drawn against the rule image by image, when a phase holds, and the steps
of a search against hand computation."""

import json
from itertools import islice

import numpy as np
import pytest

from clr_jax.data import augment, index, pipeline, policies, population, sources, views
from clr_jax.data.augment import View
from clr_jax.data.views import with_schedules
from clr_jax.entry import CONFIG, INPUT, Problem
from tests.data.test_policies import KEYS, OFF, N, near, uniformly

OPERATIONS = (
    'Rotate TranslateX TranslateY Brightness Color Invert Sharpness Posterize ShearX ShearY Solarize '
    'Equalize AutoContrast Cutout Contrast'
).split()


def constant(tenths, level=5):
    return np.tile([tenths, level], (30, 1))


def only(name, probability=1.0):
    """A policy in which both copies of one operation are applied, and no other."""
    made = population.entries(constant(0))
    return [[n, probability if n == name else p, level] for n, p, level in made]


def drawn(policy, keys=KEYS, number=0):
    view = OFF._replace(policy='pba', schedule=[[1, policy]])
    return augment.sample(view, keys, number)


# A policy.


def test_a_policy_has_two_numbers_for_two_copies_of_fifteen_operations():
    made = population.entries(np.stack([np.arange(30) % 11, np.arange(30) % 10], 1))
    assert sorted(name for name, _, _ in made) == sorted(2 * OPERATIONS)
    assert [p for _, p, _ in made[:11]] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert [level for _, _, level in made[:11]] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert population.policy([[1, made]]).levels == policies.CIFAR  # a higher level is stronger


def some(seed, count):
    """Policies [count, 30, 2]."""
    return population.uniform(index.key(seed, 'initial', np.arange(count)), 'numbers')


def test_what_is_drawn_is_the_rule_image_by_image():
    numbers = some(3, 1)[0]
    made = population.entries(numbers)
    keys = index.fold(KEYS[:500], 1)
    found = drawn(made, KEYS[:500], 1)
    names = sorted(OPERATIONS)
    order, chance, sign = (
        index.uniform(keys, name, n)
        for name, n in (('policy', 30), ('applied', 30), ('argument', 2))
    )
    share = index.uniform(keys, 'count')
    for row in range(500):
        left = 0 if share[row] < 0.2 else 1 if share[row] < 0.5 else 2
        expected = []
        for entry in sorted(range(30), key=lambda k: order[row, k]):
            name, probability, level = made[entry]
            if left and chance[row, entry] < probability:
                value = policies.argument(name, level, policies.CIFAR, 32)
                back = name in policies.SIGNED and sign[row, len(expected)] < 0.5
                expected.append((1 + names.index(name), -value if back else value))
                left -= 1
        pairs = zip(found['policy'][row], found['argument'][row], strict=True)
        got = [(n, a) for n, a in pairs if n]
        assert [n for n, _ in got] == [n for n, _ in expected]
        np.testing.assert_allclose([a for _, a in got], [a for _, a in expected], rtol=1e-6)


def test_none_one_or_two_operations_any_of_them():
    found = drawn(population.entries(constant(10)))
    assert {name: (v.shape, v.dtype.name) for name, v in found.items()} == {
        'policy': ((N, 2), 'int32'),
        'argument': ((N, 2), 'float32'),
        'centre': ((N, 2, 2), 'int32'),
    }
    count = (found['policy'] > 0).sum(1)
    for wanted, share in enumerate((0.2, 0.3, 0.5)):
        assert near(count == wanted, share)
    assert not found['policy'][count == 1, 1].any()  # the second slot is empty first
    first = found['policy'][count > 0, 0]
    assert abs(np.bincount(first)[1:] / len(first) - 1 / 15).max() < 0.01
    uniformly(found['centre'][:, 0, 0], 32)
    assert not drawn(population.entries(constant(0)))['policy'].any()
    rare = (drawn(only('Invert', 0.1))['policy'] > 0).sum(1)  # two chances, and two wanted or one
    assert near(rare > 0, 0.8 * (1 - 0.9**2))
    assert near(rare == 2, 0.5 * 0.1**2)


def test_golden_draws():
    """A change here is a change of every run that anyone has seeded."""
    found = drawn(population.entries(some(0, 1)[0]), index.key(0, 0, np.arange(3)), 1)
    assert {name: value.tolist() for name, value in found.items()} == {
        'policy': [[7, 0], [2, 11], [10, 2]],  # Equalize; Brightness, ShearX; Rotate, Brightness
        'argument': np.float32([[0, 6], [0.46, 0.15], [0.46, 1.72]]).tolist(),
        'centre': [[[28, 15], [26, 25]], [[2, 22], [17, 14]], [[1, 14], [17, 10]]],
    }


# A schedule.


def test_a_phase_holds_for_its_epochs_and_the_last_for_ever():
    schedule = [[2, 'a'], [3, 'b'], [1, 'c']]

    def names(epochs, last):
        return ''.join(population.at(schedule, e, epochs)[0][1] for e in range(last))

    assert names(0, 9) == 'aabbbcccc'
    assert names(12, 14) == 'aaaabbbbbbcccc'
    assert names(3, 4) == 'abbc'
    assert names(4, 5) == 'aabbc'


def test_batches_change_policy_with_the_epoch_on_any_process_and_after_a_resume():
    """Where one inversion is wanted and no other operation has a chance, the view is the inverse."""
    source = sources.load({'name': 'digits'}, 'train')
    schedule = [[1, only('Cutout', 0.0)], [1, only('Invert')]]
    plain = View(copies=1, size=8, jitter=0.0, grayscale=0.0, blur=0.0)
    made = plain._replace(policy='pba', schedule=schedule)
    steps = source.size // 400  # 3

    def batches(view, **how):
        stream = pipeline.train_batches(source, [view], seed=1, batch_size=400, **how)
        return [batch['views'][0] for batch in islice(stream, 2)]

    before, after = batches(made, start=steps - 1)
    as_they_are = batches(plain, start=steps - 1)
    np.testing.assert_array_equal(before, as_they_are[0])
    inverse = (after == 255 - as_they_are[1]).all((1, 2, 3))
    same = (after == as_they_are[1]).all((1, 2, 3))
    assert (inverse | same).all()
    assert abs(inverse.mean() - 0.3) < 0.1
    resumed = batches(made, start=steps, rows=(100, 250))[0]
    np.testing.assert_array_equal(resumed, after[100:250])


def test_a_schedule_is_a_file_and_then_part_of_the_config(tmp_path):
    schedule = [[3, population.entries(numbers)] for numbers in some(0, 2)]
    path = tmp_path / 'schedule.json'
    path.write_text(population.text(schedule))
    assert len(path.read_text().splitlines()) == 4
    section = {'size': 8, 'policy': 'pba', 'schedule': str(path)}
    given = {'views': {'a': section, 'b': {'size': 8}}, 'unlabelled': {'views': {'c': section}}}
    saved = json.loads(json.dumps(with_schedules(given)))
    assert (
        saved['views']['a'] == saved['unlabelled']['views']['c'] == section | {'schedule': schedule}
    )
    assert saved['views']['b'] == {'size': 8}
    from_file = views.make(section, 'here')
    path.unlink()
    assert views.make(saved['views']['a'], 'here') == from_file


@pytest.mark.parametrize(
    'wrong',
    [
        '[]',
        '{"a": 1}',
        '[[1]]',
        '[[0, POLICY]]',
        '[[1.5, POLICY]]',
        '[[1, []]]',
        '[[1, [["Rotate", 0.5, 3]]]]',
        '[["one", POLICY]]',
    ],
)
def test_a_wrong_schedule_is_named(wrong, tmp_path):
    path = tmp_path / 'schedule.json'
    path.write_text(wrong.replace('POLICY', json.dumps(population.entries(constant(1)))))
    with pytest.raises(Problem, match=f'schedule {path}') as raised:
        population.read(str(path))
    assert raised.value.code == CONFIG
    assert '\n' not in str(raised.value)


def test_other_wrong_settings_are_named(tmp_path):
    path = tmp_path / 'schedule.json'
    with pytest.raises(Problem, match='cannot be read: No such file') as raised:
        views.make({'policy': 'pba', 'schedule': str(path)}, 'here')
    assert raised.value.code == INPUT
    path.write_text('[[1,')
    with pytest.raises(Problem, match='is not JSON'):
        population.read(str(path))
    schedule = [[1, population.entries(constant(1))]]
    for level, probability in ((11, 0.5), (5, 1.1), (-1, 0.5), ('5', 0.5)):
        bad = [[1, [*schedule[0][1][:-1], [*schedule[0][1][-1][:1], probability, level]]]]
        with pytest.raises(Problem, match='phase 0 is not'):
            augment.check(View(policy='pba', schedule=bad))
    for pair in (
        {'policy': 'pba'},
        {'schedule': schedule},
        {'policy': 'uda', 'schedule': schedule},
    ):
        with pytest.raises(Problem, match='set both, or neither'):
            augment.check(View(**pair))
    with pytest.raises(Problem, match='schedule_epochs=-1'):
        augment.check(View(policy='pba', schedule=schedule, schedule_epochs=-1))


# The steps of a search.


def test_all_numbers_are_equally_likely():
    numbers = some(0, 400)
    assert numbers.shape == (400, 30, 2)
    for kind, most in enumerate((10, 9)):
        share = np.bincount(numbers[..., kind].ravel()) / 12_000
        assert len(share) == most + 1
        assert abs(share - 1 / (most + 1)).max() < 0.012


def test_a_population_begins_near_nothing():
    """A fifth of all numbers is drawn anew; of the others those that go down or nowhere stay at 0."""
    numbers = population.initial(0, 400)
    assert numbers.shape == (400, 30, 2)
    below = 0.8 * np.array([1 / 8 * 5, 1 / 8, 1 / 8, 1 / 8])  # 0 stays for a step of 0 or downwards
    for kind, most in enumerate((10, 9)):
        share = np.bincount(numbers[..., kind].ravel()) / 12_000
        expected = np.full(most + 1, 0.2 / (most + 1))
        expected[:4] += below
        assert abs(share - expected).max() < 0.012
    assert (population.initial(0, 3) == numbers[:3]).all()
    assert (population.initial(1, 3) != numbers[:3]).any()


@pytest.mark.parametrize('value', [0, 1, 5, 9])
def test_a_perturbation_has_the_probabilities_of_the_rule(value):
    """Drawn anew with 0.2, else moved by -3..3, by 0 twice as often, and clipped."""
    n = 2000
    found = population.explored(np.full((30, 2), value), index.key(7, np.arange(n)))
    assert found.shape == (n, 30, 2)
    for kind, most in enumerate((10, 9)):
        expected = np.full(most + 1, 0.2 / (most + 1))
        for amount in (-3, -2, -1, 0, 0, 1, 2, 3):
            expected[min(max(value + amount, 0), most)] += 0.8 / 8
        share = np.bincount(found[..., kind].ravel(), minlength=most + 1) / (30 * n)
        assert abs(share - expected).max() < 4.5 * np.sqrt(0.25 / (30 * n))


def test_the_worst_quarter_goes_on_from_the_best_and_explores():
    numbers = some(0, 8)
    scores = [0.5, 0.9, 0.1, 0.4, 0.8, 0.4, 0.2, 0.6]
    seen: set = set()
    for step in range(20):
        key = index.key(0, 'evolved', step)
        parents, after = population.evolved(scores, numbers, key)
        for trial in range(8):
            if trial in (2, 6):
                assert parents[trial] in (1, 4)
                seen.add((trial, int(parents[trial])))
                expected = population.explored(numbers[parents[trial]], index.fold(key, trial))
                np.testing.assert_array_equal(after[trial], expected)
                assert (after[trial] != numbers[parents[trial]]).any()
            else:
                assert parents[trial] == trial
                np.testing.assert_array_equal(after[trial], numbers[trial])
        assert (after[2] != after[6]).any()
    assert seen == {(2, 1), (2, 4), (6, 1), (6, 4)}


@pytest.mark.parametrize(
    ('scores', 'expected'),
    [([0.1, 0.2], [1, 1]), ([0.3, 0.1, 0.2], [0, 0, 2]), ([0.5, 0.5, 0.5], [0, 1, 0])],
)
def test_of_few_trials_one_is_replaced(scores, expected):
    parents, _ = population.evolved(scores, population.initial(0, len(scores)), index.key(0))
    assert parents.tolist() == expected
