"""Barlow Twins on CIFAR-10 with a four-layer ConvNet: minutes on a laptop, and not a reproduction
of anything published.

    python -m clr_jax.main --config=configs/barlow_twins_cifar10_small.py

The projector is as wide as four batches, as in the paper: the squares of chance correlations, 1 /
batch each, then are the same part of the loss with the same weight.

Hardware: two CPU cores, about 5 minutes. `python benchmarks/small_compute.py` compares it with the
other methods.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 3.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.views.view = {
        'size': 32,
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.4,
        'hue': 0.1,
        'blur': 0.0,
    }
    config.encoder.update(name='convnet', widths=(32, 64, 128, 256))
    config.method.update(
        name='barlow_twins',
        projector=(512, 512),
        weight=0.0051,
    )
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 2e-3,
        'scaling': 'none',
        'weight_decay': 1e-4,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 0.2}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.evaluation.update(every=390, train_examples=5000, test_examples=1000)
    return finish(config, variant)
