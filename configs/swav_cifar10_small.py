"""SwAV on CIFAR-10 with a four-layer ConvNet: minutes on a laptop, and not a reproduction of
anything published.

    python -m clr_jax.main --config=configs/swav_cifar10_small.py

The batch has hardly more rows than there are prototypes; a queue of 1024 embeddings shares them.
With an epsilon of 0.05 the first codes may be too even to learn from: the loss then stays at ln 100.
There are no small crops, which cost time and did not help within an epoch.

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
        'area': (0.2, 1.0),
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.4,
        'hue': 0.1,
        'blur': 0.0,
    }
    config.encoder.update(name='convnet', widths=(32, 64, 128, 256))
    config.method.update(
        name='swav',
        projector=(256, 128),
        prototypes=100,
        temperature=0.1,
        epsilon=0.03,
        queue_size=1024,
        queue_epoch=0,
    )
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 2e-3,
        'scaling': 'none',
        'weight_decay': 1e-4,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 0.2}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.groups.prototypes = {'pattern': '^prototypes$', 'freeze_until': 40}
    config.evaluation.update(every=390, train_examples=5000, test_examples=1000)
    return finish(config, variant)
