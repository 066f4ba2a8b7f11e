"""Quick thoughts (Logeswaran & Lee, 2018; arXiv:1803.02893) on running text, such as BookCorpus: f and g
are small BERTs from scratch, where the paper has GRUs.

    python -m clr_jax.main --config=configs/quickthoughts_bookcorpus.py --config.data.path=bookcorpus
    python -m clr_jax.evaluate --workdir=runs/quickthoughts_bookcorpus --protocol=sts --pairs=sts-dev.csv

The data are files *.txt with a sentence on each line in the order of the book, an empty line between
paragraphs or chapters.

Hardware: one accelerator; not run, and with these encoders nothing is published. As in the official code:
400 sentences a step, 30 words of each (here tokens), one epoch, Adam at 5e-4 without decay, the norm of
the gradient clipped at 5. There a
batch is 400 sentences in a row, each with both of its neighbours as targets; here it is 200 pairs from
anywhere, and a sentence has one neighbour at a time. The warm-up and the sizes of the encoders are
ours.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 200, 1.0
    config.data = {'name': 'neighbours', 'path': ''}
    config.tokenizer.vocabulary = 30522
    config.views = {
        'first': {'name': 'text', 'length': 30, 'part': 0},
        'second': {'name': 'text', 'length': 30, 'part': 1},
    }
    config.encoder.update(
        name='bert', width=512, depth=4, heads=8, hidden=2048, length=30, dropout=0.0, pool='mean'
    )
    config.method.update(name='quickthoughts')
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 5e-4,
        'scaling': 'none',
        'weight_decay': 0.0,
        'clip': 5.0,
    }
    config.optimizer.schedule = {'name': 'constant', 'warmup_epochs': 0.01}
    config.checkpoint_every = 10_000
    return finish(config, variant)
