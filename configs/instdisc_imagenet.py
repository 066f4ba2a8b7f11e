"""Instance discrimination on ImageNet with a ResNet-50 (Wu et al., 2018; the official code).

    python -m clr_jax.main --config=configs/instdisc_imagenet.py

Hardware: 8 TPU chips. Published: 54.0 % top-1 by linear evaluation after 200 epochs (46.8 by
nearest neighbours). The memory of all 1,281,167 images takes 656 MB on every device.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 256, 200.0
    config.data = {
        'name': 'tfds',
        'dataset': 'imagenet2012',
        'train': 'train',
        'test': 'validation',
    }
    config.views.view = {
        'copies': 1,
        'size': 224,
        'flavour': 'torch',
        'area': (0.2, 1.0),
        'interpolation': 'bilinear',
        'jitter': 1.0,
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.4,
        'hue': 0.4,
        'grayscale': 0.2,
        'blur': 0.0,
    }
    config.encoder.update(
        name='resnet',
        depth=50,
        zero_init=False,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        dtype='bfloat16',
    )
    config.method.update(
        name='instdisc',
        projector=(128,),
        temperature=0.07,
        noise=4096,
        momentum=0.5,
        dtype='bfloat16',
    )
    config.optimizer.update(name='sgd', learning_rate=0.03, scaling='linear', weight_decay=0.0001)
    config.optimizer.schedule = {'name': 'step', 'milestones': (120, 160)}
    config.evaluation.update(crop=0.875, every=25000)
    config.checkpoint_every = 5000
    return finish(config, variant)
