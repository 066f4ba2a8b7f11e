"""Losses of classifiers: against labels, and against the probabilities of another classifier."""

import jax
import jax.numpy as jnp

from clr_jax import parallel
from clr_jax.networks import wide


def cross_entropy(logits, label, smoothing=0.0, mix=None):
    """-> (cross entropy, share classified right), means over every view of the labelled examples of
    the global batch. logits: [b, v, classes], label: [b], -1: none.

    smoothing: the share of a label that is spread over all classes (Szegedy et al., 2015;
    arXiv:1512.00567). mix: (the label of a second example in each row [b], the share of the first
    [b, v]), of `mixing.mixed`; rows of which one has no label are left out. A batch without labels
    has a loss of 0.

    >>> loss, top1 = cross_entropy(jnp.zeros((3, 1, 4)), jnp.array([0, 1, -1]))
    >>> print(jnp.exp(loss).round(3), top1)
    4.0 0.5
    """
    classes = logits.shape[-1]
    label = jnp.broadcast_to(label[:, None], logits.shape[:2])  # [b, v]
    known, target = label >= 0, jax.nn.one_hot(label, classes)
    if mix is not None:
        other, share = mix[0][:, None], mix[1][..., None]
        known &= other >= 0
        target = share * target + (1 - share) * jax.nn.one_hot(other, classes)
    # per shard, so that a mean over shards is right
    count = jnp.maximum(parallel.total(known.sum()), 1) / parallel.size()
    target = (1 - smoothing) * target + smoothing / classes
    errors = -(target * _log_softmax(logits)).sum(-1)  # [b, v]
    right = known & (logits.argmax(-1) == label)
    return jnp.where(known, errors, 0).sum() / count, right.sum() / count


def distill(logits, teacher, temperature, *, constant='paper'):
    """-sum_y P(y; teacher) log P(y; logits) at `temperature`, mean over rows (Chen et al., 2020;
    arXiv:2006.10029, eq. 2). logits, teacher: [..., classes]; the teacher has no gradient.

    constant: 'paper', or 'official': times the square of the temperature.

    >>> print(jnp.exp(distill(jnp.zeros((3, 4)), jnp.eye(3, 4), 0.1)).round(3))
    4.0
    """
    teacher = jax.lax.stop_gradient(teacher)
    target, given = (_log_softmax(x, temperature) for x in (teacher, logits))
    loss = -(jnp.exp(target) * given).sum(-1).mean()
    return loss * (temperature**2 if constant == 'official' else 1)


def _log_softmax(logits, temperature=1.0):
    return jax.nn.log_softmax(wide(logits) / temperature)
