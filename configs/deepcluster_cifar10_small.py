"""DeepCluster on CIFAR-10 with a four-layer ConvNet: minutes on a laptop, and not a reproduction of
anything published.

    python -m clr_jax.main --config=configs/deepcluster_cifar10_small.py

It trains on 25,000 of the images in 8 epochs, because their clusters are found anew before each. The
classifier has an epoch to learn them from nothing, so it moves five times as fast.

Hardware: two CPU cores, about 6 minutes. `python benchmarks/small_compute.py` compares it with the
other methods.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 8.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.subset.fraction = 0.5
    config.views.view = {
        'copies': 1,
        'size': 32,
        'area': (0.2, 1.0),
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.4,
        'hue': 0.1,
        'blur': 0.0,
    }
    config.encoder.update(name='convnet', widths=(32, 64, 128, 256))
    config.method.update(name='deepcluster', clusters=200, iterations=20, dimensions=64)
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 2e-3,
        'scaling': 'none',
        'weight_decay': 1e-4,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 1.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    # it begins anew with every epoch, and what moved the last one must not move it
    config.groups.classifier = {'pattern': '^predictor/', 'b1': 0.0, 'learning_rate': 5.0}
    config.evaluation.update(every=390, train_examples=5000, test_examples=1000)
    return finish(config, variant)
