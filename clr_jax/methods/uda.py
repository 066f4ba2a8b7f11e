"""Unsupervised data augmentation (UDA; Xie et al., 2019; arXiv:1904.12848): a classifier learns from few
labels, and from unlabelled examples to say the same of a strong augmentation as of the example."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax import networks, parallel
from clr_jax.entry import Problem, known
from clr_jax.heads import classified
from clr_jax.method import Aux, Method, check_labels, ema
from clr_jax.networks import Outputs, wide


class UDAState(NamedTuple):
    stats: Any  # batch statistics
    target: Any  # an average of past params, which is what is evaluated


def uda(
    encoder,
    classes,
    *,
    temperature=0.4,
    confidence=0.8,
    weight=1.0,
    annealing='none',
    momentum=0.9999,
    joint=True,
    bn_groups=1,
    dtype=None,
) -> Method:
    """The batch has one view of labelled examples, and under 'unlabelled' two views of others: the
    example and its strong augmentation.

    temperature: that sharpens what is said of the example. confidence: examples of whose class the
    network is less sure do not count (both section 2.4). annealing of the labels' training signal:
    none | linear | exp | log, where labels that are already predicted with more than a rising
    probability are left out (section 2.3). weight: of the unlabelled loss. momentum: of the average
    of the parameters. joint: all pass the network together and share batch statistics, as in the
    official code; else strong augmentations, which no one will ask about later, pass by themselves
    and leave nothing in the running averages.
    """
    check_labels('uda', classes)
    known([annealing], ('none', 'linear', 'exp', 'log'), 'config.method.annealing')
    if bn_groups != 1:
        raise Problem(f'config.bn_groups={bn_groups}: uda has one group, of both streams')
    network = classified(encoder, classes, dtype=dtype)

    def threshold(progress):
        """The probability from which a label is no longer learned from."""
        rise = {
            'none': jnp.ones_like(progress),
            'linear': progress,
            'exp': jnp.exp(5 * (progress - 1)),
            'log': 1 - jnp.exp(-5 * progress),
        }[annealing]
        return rise * (1 - 1 / classes) + 1 / classes

    def init(key, batch, pretrained=None):
        streams = len(batch['views']), len(batch.get('unlabelled', {'views': ()})['views'])
        if streams != (1, 2):
            need = 'one view of the labelled examples, two of the unlabelled (config.unlabelled)'
            raise Problem(f'the method takes {need}; there are {streams[0]} and {streams[1]}')
        shapes = {x.shape[1:] for x in (*batch['views'], *batch['unlabelled']['views'])}
        if len(shapes) > 1:
            raise Problem(f'config.unlabelled.views: as large as config.views, not {shapes}')
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        return params, UDAState(stats, params)

    def passed(params, stats, views, key):
        """-> `Outputs` of each of `views` [n, ...], which share batch statistics, and those."""
        sizes = [len(x) for x in views]
        ends = [*itertools.accumulate(sizes)]
        before = [parallel.size() * (end - n) for n, end in zip(sizes, ends, strict=True)]
        numbers = [k + parallel.positions(n) for k, n in zip(before, sizes, strict=True)]
        x, rows = jnp.concatenate([*map(networks.view, views)]), jnp.concatenate(numbers)
        out, stats = networks.apply(network, params, stats, x, key=key, rows=rows)
        parts = (jnp.split(y, ends[:-1]) for y in out)  # of h, z and p
        return [Outputs(*of_view) for of_view in zip(*parts, strict=True)], stats

    def forward(params, stats, batch, key):
        """-> `Outputs` of the labelled examples [b, ...], of the others and of their augmentations,
        [u, ...] each, and batch statistics."""
        views = (*batch['views'], *batch['unlabelled']['views'])
        if joint:
            return passed(params, stats, views, key)
        # rows of two passes share their numbers, so each pass has a key
        own = None if key is None else jax.random.fold_in(key, 1)
        strong, _ = passed(params, stats, views[2:], own)
        others, stats = passed(params, stats, views[:2], key)
        return [*others, *strong], stats

    def loss(params, state, batch, *, key, time):
        (labelled, plain, strong), stats = forward(params, state.stats, batch, key)
        label, log_p = batch['label'], jax.nn.log_softmax(wide(labelled.p))  # [b], [b, classes]
        of_label = jnp.take_along_axis(log_p, jnp.maximum(label, 0)[:, None], 1)[:, 0]  # [b]
        limit = threshold(time.progress)
        learned = jax.lax.stop_gradient(jnp.exp(of_label)) > limit
        counted = (label >= 0) & ~(learned & (annealing != 'none'))
        # per shard, so that a mean over shards is right
        count = jnp.maximum(parallel.total(counted.sum()), 1) / parallel.size()
        supervised = -jnp.where(counted, of_label, 0).sum() / count

        said, log_q = jax.lax.stop_gradient(wide(plain.p)), jax.nn.log_softmax(wide(strong.p))
        sure = jax.nn.softmax(said).max(-1) > confidence  # [u]
        sharp = jax.nn.log_softmax(said / temperature)
        divergence = (jnp.exp(sharp) * (sharp - log_q)).sum(-1)  # [u]
        consistency = jnp.where(sure, divergence, 0).mean()
        metrics = {
            'supervised': supervised,
            'consistency': consistency,
            'sure': sure.mean(),
            'counted': counted.mean(),
        }
        pair = jnp.stack([plain.h, strong.h], 1)  # [u, 2, d]
        aux = Aux(UDAState(stats, state.target), metrics, labelled.h[:, None], pair)
        return supervised + weight * consistency, aux

    def update(params, state, *, key, time):
        return params, state._replace(target=ema(state.target, params, momentum))

    def features(params, state, batch):
        out = networks.evaluate(network, state.target, state.stats, batch['views'][0])
        return {'h': out.h, 'z': out.z, 'logits': out.p}

    def variables(params, state):
        return {'params': state.target, 'batch_stats': state.stats}

    return Method(init, loss, features, update, variables)
