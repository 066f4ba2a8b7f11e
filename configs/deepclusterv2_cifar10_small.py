"""DeepCluster v2 on CIFAR-10 with a four-layer ConvNet: minutes on a laptop, and not a reproduction
of anything published.

    python -m clr_jax.main --config=configs/deepclusterv2_cifar10_small.py

It trains on 10,000 of the images, each of which it sees five times as often, as clusters change
only between epochs.

Hardware: two CPU cores, about 5 minutes. `python benchmarks/small_compute.py` compares it with the
other methods.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 15.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.subset.fraction = 0.2  # 14 times new clusters
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
        name='deepclusterv2',
        projector=(256, 128),
        prototypes=100,
        heads=3,
        temperature=0.1,
        iterations=10,
    )
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 2e-3,
        'scaling': 'none',
        'weight_decay': 1e-4,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 1.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.evaluation.update(every=390, train_examples=5000, test_examples=1000)
    return finish(config, variant)
