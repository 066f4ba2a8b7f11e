"""Protocols of runs that know texts: retrieval, zero-shot classification, semantic similarity."""

import csv
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from clr_jax.data import pipeline, sentences, tokens
from clr_jax.data.augment import tensorflow
from clr_jax.data.text import Text
from clr_jax.entry import DATA, INPUT, Problem
from clr_jax.evaluate.finetune import Task
from clr_jax.evaluate.retrieval import recall
from clr_jax.evaluate.sts import sts
from clr_jax.evaluate.zeroshot import class_embeddings, classify


class Retrieval(NamedTuple):
    """Images and texts of the test split, all texts of each image."""

    version: int = 1
    ranks: tuple = (1, 5, 10)


class ZeroShot(NamedTuple):
    """Classes by their names in sentences, whose embeddings are averaged (Radford et al., 2021;
    arXiv:2103.00020, section 3.1.4)."""

    version: int = 1
    templates: tuple = (
        'a photo of a {}.',
        'a picture of the {}.',
        'a drawing of a {}.',
        'a close view of a {}.',
        'a {} in a scene.',
        '{}',
    )


class Similarity(NamedTuple):
    """Pairs of sentences with scores, in a file as STS Benchmark's."""

    version: int = 1
    pairs: str = ''


def retrieval(protocol: Retrieval, task: Task, encode) -> dict:
    """-> recall of images by texts and of texts by images (`evaluate.retrieval.recall`)."""
    view, images = shown(task)
    if view is None or not images:
        raise Problem('--protocol=retrieval is for a run on images with texts (config.views)')
    image = encode(task.test, images).z
    if image is None:
        raise Problem('--protocol=retrieval: the method has no embeddings of images and texts')
    first = tensorflow().constant(0, 'int64')
    text, owner = [], []
    for part in range(task.test.read(first)['text'].shape[0]):
        of_part = [view._replace(part=part)]
        rows = np.flatnonzero(there(task.test, of_part))
        if len(rows):
            text.append(encode(task.test, of_part, rows).text)
            owner.append(rows)
    return recall(image, np.concatenate(text), np.concatenate(owner), protocol.ranks)


def there(source, of_part: list) -> np.ndarray:
    """Which examples have such a text: it is not empty."""
    empty = tokens.encode(source.tokenizer, [''], of_part[0].length)
    batches = pipeline.eval_batches(source, of_part, batch_size=min(source.size, 1000))
    return np.concatenate([(b['views'][0] != empty).any(1) for b in batches])[: source.size]


def zeroshot(protocol: ZeroShot, task: Task, encode) -> dict:
    """-> {'top1', 'top5'} of the test images by the names of their classes."""
    names = task.test.class_names
    view, images = shown(task)
    if not names or view is None or not images:
        what = 'is for a run on images with texts, on data whose classes have names'
        raise Problem(f'--protocol=zeroshot {what}')
    words = [str(name).replace('_', ' ').lower() for name in names]
    try:
        prompts = [t.format(word) for word in words for t in protocol.templates]
    except (IndexError, KeyError, ValueError) as error:
        raise Problem(
            f'--prompts: each line is a sentence with {{}} for the class: {error}'
        ) from None
    source = sentences.source('prompts', [[prompt] for prompt in prompts])
    text = encode(source._replace(tokenizer=task.test.tokenizer), [view]).text
    of = np.repeat(np.arange(len(names)), len(protocol.templates))
    found = encode(task.test, images)
    nearest = classify(found.z, class_embeddings(text, of, len(names)), min(5, len(names)))
    right = nearest == found.label[:, None]
    return {'top1': float(right[:, 0].mean()), 'top5': float(right.any(1).mean())}


def similarity(protocol: Similarity, task: Task, encode) -> dict:
    """-> {'spearman'} of the cosines of sentences with the scores of the pairs."""
    view, _ = shown(task)
    if view is None:
        raise Problem('--protocol=sts is for a run on texts')
    scores, first, second = pairs(protocol.pairs)

    def embedded(texts):
        source = sentences.source('sentences', [[text] for text in texts])
        found = encode(source._replace(tokenizer=task.test.tokenizer), [view])
        return found.h if found.text is None else found.text

    return sts(embedded(first), embedded(second), scores)


def pairs(path: str) -> tuple[np.ndarray, list[str], list[str]]:
    """Scores and both sentences of a file without quoting: genre, file, year, number, score and two
    sentences, as STS Benchmark has them, or score and sentences alone, separated by tabs."""
    if not path:
        raise Problem('--pairs is missing: a file of scored pairs, such as sts-dev.csv', INPUT)
    try:
        text = epath.Path(path).read_text()
    except OSError as error:
        raise Problem(f'--pairs={path} cannot be read: {error.strerror}', INPUT) from None
    rows = [
        row for row in csv.reader(text.split('\n'), delimiter='\t', quoting=csv.QUOTE_NONE) if row
    ]
    rows = [row[4:7] if len(row) >= 7 else row for row in rows]
    try:
        return np.array([float(row[0]) for row in rows]), [r[1] for r in rows], [r[2] for r in rows]
    except (IndexError, ValueError) as error:
        what = 'each line is a score and two sentences'
        raise Problem(f'--pairs={path}: {what}: {error}', DATA) from None


def shown(task: Task) -> tuple[Any, list]:
    """-> (the view of texts in which a run is evaluated, or None; those of images)."""
    texts = [view for view in task.shown if isinstance(view, Text)]
    return next(iter(texts), None), [view for view in task.shown if not isinstance(view, Text)]
