"""Contrastive Predictive Coding (van den Oord et al., 2018; arXiv:1807.03748) on LibriSpeech's 100 hours,
12 steps of 10 ms ahead.

    python -m clr_jax.main --config=configs/cpc_librispeech.py

Hardware: a TPU v5e-8; not run. No number here: the paper's are of other splits, and we could confirm
none.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 64, 300.0
    config.data = {
        'name': 'tfds',
        'dataset': 'librispeech',
        'train': 'train_clean100',
        'test': 'test_clean',
    }
    config.views = {'sound': {'name': 'recording', 'samples': 20480}}
    config.encoder.update(name='wave')
    config.method.update(name='cpc', context='gru', context_width=256, steps=12, negatives=128)
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 2e-4,
        'scaling': 'none',
        'weight_decay': 0.0,
    }
    config.optimizer.schedule = {'name': 'constant'}
    return finish(config, variant)
