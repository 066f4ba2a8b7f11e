"""Barlow Twins on ImageNet with a ResNet-50 (Zbontar et al., 2021; the official code).

    python -m clr_jax.main --config=configs/barlow_twins_imagenet.py

Hardware: a pod of 32 or more TPU chips. Published: 73.2 % top-1 by linear evaluation after 1000
epochs, 73.5 of the released weights. After 300, 71.4, and of other batches, with their learning
rates of weights: 70.7 of 256 with 0.4, 71.4 of 512 with 0.3, 71.7 of 1024 with 0.25.

The released weights were trained by 16 processes, with a sixteenth of the exact gradient: hence
`reference_world_size`=16. The published learning rate of biases and weight decay are for it.
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
        name='barlow_twins',
        projector=(8192, 8192, 8192),
        weight=0.0051,
        reference_world_size=16,
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
    config.groups.norm_and_bias = {
        'pattern': '(bias|scale)$',
        'learning_rate': 0.0048 / 0.2,
        'weight_decay': 0.0,
        'adapt': False,
    }
    config.evaluation.update(crop=0.875, every=12500)
    config.checkpoint_every = 3125
    return finish(config, variant)
