"""Mixup and CutMix: what is mixed with what, by how much, and that the labels say so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from scipy import stats

from clr_jax import parallel
from clr_jax.entry import Problem
from clr_jax.losses.classification import cross_entropy
from clr_jax.methods.finetune import finetune
from clr_jax.mixing import check, mixed, weights

KEY, B, SIZE = jax.random.key(3), 16, 12
LABEL = np.arange(B, dtype=np.int32) % 3
VIEWS = tuple(
    np.random.default_rng(k).integers(0, 256, (B, SIZE, SIZE, 3), np.uint8) for k in (0, 1)
)


def test_a_row_is_mixed_with_its_neighbour_and_draws_for_itself():
    views, (other, share) = jax.jit(lambda: mixed(VIEWS, LABEL, KEY, 0.8, 0.0))()
    neighbour = np.arange(B) ^ 1
    np.testing.assert_array_equal(other, LABEL[neighbour])
    assert len(np.unique(share)) == 2 * B
    for k, x in enumerate(VIEWS):
        of = np.asarray(share)[:, k, None, None, None]
        expected = (of * x + (1 - of) * x[neighbour]) / 255
        np.testing.assert_allclose(views[k], expected, rtol=0, atol=3e-6)


def test_a_box_is_of_the_other_picture_and_its_area_is_its_share():
    views, (_, share) = jax.jit(lambda: mixed(VIEWS, LABEL, KEY, 0.0, 1.0))()
    x, other = VIEWS[0] / 255, VIEWS[0][np.arange(B) ^ 1] / 255
    of_other = np.isclose(views[0], other, atol=1e-6).all(-1)
    assert (of_other | np.isclose(views[0], x, atol=1e-6).all(-1)).all()
    np.testing.assert_allclose(share[:, 0], 1 - of_other.mean((1, 2)), atol=1e-6)
    for row in of_other:
        rows, columns = row.any(1), row.any(0)
        np.testing.assert_array_equal(row, rows[:, None] & columns)  # a rectangle
        for side in (rows, columns):
            assert np.count_nonzero(np.diff(np.pad(side.astype(int), 1))) <= 2
    assert len(np.unique(share)) > B / 2


def test_shares_are_of_the_beta_asked_for():
    keys = jax.random.split(KEY, 10_000)
    drawn = jax.jit(jax.vmap(lambda key: weights(key, 1, 0.8, 0.0)))(keys)[:, 0, 0]
    assert stats.kstest(drawn, stats.beta(0.8, 0.8).cdf).pvalue > 1e-4
    # of both, either as often; a box of CutMix is 0 or 1 in every pixel
    either = jax.jit(jax.vmap(lambda key: weights(key, 3, 0.8, 1.0)))(keys[:1000])
    boxes = np.isin(either, (0, 1)).all((1, 2)).sum()
    assert stats.binomtest(int(boxes), 1000, 0.5).pvalue > 1e-4


def test_the_draws_are_the_same_on_any_number_of_devices():
    of = lambda views, label: mixed(views, label, KEY, 0.8, 1.0)
    whole = jax.jit(of)(VIEWS, LABEL)
    data = P(parallel.DATA)
    shards = parallel.shard(of, parallel.make_mesh(), (data, data), data)
    made = jax.jit(shards)(*parallel.spread((VIEWS, LABEL), parallel.make_mesh()))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), made, whole)


def test_the_loss_has_both_labels_by_their_share():
    rng = np.random.default_rng(0)
    logits, share = rng.normal(size=(4, 2, 3)), rng.random((4, 2))
    label, other = np.array([0, 2, 1, -1]), np.array([1, 2, -1, 0])
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = 0.9 * (
        share[:2, :, None] * np.eye(3)[label[:2], None]
        + (1 - share[:2, :, None]) * np.eye(3)[other[:2], None]
    )
    expected = -((target + 0.1 / 3) * log[:2]).sum(-1).mean()  # of rows with both labels
    found, _ = cross_entropy(jnp.asarray(logits), jnp.asarray(label), 0.1, (other, share))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(Problem, match='an even number'):
        mixed([x[:3] for x in VIEWS], LABEL[:3], KEY, 0.8, 0.0)
    with pytest.raises(Problem, match='need images'):
        mixed([np.zeros((B, 7), np.int32)], LABEL, KEY, 0.8, 0.0)
    with pytest.raises(Problem, match=r'cutmix=-1'):
        finetune(None, 3, cutmix=-1)
    check(0.8, 1.0)
