"""Evaluation by training: the encoder of a run with a new classifier, on few labels or on all."""

import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from clr_jax import config as configs
from clr_jax.checkpoint import checksum
from clr_jax.data import sources
from clr_jax.entry import Problem
from clr_jax.evaluate.features import Features, Task, extract, forward
from clr_jax.train import fit, restore

CROP = ('area', 'ratio', 'min_object_covered', 'interpolation', 'flip')


class Finetune(NamedTuple):
    """The semi-supervised protocol of SimCLR (Chen et al., 2020; arXiv:2002.05709, appendix B.5) in
    smaller batches: Nesterov SGD, its rate in proportion to the batch, no warm-up, no weight decay,
    random crops and flips; here with a cosine.

    Crop and flip are those of the run's own views, since not all images bear the published ones. On
    few images `min_steps` makes up for a small rate. The protocol is for comparing runs; a
    published recipe in full is a config, such as configs/simclrv2_finetune_imagenet.py.
    """

    version: int = 1
    method: str = 'finetune'
    optimizer: str = 'sgd'
    learning_rate: float = 0.05
    scaling: str = 'linear'  # of the rate: 'linear' with the batch / 256, or 'none'
    epochs: float = 30.0
    few_epochs: float = 60.0  # instead, with up to a share of `few` of all labels
    few: float = 0.02
    min_steps: int = 500
    batch_size: int = 256  # at most
    layer_decay: float = 1.0


def finetune(
    protocol: Finetune, task: Task, *, subset: dict, draws: int, baselines: bool, changes: dict
) -> Iterator[tuple[list, dict]]:
    """Train and test the encoder, and with `baselines` one from random weights, `draws` times each,
    on the labels of `subset`; seeds are 0, 1, ...

    subset: keywords of `sources.subset`; changes: epochs and learning_rate instead of the
    protocol's. Each training is a run of its own in a folder of the workdir, where the same call
    goes on after an end. Yields ([{'top1', 'top5'} of a draw], the rest of a record).
    """
    if not 0 < changes.get('epochs', 1) < math.inf:
        raise Problem(f'--epochs={changes["epochs"]}: above 0')
    if 'epochs' in changes:
        protocol = protocol._replace(few_epochs=changes['epochs'], min_steps=1)
    protocol = protocol._replace(**changes)
    known = sources.subset(task.train, **subset, seed=0)
    settled = settle(protocol, known.size, known.size / task.train.size, task.mesh.size)
    weights = checksum(task.encoder)
    what = f'{subset["per_class"]}_per_class' if subset['per_class'] else f'{subset["fraction"]:g}'
    what = os.path.splitext(os.path.basename(subset['list']))[0] if subset['list'] else what
    words = [protocol.method, what, *(f'{key}{value:g}' for key, value in changes.items())]
    for source in ('encoder', 'random') if baselines else ('encoder',):
        pretrained = {'workdir': task.workdir, 'step': task.step} if source == 'encoder' else {}
        origin = f'step{task.step}' if source == 'encoder' else 'random'
        scores = []
        for seed in range(draws):
            config = recipe(protocol, task.config, settled, subset, pretrained, seed)
            place = os.path.join(task.workdir, '_'.join([*words, origin, f'seed{seed}']))
            fit(config, place)
            run, ts, _ = restore(place)
            compiled = forward(run.method.features, task.mesh)
            encode = lambda batch: compiled(ts.params, ts.state, batch)
            scores.append(accuracy(extract(encode, task.mesh, task.test, **task.view)))
        yield (
            scores,
            {
                'source': source,
                'label_fraction': subset['fraction'] if subset['fraction'] < 1 else None,
                'label_list': subset['list'] or None,
                'step': task.step if source == 'encoder' else 0,
                'weights': weights if source == 'encoder' else None,
                'train_examples': known.size,
                'data': [known.fingerprint, task.test.fingerprint],
                'settings': protocol._asdict() | settled | crop(task.config) | task.view,
            },
        )


def accuracy(asked: Features) -> dict:
    """{'top1': share of rows whose label has the largest logit, 'top5': one of the five largest}."""
    ranked = np.argsort(-asked.logits, axis=1, kind='stable')  # [n, classes]
    right = ranked == asked.label[:, None]
    return {'top1': float(right[:, 0].mean()), 'top5': float(right[:, :5].any(1).mean())}


def settle(protocol: Finetune, examples: int, share: float, devices: int) -> dict:
    """What `protocol` comes to: {'batch_size', 'steps'} for so many examples, a `share` of all."""
    most = min(max(protocol.batch_size, devices), examples)
    batch_size = most // devices * devices
    if not batch_size:
        raise Problem(f'{examples} labelled examples are too few for {devices} devices')
    epochs = protocol.few_epochs if share <= protocol.few else protocol.epochs
    steps = max(round(epochs * (examples // batch_size)), protocol.min_steps)
    return {'batch_size': batch_size, 'steps': steps}


def crop(saved: dict) -> dict:
    """The random crop and flip of the largest views of a run with the config `saved`."""
    view = max(saved['views'].values(), key=lambda view: view['size'])
    return {key: view[key] for key in CROP}


def recipe(
    protocol: Finetune, saved: dict, settled: dict, subset: dict, pretrained: dict, seed: int
) -> dict:
    """The config that trains by `protocol` the encoder of a run with the config `saved`."""
    config = configs.default()
    config.seed, config.keep = seed, 1
    config.update(settled)
    config.data, config.encoder = saved['data'], saved['encoder'] | {'bn_groups': 1}
    config.subset.update(subset, seed=seed)
    evaluation = {key: saved['evaluation'][key] for key in ('size', 'crop')}
    config.evaluation.update(evaluation)
    plain = {'copies': 1, 'jitter': 0.0, 'grayscale': 0.0, 'blur': 0.0}
    config.views.view = {'size': evaluation['size']} | crop(saved) | plain
    config.method.name = protocol.method
    config.pretrained.update(pretrained)
    same = ('learning_rate', 'scaling', 'layer_decay')
    config.optimizer = {'name': protocol.optimizer, 'weight_decay': 0.0, 'schedule': {}}
    config.optimizer.update({key: getattr(protocol, key) for key in same})
    if protocol.optimizer == 'sgd':
        config.optimizer.nesterov = True
    config.probe.learning_rate = 0.0
    return configs.finish(config).to_dict()
