"""BYOL on CIFAR-10 with a four-layer ConvNet: minutes on a laptop, and not a reproduction of
anything published.

    python -m clr_jax.main --config=configs/byol_cifar10_small.py

Hardware: two CPU cores, about 5 minutes. `python benchmarks/small_compute.py` compares it with the
other methods.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 64, 3.0
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
        name='byol',
        projector=(256, 128),
        predictor=(256, 128),
        momentum=0.95,
    )
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 1e-3,
        'scaling': 'none',
        'weight_decay': 1e-4,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 0.2}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.groups.predictor = {'pattern': '^predictor/', 'learning_rate': 10.0}
    config.evaluation.update(every=780, train_examples=5000, test_examples=1000)
    return finish(config, variant)
