"""SimCLR on CIFAR-10 with a four-layer ConvNet: minutes on a laptop, and not a reproduction of
anything published.

    python -m clr_jax.main --config=configs/simclr_cifar10_small.py --config.data.data_dir=~/tensorflow_datasets
    python -m clr_jax.evaluate --workdir=runs/simclr_cifar10_small --protocol=knn --baselines

Hardware: two CPU cores, about 5 minutes. With --config.epochs=5.5, about 8, it reached 0.568 by
nearest neighbours, where random initialisation has 0.374 and pixels 0.456. `python
benchmarks/small_compute.py` compares it with the other methods.
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
    config.method.update(name='simclr', projector=(256, 128), projector_std=0.06, temperature=0.1)
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
