"""Sampling of long-tailed data: exact shares, turns without replacement, and the law of data."""

from itertools import islice

import numpy as np
import pytest

from clr_jax.data import index, pipeline, sources, subsets
from clr_jax.data.augment import View
from clr_jax.data.balance import balanced, weighted
from clr_jax.entry import CONFIG, Problem
from clr_jax.train import describe
from tests.conftest import config

SIZES = np.array([300, 60, 11, 2])
LABELS = np.random.default_rng(0).permutation(np.repeat([-1, 3, 4, 9], SIZES))
N = SIZES.sum()


def epoch(order, seed, k):
    return order(np.arange(N), index.key(seed, k))


@pytest.mark.parametrize('balance', [0.0, 0.5, 1.0])
def test_an_epoch_shares_its_places_by_the_power_of_the_size(balance):
    order = balanced(LABELS, balance)
    expected = N * SIZES ** (1 - balance) / (SIZES ** (1 - balance)).sum()
    total = np.zeros(4)
    for k in range(20):
        example, turn = epoch(order, 0, k)
        by_class = [np.sum(LABELS[example] == label) for label in (-1, 3, 4, 9)]
        assert (np.abs(by_class - expected) < 1).all()
        total += by_class
        times = np.bincount(example, minlength=N)
        for label in (-1, 3, 4, 9):
            assert np.ptp(times[LABELS == label]) <= 1  # without replacement, turn after turn
        seen = np.zeros(N, int)
        for i in np.lexsort((turn, example)):
            assert turn[i] == seen[example[i]]
            seen[example[i]] += 1
    assert (np.abs(total / 20 - expected) < 0.34).all()  # three times 0.5 / sqrt(20)


def test_without_balance_each_example_comes_once():
    example, turn = epoch(balanced(LABELS, 0.0), 5, 1)
    assert sorted(example) == list(range(N))
    assert not turn.any()


def test_any_part_of_the_order_is_that_of_the_whole_and_epochs_differ():
    order = balanced(LABELS, 0.7)
    whole = epoch(order, 1, 2)
    parts = [order(np.arange(k, N, 7), index.key(1, 2)) for k in range(7)]
    for k, part in enumerate(parts):
        for x, y in zip(part, whole, strict=True):
            np.testing.assert_array_equal(x, y[k::7])
    assert (whole[0] != epoch(order, 1, 3)[0]).mean() > 0.5
    classes = LABELS[whole[0]]
    assert abs(np.corrcoef(classes[:-1], classes[1:])[0, 1]) * np.sqrt(N) < 4  # well mixed


def test_a_large_head_is_drawn_anew_each_epoch():
    """An example of the head comes about as often as any other, and in other company."""
    order = balanced(LABELS, 1.0)
    head = np.flatnonzero(LABELS == -1)
    drawn = np.stack([np.isin(head, epoch(order, 0, k)[0]) for k in range(60)])  # [60, 300]
    share = drawn.mean()  # about 93 of 300
    assert np.abs(drawn.mean(0) - share).max() < 4.5 * np.sqrt(share * (1 - share) / 60)
    alike = np.corrcoef(drawn.T) - np.eye(300)
    assert np.abs(alike).max() < 0.75


def test_weights_are_shares_of_an_epoch():
    weights = np.random.default_rng(1).exponential(size=N) * (np.arange(N) % 5 > 0)
    order, expected = weighted(weights), N * weights / weights.sum()
    total = np.zeros(N)
    for k in range(200):
        example, turn = epoch(order, 2, k)
        times = np.bincount(example, minlength=N)
        assert (np.abs(times - expected) < 1 + 1e-4).all()
        total += times
        assert len({*zip(example.tolist(), turn.tolist(), strict=True)}) == N
        assert (turn < times[example]).all()  # so they are 0 to times - 1
    assert (np.abs(total / 200 - expected) < 4.5 * 0.5 / np.sqrt(200)).all()
    assert not total[::5].any()
    part = order(np.arange(3, N, 7), index.key(2, 199))
    np.testing.assert_array_equal(part, [example[3::7], turn[3::7]])
    once, turn = epoch(weighted(np.full(N, 0.3)), 0, 0)
    assert sorted(once) == list(range(N))
    assert not turn.any()


def test_weights_come_from_a_file(tmp_path):
    whole, file = sources.digits('test'), tmp_path / 'weights.txt'
    names = [f'{"ab"[k % 2]}/{k}.png' for k in range(360)]
    named, weights = whole._replace(names=lambda: names), np.arange(360) % 4 / 2
    write = lambda lines: file.write_text('\n'.join(lines) + '\n')
    settings, seen = {'per_class': 9, 'weights': str(file)}, []
    numbers = [int(subsets.subset(whole, per_class=9).where(i).split()[1]) for i in range(90)]
    for lines in (
        [f'{w}' for w in weights],
        [f'{names[k]} {weights[k]}' for k in range(359, -1, -1)],
    ):
        write(lines)
        source = subsets.subset(named, **settings)
        example, _ = source.order(np.arange(90), index.key(0))
        expected, _ = weighted(weights[numbers])(np.arange(90), index.key(0))
        np.testing.assert_array_equal(example, expected)
        seen.append(source.fingerprint)
    assert seen[0] == seen[1] != subsets.subset(named, per_class=9).fingerprint
    (batch,) = islice(pipeline.train_batches(source, [View(size=8)], seed=0, batch_size=90), 1)
    assert (weights[np.array(numbers)[batch['index']]] > 0).all()
    for lines, said in (
        (['1'] * 359, '359 lines: one for each of the 360'),
        (['1'] * 359 + ['b 1'], '"<weight>" or "<name> <weight>"'),
        (['1'] * 359 + ['-1'], 'at least 0'),
        (['1'] * 359 + ['x'], "'x'"),
        (['0'] * 360, 'all of them are 0'),
        ([f'{name} 1' for name in [*names[:359], 'c.png']], '1 of 360 lines name no single'),
        ([f'{name} 1' for name in [*names[:359], names[0]]], 'twice'),
    ):
        write(lines)
        with pytest.raises(Problem, match=said) as raised:
            subsets.subset(named, weights=str(file))
        assert raised.value.code == CONFIG
    with pytest.raises(Problem, match='balance and weights'):
        subsets.subset(whole, balance=1.0, weights=str(file))


def test_batches_of_a_balanced_subset():
    """The same after a resume and on several processes; an example that comes again has other views."""
    view = View(copies=1, size=8, area=(1, 1), jitter=0.0, grayscale=0.0, blur=0.0, cutout=3)
    whole = sources.digits('test')
    long_tailed = np.where(np.arange(360) % 9, 0, whole.labels())
    source = subsets.subset(whole._replace(labels=lambda: long_tailed), balance=1.0)
    make = lambda count, **changes: list(
        islice(pipeline.train_batches(source, [view], seed=3, batch_size=90, **changes), count)
    )
    made = make(4)
    numbers = np.concatenate([batch['index'] for batch in made])
    assert np.ptp(np.bincount(long_tailed[numbers])) <= 1
    views = np.concatenate([batch['views'][0] for batch in made])
    again = [np.flatnonzero(numbers == i) for i in np.flatnonzero(np.bincount(numbers) > 1)]
    assert len(again) > 5
    same = [np.array_equal(views[rows[0]], views[rows[1]]) for rows in again]
    assert np.mean(same) < 0.5
    (resumed,) = make(1, start=2)
    np.testing.assert_array_equal(resumed['views'][0], made[2]['views'][0])
    halves = [make(1, rows=rows)[0]['views'][0] for rows in ((0, 45), (45, 90))]
    np.testing.assert_array_equal(np.concatenate(halves), made[0]['views'][0])


def test_the_order_is_the_same_for_ever():
    example, turn = balanced(np.arange(1000) % 50 % 7, 0.5)(np.arange(6), index.key(0, 0))
    assert (example.tolist(), turn.tolist()) == ([983, 226, 340, 918, 293, 487], [0] * 6)


@pytest.mark.parametrize(('setting', 'value'), [('balance', 0.5), ('weights', 'weights.txt')])
def test_a_memory_with_a_row_for_each_example_is_refused(setting, value):
    of = config('instdisc_cifar10_small', 'smoke').to_dict()
    of['subset'][setting] = value
    with pytest.raises(
        Problem, match=rf'config\.subset\.{setting}: instdisc has one row'
    ) as raised:
        describe(of, 1000, 10)
    assert raised.value.code == CONFIG


def test_what_cannot_be_balanced():
    whole = sources.digits('test')
    for source, balance in ((whole, 1.5), (whole, -0.1), (whole._replace(classes=None), 0.5)):
        with pytest.raises(Problem, match=r'config\.subset\.balance') as raised:
            subsets.subset(source, balance=balance)
        assert raised.value.code == CONFIG
