"""Evaluation by training: the encoder of a run with a new classifier, on few labels or on all."""

import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from clr_jax import config as configs
from clr_jax import networks
from clr_jax.checkpoint import checksum, crc
from clr_jax.data import subsets, views
from clr_jax.data.source import Source
from clr_jax.entry import Problem
from clr_jax.evaluate.features import extract, forward
from clr_jax.train import Run, TrainState, fit, restore

CROP = ('flavour', 'area', 'ratio', 'min_object_covered', 'interpolation', 'flip')


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


LORA = Finetune(method='lora', optimizer='adamw', learning_rate=1e-3, scaling='none')


def altered(protocol: Finetune, epochs=None, learning_rate=None) -> Finetune:
    """The protocol with exactly so many epochs, and with another learning rate."""
    if epochs is not None:
        if not 0 < epochs < math.inf:
            raise Problem(f'--epochs={epochs}: a number above 0')
        protocol = protocol._replace(epochs=epochs, few_epochs=epochs, min_steps=1)
    if learning_rate is not None:
        protocol = protocol._replace(learning_rate=learning_rate)
    return protocol


class Task(NamedTuple):
    """A run, and the data to evaluate it with."""

    workdir: str
    config: dict
    run: Run
    ts: TrainState
    step: int
    mesh: Any
    train: Source
    test: Source

    @property
    def view(self) -> dict:
        """The size and the crop of test images."""
        return {key: self.config['evaluation'][key] for key in ('size', 'crop')}

    @property
    def shown(self) -> list:
        """The views in which examples are evaluated."""
        return views.evaluated(self.config)

    def weights(self, params, state) -> str:
        """The checksum of an encoder of this run."""
        variables = self.run.method.variables(params, state)
        return checksum(networks.select(variables, ('encoder',)))


def finetune(
    protocol: Finetune, task: Task, subset: dict, draws: int, baselines: bool
) -> Iterator[tuple[list, dict]]:
    """Train and test `draws` times, seeds 0, 1, ..., a classifier on the run's encoder, and with
    `baselines` on one that starts at random, from the labels of `subset` (`subsets.subset`).

    Each training is a run of its own in a folder of the workdir; the same call goes on with it where
    it ended. Yields ([{'top1', 'top5'} of a draw], what else a record has) for each encoder.
    """
    part = subsets.subset(task.train, **subset)
    settled = settle(protocol, part.size, part.size / task.train.size, task.mesh.size)
    for source in ('encoder', 'random') if baselines else ('encoder',):
        pretrained = {'workdir': task.workdir, 'step': task.step} if source == 'encoder' else {}
        scores = []
        for seed in range(draws):
            config = recipe(protocol, task.config, settled, subset, pretrained, seed)
            folder = os.path.join(task.workdir, name(config, source))
            fit(config, folder)
            run, ts, _ = restore(folder)
            compiled = forward(run.method.features, task.mesh)
            encode = lambda batch: compiled(ts.params, ts.state, batch)
            asked = extract(encode, task.mesh, task.test, task.shown)
            scores.append(accuracy(asked.logits, asked.label))
        yield (
            scores,
            {
                'source': source,
                'label_fraction': subset.get('fraction'),
                'label_list': subset.get('list'),
                'step': task.step if pretrained else 0,
                'weights': task.weights(task.ts.params, task.ts.state) if pretrained else None,
                'train_examples': part.size,
                'test_examples': task.test.size,
                'data': [part.fingerprint, task.test.fingerprint],
                'settings': protocol._asdict() | settled | crop(task.config) | task.view,
            },
        )


def name(config: dict, source: str) -> str:
    """Of the folder of a training: of another config, another name."""
    subset, place = config['subset'], ('data_dir', 'path', 'max_bad_fraction')
    labels = f'{subset["per_class"]}_per_class' if subset['per_class'] else 'all_labels'
    labels = f'{subset["fraction"]:g}' if subset['fraction'] < 1 else labels
    labels = os.path.splitext(os.path.basename(subset['list']))[0] or labels
    data = {key: value for key, value in config['data'].items() if key not in place}
    digits = f'{crc(config | {"data": data}):08x}'
    return f'{config["method"]["name"]}_{labels}_{source}_seed{subset["seed"]}_{digits}'


def accuracy(logits, label) -> dict:
    """{'top1': share of rows whose label has the largest logit, 'top5': one of the five largest};
    [n, classes], [n]."""
    ranked = np.argsort(-logits, axis=1, kind='stable')  # [n, classes]
    right = ranked == label[:, None]
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
