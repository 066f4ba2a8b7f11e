"""MoCo v3 on ImageNet with a ResNet-50 (Chen et al., 2021; the official code).

    python -m clr_jax.main --config=configs/mocov3_imagenet.py

Hardware: a pod of 32 or more TPU chips. Published: 74.6 % top-1 by linear evaluation after 1000
epochs; 72.8 after 300 with weight decay 1e-6 and momentum 0.99; 68.9 after 100 with learning rate
0.6 besides.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 4096, 1000.0
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
        'area': (0.2, 1.0),
        'interpolation': 'bilinear',
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
        name='mocov3',
        projector=(4096, 256),
        predictor=(4096, 256),
        temperature=1.0,
        momentum=0.996,
        dtype='bfloat16',
    )
    config.optimizer.update(
        name='lars',
        learning_rate=0.3,
        scaling='linear',
        weight_decay=1.5e-06,
        learning_rate_in='update',
    )
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 10.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0, 'adapt': False}
    config.evaluation.update(crop=0.875, every=6240)
    config.checkpoint_every = 1560
    return finish(config, variant)
