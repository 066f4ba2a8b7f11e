"""Supervised contrastive learning on CIFAR-10 with a ResNet-50 for small images (Khosla et al.,
2020; the official code): stage 1.

    python -m clr_jax.main --config=configs/supcon_cifar10.py
    python -m clr_jax.evaluate --workdir=runs/supcon_cifar10 --protocol=linear

Hardware: 8 TPU chips. Published: 96.0 % top-1 after 1000 epochs. As in the code, the loss is
multiplied by temperature / 0.07.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 1024, 1000.0
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
        depth=50,
        small_stem=True,
        zero_init=False,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        dtype='bfloat16',
    )
    config.method.update(
        name='supcon',
        projector=(2048, 128),
        temperature=0.1,
        constant='official',
        dtype='bfloat16',
    )
    config.optimizer.update(name='sgd', learning_rate=0.5, scaling='none', weight_decay=0.0001)
    config.optimizer.schedule = {
        'name': 'cosine',
        'warmup_epochs': 10.0,
        'warmup_from': 0.02,
        'final': 0.001,
        'per': 'epoch',
    }
    config.evaluation.update(every=2400)
    config.checkpoint_every = 1200
    return finish(config, variant)
