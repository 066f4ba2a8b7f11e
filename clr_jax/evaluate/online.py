"""How good a run is while it trains: one number, of some of the examples."""

from collections.abc import Callable

import numpy as np

from clr_jax.data import index, views
from clr_jax.data.source import Source
from clr_jax.evaluate.features import extract, forward
from clr_jax.evaluate.knn import Knn, knn
from clr_jax.method import Method


def online_judge(config: dict, method: Method, mesh, train: Source, test: Source) -> Callable:
    """-> judge(params, state): on the first examples of a fixed order of each split, {'test_top1'} of
    a method that classifies, of any other {'knn_top1'}, by nearest neighbours."""
    run, evaluation = forward(method.features, mesh), config['evaluation']
    test = test._replace(tokenizer=train.tokenizer)

    def pick(source, n):
        return index.permutation(np.arange(min(n, source.size)), source.size, index.key(0))

    chosen = pick(train, evaluation['train_examples']), pick(test, evaluation['test_examples'])
    shown = views.evaluated(config)

    def judge(params, state):
        encode = lambda batch: run(params, state, batch)
        of = lambda source, indices: extract(encode, mesh, source, shown, indices=indices)
        asked = of(test, chosen[1])
        if asked.logits is not None:
            return {'test_top1': float((asked.logits.argmax(-1) == asked.label).mean())}
        return {'knn_top1': knn(Knn(), of(train, chosen[0]), asked, train.classes or 0)['top1']}

    return judge
