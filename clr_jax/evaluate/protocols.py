"""The protocols by name, and the evaluation of a run by one of them."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from clr_jax import config as configs
from clr_jax import networks, parallel
from clr_jax.checkpoint import checksum
from clr_jax.data import index, sources
from clr_jax.entry import Problem, nearest
from clr_jax.evaluate.features import Features, extract, forward, pixels
from clr_jax.evaluate.knn import Knn, knn
from clr_jax.evaluate.linear import Linear, linear
from clr_jax.log import say
from clr_jax.train import blank_batch, make_state, restore

PROTOCOLS: dict[str, tuple[Callable, Any]] = {
    'knn': (knn, Knn()),
    'knn200': (knn, Knn(k=200, temperature=0.07)),  # Wu et al., 2018
    'linear': (linear, Linear()),
}


def evaluate(
    workdir, name, *, step=-1, labels_per_class=0, draws=0, baselines=False, data_dir=None
) -> list[dict]:
    """Evaluate the run in `workdir` by the protocol `name`; print and append one record per source
    of features.

    With `labels_per_class` n, only n labels of each class are used, drawn `draws` times by the
    seeds 0, 1, ...: `top1` is the mean, `top1_std` the standard deviation over draws. `baselines`
    adds `random` (the encoder as initialised with the run's seed) and `pixels` to `encoder`.
    """
    if name not in PROTOCOLS:
        raise Problem(f'--protocol={name} does not exist: {nearest(name, PROTOCOLS)}')
    if labels_per_class < 0 or draws < 0:
        raise Problem('--labels_per_class and --draws are not negative')
    run_protocol, protocol = PROTOCOLS[name]
    config = configs.saved(workdir)
    run, ts, step = restore(workdir, step)
    mesh = parallel.make_mesh()
    section = config['data'] | ({'data_dir': data_dir} if data_dir else {})
    train, test = (sources.load(section, split) for split in ('train', 'test'))
    if not train.classes:
        raise Problem(f'{train.name} has no labels to evaluate with')
    networks = {'encoder': (run.method.features, ts.params, ts.state)}
    if baselines:
        blank = blank_batch(run.views, 2)
        fresh = make_state(run.method, run.optimizer, mesh, blank, seed=config['seed'])
        networks['random'] = (run.method.features, fresh.params, fresh.state)
        networks['pixels'] = (pixels, {}, {})
    draws = draws or (20 if labels_per_class else 1)
    view = {'size': config['evaluation']['size'], 'crop': config['evaluation']['crop']}
    records = []
    for source, (features, params, state) in networks.items():
        compiled = forward(features, mesh)
        known, asked = (
            extract(lambda b: compiled(params, state, b), mesh, s, **view) for s in (train, test)
        )
        scores = []
        for seed in range(draws):
            chosen = few(known, labels_per_class, seed) if labels_per_class else known
            scores.append(run_protocol(protocol, chosen, asked, train.classes, seed))
        top1 = np.array([score['top1'] for score in scores])
        variables = run.method.variables(params, state) if params else {}
        weights = checksum(networks.select(variables, ('encoder',))) if params else None
        extra = {k: scores[0][k] for k in scores[0] if k != 'top1'} if draws == 1 else {}
        records.append(
            {
                'protocol': name,
                'source': source,
                'labels_per_class': labels_per_class or None,
                'top1': round(float(top1.mean()), 5),
                'top1_std': round(float(top1.std()), 5),
                'draws': draws,
                'step': step if source == 'encoder' else 0,
                'weights': weights,
                'train_examples': len(known.label),
                'test_examples': len(asked.label),
                'data': [train.fingerprint, test.fingerprint],
                'settings': dict(protocol._asdict(), **view),
            }
            | extra
        )
        write(workdir, records[-1])
    if baselines:
        width = max(map(len, networks))
        shots = f'{labels_per_class} per class' if labels_per_class else 'all'
        for record in records:
            score = f'{record["top1"]:.4f} +- {record["top1_std"]:.4f}'
            say(f'{record["source"]:>{width}}  {name} top-1 {score}, {shots} labels')
    return records


def few(features: Features, per_class: int, seed: int) -> Features:
    """`per_class` examples of each class, drawn by `seed`."""
    n = len(features.label)
    order = index.permutation(np.arange(n), n, index.key(seed, 'labels'))
    chosen = []
    for label in np.unique(features.label):
        of_class = order[features.label[order] == label]
        if len(of_class) < per_class:
            raise Problem(
                f'--labels_per_class={per_class}: class {label} has {len(of_class)} examples'
            )
        chosen.append(of_class[:per_class])
    rows = np.concatenate(chosen)
    return Features(features.h[rows], features.label[rows])


def write(workdir, record: dict):
    """One JSON line on stdout and at the end of the workdir's `results.jsonl`."""
    if jax.process_index() == 0:
        line = json.dumps(record)
        print(line, flush=True)
        with (epath.Path(workdir) / 'results.jsonl').open('a') as file:
            file.write(line + '\n')
