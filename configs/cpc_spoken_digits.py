"""Contrastive Predictive Coding (van den Oord et al., 2018; arXiv:1807.03748) on spoken digits: minutes
on a laptop, and not a reproduction of anything published.

    python -m clr_jax.main --config=configs/cpc_spoken_digits.py --config.data.path=free-spoken-digit-dataset
    python -m clr_jax.evaluate --workdir=runs/cpc_spoken_digits --protocol=linear --baselines
    python -m clr_jax.evaluate --workdir=runs/cpc_spoken_digits --protocol=linear --baselines --label=speaker

Hardware: a CPU, about nine minutes of one core. The recordings have 8 kHz, half of LibriSpeech's, so the
strides are shorter: a step is 10 ms as in the paper. Linear accuracy on the digit: 79.7 %, 45.3 at
random initialisation; on the speaker: 96.7 %, 83.0. Log-mel features have 94.3 and 98.0.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 64, 15.0
    config.data = {'name': 'spoken_digits', 'path': ''}
    config.views = {'sound': {'name': 'recording', 'samples': 3840}}
    config.encoder.update(
        name='wave',
        widths=(32, 64, 128, 128, 128),
        kernels=(8, 8, 4, 4, 4),
        strides=(5, 4, 2, 2, 1),
        norm='layer',
    )
    config.method.update(name='cpc', context='gru', context_width=128, steps=6, negatives=256)
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 1e-3,
        'scaling': 'none',
        'weight_decay': 0.0,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 1.0}
    config.evaluation.update(every=420)
    return finish(config, variant)
