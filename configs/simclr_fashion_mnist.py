"""SimCLR on Fashion-MNIST (60,000 grey images of 28 pixels) with a small ConvNet: a small run, not
a published one.

    python -m clr_jax.main --config=configs/simclr_fashion_mnist.py

Hardware: two CPU cores, a few minutes.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 4.0
    config.data = {'name': 'tfds', 'dataset': 'fashion_mnist', 'train': 'train', 'test': 'test'}
    config.views.view = {
        'size': 28,
        'area': (0.2, 1.0),
        'saturation': 0.0,
        'hue': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.encoder.update(name='convnet', widths=(32, 64, 128, 256))
    config.method.update(name='simclr', projector=(256, 128), temperature=0.1)
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 2e-3,
        'scaling': 'none',
        'weight_decay': 1e-4,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 0.2}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.evaluation.update(every=936, train_examples=5000, test_examples=1000)
    return finish(config, variant)
