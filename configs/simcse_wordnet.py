"""SimCSE (Gao et al., 2021; arXiv:2104.08821), unsupervised, with a small BERT from scratch on WordNet's
glosses: minutes on a laptop, and not a reproduction of anything published.

    python -m clr_jax.main --config=configs/simcse_wordnet.py
    python -m clr_jax.evaluate --workdir=runs/simcse_wordnet --protocol=sts --pairs=sts-dev.csv --baselines

WordNet is where Debian's package wordnet-base puts it; --config.data.path says otherwise. With
--config.pretrained.weights, --config.tokenizer.path and the encoder's sizes it begins with another
BERT.

Hardware: two CPU cores, some fifteen minutes. The correlation is in the README.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 1.0
    config.data = {'name': 'wordnet'}
    config.views = {'text': {'name': 'text', 'length': 32}}
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
    config.optimizer.schedule = {'name': 'linear', 'warmup_epochs': 0.05}
    return finish(config, variant)
