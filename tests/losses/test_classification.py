"""Losses of classifiers against loops over their equations, on any number of devices."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clr_jax import parallel
from clr_jax.losses import classification
from clr_jax.losses.classification import cross_entropy, distill
from tests import oracles

B, VIEWS, CLASSES = 16, 2, 3
# with 2 or 8 devices, some hold known labels only and some none
LABEL = np.array([0, -1, 2, 1, 1, 0, -1, -1, -1, -1, -1, 2, -1, 0, 1, -1])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw(seed):
    return 3 * np.random.default_rng(seed).normal(size=(B, VIEWS, CLASSES))


def on_devices(devices, loss, *arrays):
    """-> (loss, its gradient by the first array, whatever else it says) of the global batch."""
    mesh = parallel.make_mesh(jax.devices()[:devices])

    def on_shard(*arrays):
        def mean(x):
            out = loss(x, *arrays[1:])
            value, rest = out if isinstance(out, tuple) else (out, 0.0)
            return parallel.mean(value), parallel.mean(rest)

        (value, rest), slope = jax.value_and_grad(mean, has_aux=True)(arrays[0])
        return value, rest, parallel.gather_state(slope)

    rows = jax.P(parallel.DATA)
    specs = tuple(rows for _ in arrays)
    value, rest, slope = jax.jit(parallel.shard(on_shard, mesh, specs, jax.P()))(*arrays)
    return float(value), np.asarray(slope), float(rest)


def smoothed(logits, smoothing):
    """Every labelled view, one by one: the mean error, and how often the largest logit is right."""
    errors, right = [], []
    for rows, label in zip(logits, LABEL, strict=True):
        for row in rows if label >= 0 else ():
            spread = [smoothing / CLASSES + (1 - smoothing) * (c == label) for c in range(CLASSES)]
            each = [oracles.cross_entropy(row, c) for c in range(CLASSES)]
            errors.append(np.dot(spread, each))
            right.append(np.argmax(row) == label)
    return np.mean(errors), np.mean(right)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('devices', [1, 2, 8])
def test_cross_entropy_is_the_mean_over_labelled_views(devices, smoothing):
    logits = draw(0)
    loss = lambda x, label: cross_entropy(x, label, smoothing)
    value, slope, top1 = on_devices(devices, loss, logits, LABEL)
    expected, right = smoothed(logits, smoothing)
    oracles.assert_close(value, expected, 1e-12)
    oracles.assert_close(top1, right, 1e-12)
    assert 0.1 < right < 0.9
    (slope_there,) = oracles.gradient(lambda x: smoothed(x, smoothing)[0], logits)
    oracles.assert_close(slope, slope_there, 1e-8)
    assert not slope[LABEL < 0].any()


def test_a_batch_without_labels_has_no_loss():
    value, slope, top1 = on_devices(8, cross_entropy, draw(0), np.full(B, -1))
    assert value == top1 == 0
    assert not slope.any()


def soft(student, teacher, temperature):
    """Chen et al., 2020b, eq. 2: row by row, class by class."""
    total = 0.0
    for s, t in zip(student.reshape(-1, CLASSES), teacher.reshape(-1, CLASSES), strict=True):
        p_teacher = np.exp(t / temperature) / np.exp(t / temperature).sum()
        p_student = np.exp(s / temperature) / np.exp(s / temperature).sum()
        total -= sum(p_teacher[y] * np.log(p_student[y]) for y in range(CLASSES))
    return total / (student.size // CLASSES)


@pytest.mark.parametrize('temperature', [0.5, 2.0])
@pytest.mark.parametrize('devices', [1, 8])
def test_distillation_is_equation_2(devices, temperature):
    student, teacher = draw(1), draw(2)
    loss = lambda s, t: distill(s, t, temperature)
    value, slope, _ = on_devices(devices, loss, student, teacher)
    oracles.assert_close(value, soft(student, teacher, temperature), 1e-12)
    (expected,) = oracles.gradient(lambda s: soft(s, teacher, temperature), student)
    oracles.assert_close(slope, expected, 1e-8)
    official = distill(student, teacher, temperature, constant='official')
    np.testing.assert_allclose(official, temperature**2 * value, rtol=1e-12)


def test_the_teacher_has_no_gradient():
    slope = jax.grad(lambda t: distill(draw(1), t, 0.5))(draw(2))
    assert not np.any(slope)


def test_bfloat16_is_widened_and_large_logits_are_finite():
    with jax.enable_x64(False):
        logits = jnp.asarray(draw(0), jnp.bfloat16)
        loss, top1 = cross_entropy(logits, jnp.asarray(LABEL))
        assert (loss.dtype, top1.dtype) == (jnp.float32, jnp.float32)
        expected, _ = smoothed(np.asarray(logits, np.float64), 0.0)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        assert distill(logits, logits, 0.1).dtype == jnp.float32
        assert np.isfinite(distill(1e4 * logits, -1e4 * logits, 0.1))


def test_the_doctests_run():
    with jax.enable_x64(False):
        failed, attempted = doctest.testmod(classification)
    assert (failed, attempted >= 3) == (0, True)
