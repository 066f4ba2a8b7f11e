"""The protocols by name, and the evaluation of a run by one of them."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from clr_jax import config as configs
from clr_jax import parallel
from clr_jax.data import damage, sources, subsets, text
from clr_jax.entry import INPUT, Problem, nearest
from clr_jax.evaluate import texts
from clr_jax.evaluate.features import Features, extract, forward, log_mel, pixels
from clr_jax.evaluate.finetune import LORA, Finetune, Task, altered, finetune
from clr_jax.evaluate.knn import Knn, knn
from clr_jax.evaluate.linear import Linear, linear
from clr_jax.evaluate.regression import Regression, regression
from clr_jax.log import say
from clr_jax.train import blank_batch, make_state, restore

PROTOCOLS: dict[str, tuple[Callable, Any]] = {
    'knn': (knn, Knn()),
    'knn200': (knn, Knn(k=200, temperature=0.07)),  # Wu et al., 2018
    'linear': (linear, Linear()),
    'finetune': (finetune, Finetune()),
    'lora': (finetune, LORA),
    'retrieval': (texts.retrieval, texts.Retrieval()),
    'zeroshot': (texts.zeroshot, texts.ZeroShot()),
    'sts': (texts.similarity, texts.Similarity()),
    'regression': (regression, Regression()),
}
OF_TEXTS = ('retrieval', 'zeroshot', 'sts')
LABELLED = ('knn', 'knn200', 'linear', 'finetune', 'lora')


def evaluate(
    workdir,
    name,
    *,
    step=-1,
    labels_per_class=0,
    label_fraction=1.0,
    label_list='',
    draws=0,
    baselines=False,
    data_dir=None,
    epochs=None,
    learning_rate=None,
    pairs='',
    prompts='',
    label='',
    test='',
) -> list[dict]:
    """Evaluate the run in `workdir` by the protocol `name` (several, separated by commas, share the
    features); print and append one record per protocol and source of features.

    With `labels_per_class` n, only n labels of each class are used, drawn `draws` times by the
    seeds 0, 1, ...: `top1` is the mean, `top1_std` the standard deviation over draws. `baselines`
    adds `random` (the encoder as initialised with the run's seed) and `pixels`
    (of recordings `log-mel`) to `encoder`.

    The protocols that train, finetune and lora, also take a share of the labels, `label_fraction`,
    or those of a file, `label_list` (`subsets.subset`), and other `epochs` and another
    `learning_rate` than theirs. A draw's seed is also that of its training, which in `random`
    begins with the encoder; there are no `pixels`.

    sts reads the file `pairs`, zeroshot the sentences of the file `prompts`, if there is one, with {}
    for the class; `label` is another of the data's labels, `test` another test split or set; regression is on data whose examples have targets (replay).
    """
    names = list(dict.fromkeys(name.split(',')))
    for each in names:
        if each not in PROTOCOLS:
            raise Problem(f'--protocol={each} does not exist: {nearest(each, PROTOCOLS)}')
    training = [each for each in names if isinstance(PROTOCOLS[each][1], Finetune)]
    still = [each for each in names if each not in training]
    if labels_per_class < 0 or draws < 0:
        raise Problem('--labels_per_class and --draws are not negative')
    if not 0 < label_fraction <= 1:
        raise Problem(f'--label_fraction={label_fraction}: above 0 and at most 1')
    subset = {'per_class': labels_per_class, 'list': label_list}
    subset = {key: value for key, value in subset.items() if value}
    subset |= {'fraction': label_fraction} if label_fraction < 1 else {}
    if len(subset) > 1:
        raise Problem('--labels_per_class, --label_fraction and --label_list: use one of them')
    changes = {'epochs': epochs, 'learning_rate': learning_rate}
    changes = {key: value for key, value in changes.items() if value is not None}
    if still and (changes or subset.keys() - {'per_class'}):
        flags = '--label_fraction, --label_list, --epochs and --learning_rate'
        raise Problem(f'{flags} are of finetune and lora, not of --protocol={still[0]}')
    config = configs.saved(workdir)
    run, ts, step = restore(workdir, step)
    mesh = parallel.make_mesh()
    for key, value in {'label': label, 'test': test}.items():
        if value and key not in config['data']:
            raise Problem(f'--{key}={value}: data "{config["data"]["name"]}" has one {key} only')
    given = {'data_dir': data_dir, 'label': label, 'test': test}
    config['data'] |= {key: value for key, value in given.items() if value}
    train, asked = (sources.load(config['data'], split) for split in ('train', 'test'))
    spoken = text.tokenizer(config, workdir, train)
    train, asked = (source._replace(tokenizer=spoken) for source in (train, asked))
    if not train.classes and set(names) & set(LABELLED):
        raise Problem(f'{train.name} has no labels to evaluate with')
    task = Task(str(workdir), config, run, ts, step, mesh, train, asked)
    settings = {each: PROTOCOLS[each][1] for each in still}
    if 'sts' in settings:
        settings['sts'] = settings['sts']._replace(pairs=pairs)
    if 'zeroshot' in settings and prompts:
        lines = read_lines(prompts)
        settings['zeroshot'] = settings['zeroshot']._replace(templates=lines)
    found = frozen(settings, task, labels_per_class, draws, baselines) if still else iter(())
    for each in training:
        measure, protocol = PROTOCOLS[each]
        trained = measure(altered(protocol, **changes), task, subset, draws or 1, baselines)
        found = itertools.chain(found, ((each, *scored) for scored in trained))
    records = []
    for each, scores, about in found:
        bad = [damage.counted(of).get('bad_examples', 0) for of in (train, asked)]
        about |= {'bad_examples': bad} if any(bad) else {}
        record = {
            'protocol': each,
            'source': about['source'],
            'labels_per_class': labels_per_class or None,
            'draws': len(scores),
        }
        if 'top1' in scores[0]:
            every = lambda key: np.array([score[key] for score in scores])
            record['top1'] = round(float(every('top1').mean()), 5)
            record['top1_std'] = round(float(every('top1').std()), 5)
            if 'top5' in scores[0]:
                record['top5'] = round(float(every('top5').mean()), 5)
        extra = {key: value for key, value in scores[0].items() if key not in record}
        records.append(record | about | (extra if len(scores) == 1 else {}))
        write(workdir, records[-1])
    if baselines:
        width = max(len(record['source']) for record in records)
        labels = ' '.join(f'{key}={value}' for key, value in subset.items()) or 'all'
        for record in records:
            if 'top1' in record:
                score = f'{record["top1"]:.4f} +- {record["top1_std"]:.4f}'
                about = f'{record["protocol"]} top-1 {score}, {labels} labels'
                say(f'{record["source"]:>{width}}  {about}')
    return records


def frozen(settings: dict, task: Task, per_class: int, draws: int, baselines: bool):
    """Yield (protocol, the scores of all draws, what else a record has) for each source of features
    and each of the protocols of `settings`."""
    run, ts = task.run, task.ts
    networks = {'encoder': (run.method.features, ts.params, ts.state)}
    if baselines:
        blank, seed = blank_batch(run, 2), task.config['seed']
        fresh = make_state(run.method, run.optimizer, task.mesh, blank, seed=seed)
        networks['random'] = (run.method.features, fresh.params, fresh.state)
        if task.train.rate:
            networks['log-mel'] = (log_mel(task.train.rate()), {}, {})
        else:
            networks['pixels'] = (pixels, {}, {})
    for source, (features, params, state) in networks.items():
        compiled = forward(features, task.mesh)
        forth = lambda batch: compiled(params, state, batch)
        encode = lambda of, shown, rows=None: extract(forth, task.mesh, of, shown, indices=rows)
        if settings.keys() - OF_TEXTS:
            known, asked = (encode(of, task.shown) for of in (task.train, task.test))
        for name, protocol in settings.items():
            measure, _ = PROTOCOLS[name]
            if name in OF_TEXTS:
                if not params:
                    continue
                scores = [measure(protocol, task, encode)]
            elif name == 'regression':
                scores = [measure(protocol, known, asked, *targets(task))]
            else:
                scores = []
                for seed in range(draws or (20 if per_class else 1)):
                    chosen = few(known, per_class, seed) if per_class else known
                    scores.append(measure(protocol, chosen, asked, task.train.classes, seed))
            about = {
                'source': source,
                'step': task.step if source == 'encoder' else 0,
                'weights': task.weights(params, state) if params else None,
                'train_examples': task.train.size,
                'test_examples': task.test.size,
                'data': [task.train.fingerprint, task.test.fingerprint],
                'settings': protocol._asdict() | task.view,
            }
            yield name, scores, about


def targets(task: Task) -> list:
    """What is measured beside the examples of both splits, [n, k] each."""
    found = [of.targets() if of.targets else None for of in (task.train, task.test)]
    if found[0] is None or found[1] is None:
        raise Problem(f'{task.train.name} has no targets, which --protocol=regression predicts')
    return found


def read_lines(path: str) -> tuple:
    """The lines of the file --prompts."""
    try:
        text = epath.Path(path).read_text()
    except OSError as error:
        raise Problem(f'--prompts={path} cannot be read: {error.strerror}', INPUT) from None
    return tuple(line.strip() for line in text.split('\n') if line.strip())


def few(features: Features, per_class: int, seed: int) -> Features:
    """`per_class` examples of each class, drawn by `seed`."""
    where = '--labels_per_class'
    rows = subsets.draw(features.label, seed, per_class=per_class, where=where)
    return Features(features.h[rows], features.label[rows])


def write(workdir, record: dict):
    """One JSON line on stdout and at the end of the workdir's `results.jsonl`."""
    if jax.process_index() == 0:
        line = json.dumps(record)
        print(line, flush=True)
        with (epath.Path(workdir) / 'results.jsonl').open('a') as file:
            file.write(line + '\n')
