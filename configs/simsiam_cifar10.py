"""SimSiam on CIFAR-10 with a ResNet-18 for small images (Chen & He, 2020, appendix D).

    python -m clr_jax.main --config=configs/simsiam_cifar10.py

Hardware: 1 TPU chip. Published: 91.8 % top-1 by linear evaluation after 800 epochs.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 512, 800.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.views.view = {
        'size': 32,
        'flavour': 'torch',
        'area': (0.2, 1.0),
        'interpolation': 'bilinear',
        'jitter': 0.8,
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.4,
        'hue': 0.1,
        'grayscale': 0.2,
        'blur': 0.0,
    }
    config.encoder.update(
        name='resnet',
        depth=18,
        small_stem=True,
        zero_init=True,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        dtype='bfloat16',
    )
    config.method.update(
        name='simsiam',
        projector=(2048, 2048),
        predictor=(512, 2048),
        dtype='bfloat16',
    )
    config.optimizer.update(name='sgd', learning_rate=0.03, scaling='linear', weight_decay=0.0005)
    config.optimizer.schedule = {'name': 'cosine', 'per': 'epoch'}
    config.groups.predictor = {'pattern': '^predictor/', 'schedule': {'name': 'constant'}}
    config.evaluation.update(every=2000)
    config.checkpoint_every = 1000
    return finish(config, variant)
