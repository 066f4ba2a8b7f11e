"""The claims of DeepCluster v2: labels are the clusters of the last epoch's embeddings, the same all
epoch; every crop is classified as them by each head; the first epoch only fills the memory."""

from functools import cache

import jax
import numpy as np
import pytest

from clr_jax import networks
from clr_jax.entry import Problem
from clr_jax.heads import MLP
from clr_jax.method import Time
from clr_jax.methods.deepclusterv2 import deepclusterv2
from clr_jax.networks import Network
from tests import oracles
from tests.methods import tiny
from tests.methods.tiny import BATCH, Linear, outcome, unit

EXAMPLES, PROTOTYPES, TEMPERATURE, HEADS = 40, 5, 0.2, 3
STEPS = 2  # of 16 examples in an epoch: 8 are left out


@cache
def build(**settings):
    shape = {'projector': (8, 4), 'prototypes': PROTOTYPES, 'heads': HEADS, 'iterations': 4}
    return deepclusterv2(Linear(), EXAMPLES, **shape | {'temperature': TEMPERATURE} | settings)


def batch(step=0, small=2):
    """Two large crops and `small` small ones, here of the same size; examples 16, 17, ... are not
    in the first epoch's first batch, 32, 33, ... in neither."""
    index = np.int32((BATCH * (step % STEPS) + 8 * (step // STEPS) + np.arange(BATCH)) % EXAMPLES)
    return tiny.batch(2 + small, step) | {'index': index}


def at(step):
    return Time(np.int32(step), np.int32(step // STEPS), np.float32(step / 10))


def taken(params, state, step, devices=2, rate=0.3, method=None):
    """One step of plain gradient descent, with epochs of two steps."""
    method = method or build()
    out = outcome(method, params, state, batch(step), devices, step)
    params = jax.tree.map(lambda p, g: p - rate * g, params, out.grads)
    with jax.enable_x64(True):
        after = method.update(params, out.state, key=jax.random.key(step), time=at(step + 1))
        return *jax.device_get(after), out


@cache
def run(steps=6):
    """[(params, state, Outcome)] before the first step and after each."""
    params, state = tiny.start(build(), 4)
    found = [(params, state, None)]
    for step in range(steps):
        found.append(taken(*found[-1][:2], step))
    return found


def spherically(x, start, iterations):
    """The official code's k-means on the rows that were seen -> centroids and labels, -1 if not."""
    centroids, seen = start.copy(), [i for i in range(len(x)) if x[i].any()]
    nearest = lambda row: int(np.argmax([row @ c for c in centroids]))
    for _ in range(iterations):
        label = {i: nearest(x[i]) for i in seen}
        for c in range(len(centroids)):
            if members := [x[i] for i in seen if label[i] == c]:
                centroids[c] = unit(np.mean(members, 0))
    return centroids, [nearest(x[i]) if i in seen else -1 for i in range(len(x))]


def classified(z, prototypes, labels):
    """Mean over heads of the cross entropy, over crops and examples with a label."""
    heads = []
    for centroids, label in zip(prototypes, labels, strict=True):
        losses = [
            oracles.cross_entropy(centroids @ unit(z[row, v]) / TEMPERATURE, label[row])
            for row in range(len(z))
            for v in range(z.shape[1])
            if label[row] >= 0
        ]
        heads.append(np.mean(losses) if losses else 0.0)
    return np.mean(heads)


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('small', [0, 2])
def test_every_crop_is_classified_by_every_head(devices, small, float64):
    """At step 2, when examples 8 .. 23 come, of which all were seen, and with six whose labels are
    taken away: they count for nothing, on any devices. Value and gradients."""
    params, state, _ = run()[2]
    label = state.label.copy()
    label[:, [8, 9, 10, 12, 20, 21]] = -1
    label[1, 13] = -1
    state, data = state._replace(label=label), batch(2, small)
    out = outcome(build(), params, state, data, devices, step=2)
    head = MLP((8, 4), bias=True, last_norm=None, last_bias=True, kernel_std=0.0)
    network = Network(Linear(), head)
    mine = label[:, data['index']]

    def value(params):
        views, _ = networks.apply_views(network, params, state.stats, data['views'])
        return classified(np.asarray(networks.stack(views).z), state.prototypes, mine)

    np.testing.assert_allclose(out.loss, value(params), rtol=1e-10)
    rng = np.random.default_rng(0)
    for _ in range(3):
        way = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
        moved = lambda t, way=way: jax.tree.map(lambda p, d: p + t * d, params, way)
        slope = sum(map(np.vdot, jax.tree.leaves(out.grads), jax.tree.leaves(way)))
        central = (value(moved(1e-6)) - value(moved(-1e-6))) / 2e-6
        np.testing.assert_allclose(slope, central, rtol=1e-6)


def test_the_memory_holds_each_examples_last_embeddings_of_both_large_crops():
    expected = np.zeros((2, EXAMPLES, 4))
    for step, (_, state, out) in enumerate(run()[1:]):
        for view in (0, 1):
            expected[view][batch(step)['index']] = unit(out.z[:, view])
            memory = state.memory[view]
            np.testing.assert_allclose(memory[:EXAMPLES], expected[view], rtol=1e-9)
            assert not memory[EXAMPLES:].any()
            assert np.abs(out.z[:, view]).max() > 0.1
    before, after = run()[4][1], run()[5][1]
    assert np.abs(before.memory[0] - before.memory[1]).max() > 0.1
    assert np.abs(before.memory[0] - after.memory[0]).max() > 1e-3


def test_labels_change_only_where_an_epoch_begins():
    states = [state for _, state, _ in run()]
    for step, (before, after) in enumerate(zip(states, states[1:], strict=False), 1):
        begins = step % STEPS == 0
        assert after.epoch == step // STEPS
        assert np.array_equal(before.label, after.label) != begins, step
        assert np.array_equal(before.prototypes, after.prototypes) != begins, step


@pytest.mark.parametrize('epoch', [1, 2, 3])
def test_labels_and_prototypes_are_spherical_clusters_of_the_memory(epoch):
    """Heads 0 and 2 have those of the first crops, head 1 of the second, each from random rows of its
    own: which, is found out by no iteration at all."""
    params, state, _ = run()[epoch * STEPS]
    key = jax.random.key(epoch * STEPS - 1)
    with jax.enable_x64(True):
        before = params, state._replace(epoch=np.int32(epoch - 1))
        _, none = build(iterations=0).update(*before, key=key, time=at(epoch * STEPS))
    starts = np.asarray(none.prototypes)
    for head in range(HEADS):
        memory = state.memory[head % 2][:EXAMPLES]
        found = [int(np.argmin(np.abs(memory - row).sum(1))) for row in starts[head]]
        np.testing.assert_allclose(memory[found], starts[head], atol=1e-15)
        assert len(set(found)) == PROTOTYPES
        assert memory[found].any(1).all()  # all were seen
        expected, label = spherically(memory, starts[head], 4)
        np.testing.assert_allclose(state.prototypes[head], expected, atol=1e-12)
        np.testing.assert_array_equal(state.label[head], label)
    assert np.abs(starts[0] - starts[2]).max() > 1e-3


def test_examples_that_were_never_seen_have_no_label():
    for number, unseen in {2: range(32, 40), 4: ()}.items():
        _, state, _ = run()[number]
        for label in state.label:
            assert [i for i in range(EXAMPLES) if label[i] < 0] == list(unseen)


def test_the_first_epoch_only_fills_the_memory():
    """The loss has no gradient; with the second the parameters begin to move."""
    start = run()[0]
    assert (start[1].label == -1).all()
    for params, _, out in run()[1:3]:
        assert out.loss == 0
        assert out.metrics['cluster_top1'] == 0
        jax.tree.map(np.testing.assert_array_equal, params, start[0])
    for params, _, out in run()[3:]:
        assert out.loss > 0.1
        moved = jax.tree.map(lambda p, q: np.abs(p - q).max(), params, start[0])
        # a bias before a batch norm has no gradient
        moved['projector']['dense1'].pop('bias')
        moved['encoder']['Dense_0'].pop('bias')
        assert min(jax.tree.leaves(moved)) > 1e-6


def test_more_prototypes_than_have_been_seen_do_no_harm():
    params, state = tiny.start(build(prototypes=EXAMPLES), 4)
    for step in range(4):
        params, state, out = taken(params, state, step, method=build(prototypes=EXAMPLES))
        assert np.isfinite(out.loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((params, state)))
    assert len(set(state.label[0])) > EXAMPLES / 2


def test_impossible_settings_are_refused():
    with pytest.raises(Problem, match='prototypes=41: more than the 40 training examples'):
        build(prototypes=41)
    with pytest.raises(Problem, match='config.method.temperature=0: must be above 0'):
        build(temperature=0)
    with pytest.raises(Problem, match='2 views of an example or more; config.views makes 1'):
        tiny.start(build(), 1)
