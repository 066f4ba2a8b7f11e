"""SimCSE (Gao et al., 2021; arXiv:2104.08821), supervised, on triples of STS Benchmark's sentences, from the
small BERT of `simcse_wordnet`: a minute on a laptop, and not a reproduction of anything published.

    python benchmarks/sentences.py --stsb=stsbenchmark

makes the triples, trains both and prints the correlations. By hand, from a file of triples:

    python -m clr_jax.main --config=configs/simcse_stsb.py --config.data.path=triples.tsv --config.pretrained.workdir=runs/simcse_wordnet --config.tokenizer.path=runs/simcse_wordnet/tokenizer.json

Hardware: two CPU cores, a few minutes. The correlation is in the README.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 4.0
    config.data = {'name': 'triples', 'path': ''}
    config.views = {
        'anchor': {'name': 'text', 'length': 32, 'part': 0},
        'equivalent': {'name': 'text', 'length': 32, 'part': 1},
        'opposite': {'name': 'text', 'length': 32, 'part': 2},
    }
    config.encoder.update(
        name='bert',
        width=128,
        depth=2,
        heads=4,
        hidden=512,
        vocabulary=8192,
        length=32,
        pool='mean',
    )
    config.method.update(name='simcse', temperature=0.05)
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 5e-4,
        'scaling': 'none',
        'weight_decay': 0.0,
    }
    config.optimizer.schedule = {'name': 'linear', 'warmup_epochs': 0.5}
    return finish(config, variant)
