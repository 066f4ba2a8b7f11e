"""VICReg on ImageNet with a ResNet-50 (Bardes et al., 2022; the official code).

    python -m clr_jax.main --config=configs/vicreg_imagenet.py

Hardware: a pod of 32 or more TPU chips. Published: 73.2 % top-1 by linear evaluation after 1000
epochs. The official command for 100 epochs has batches of 512 and learning rate 0.3.

The terms and their weights are the official code's, whose gradients are exact on any number of
processes.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 2048, 1000.0
    config.data = {
        'name': 'tfds',
        'dataset': 'imagenet2012',
        'train': 'train',
        'test': 'validation',
    }
    both = {
        'copies': 1,
        'size': 224,
        'flavour': 'torch',
        'area': (0.08, 1.0),
        'interpolation': 'bicubic',
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.2,
        'hue': 0.1,
        'grayscale': 0.2,
    }
    config.views = {
        'view1': both | {'blur': 1.0},
        'view2': both | {'blur': 0.1, 'solarize': 0.2},
    }
    config.encoder.update(
        name='resnet',
        depth=50,
        zero_init=True,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        dtype='bfloat16',
    )
    config.method.update(
        name='vicreg',
        projector=(8192, 8192, 8192),
        invariance=25.0,
        variance=25.0,
        covariance=1.0,
        dtype='bfloat16',
    )
    config.optimizer.update(
        name='lars',
        learning_rate=0.2,
        scaling='linear',
        weight_decay=1e-06,
        learning_rate_in='update',
    )
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 10.0, 'final': 0.001}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0, 'adapt': False}
    config.evaluation.update(crop=0.875, every=12500)
    config.checkpoint_every = 3125
    return finish(config, variant)
