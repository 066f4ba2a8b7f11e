"""MoCo on CIFAR-10 with a ResNet-18 for small images (the authors' notebook).

    python -m clr_jax.main --config=configs/mocov2_cifar10.py

Hardware: 1 TPU chip. Published by the notebook, by 200 nearest neighbours: 82.6 % after 200 epochs,
88.7 after 800; symmetric (--config.method.symmetric=True) 85.3 and 89.7. Batch statistics are of 8
parts of the batch, as there.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 512, 200.0
    config.bn_groups = 8
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.views.view = {
        'size': 32,
        'flavour': 'torch',
        'area': (0.08, 1.0),
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
        zero_init=False,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        dtype='bfloat16',
    )
    config.method.update(
        name='moco',
        projector=(128,),
        temperature=0.1,
        momentum=0.99,
        queue_size=4096,
        dtype='bfloat16',
    )
    config.optimizer.update(name='sgd', learning_rate=0.06, scaling='none', weight_decay=0.0005)
    config.optimizer.schedule = {'name': 'cosine', 'per': 'epoch'}
    config.evaluation.update(every=2000)
    config.checkpoint_every = 1000
    return finish(config, variant)
