"""MoCo v1 on ImageNet with a ResNet-50 (He et al., 2019; the official code).

    python -m clr_jax.main --config=configs/mocov1_imagenet.py

Hardware: 8 TPU chips. Published: 60.6 % top-1 by linear evaluation after 200 epochs. Statistics are
of the global batch, where the official code has those of each of 8 devices and permutes the keys:
--config.bn_groups=8 for that. The queue takes 33.6 MB on every device.
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
        name='moco',
        projector=(128,),
        temperature=0.07,
        momentum=0.999,
        queue_size=65536,
        dtype='bfloat16',
    )
    config.optimizer.update(name='sgd', learning_rate=0.03, scaling='linear', weight_decay=0.0001)
    config.optimizer.schedule = {'name': 'step', 'milestones': (120, 160)}
    config.evaluation.update(crop=0.875, every=25000)
    config.checkpoint_every = 5000
    return finish(config, variant)
