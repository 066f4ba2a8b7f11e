"""DINO on ImageNet with a ResNet-50 (Caron et al., 2021; the official code's recipe for convnets).

    python -m clr_jax.main --config=configs/dino_resnet_imagenet.py

Hardware: a pod of 32 or more TPU chips. Published: none for these 100 epochs; 75.3 % top-1 by linear
evaluation and 67.5 by nearest neighbours are of a longer run with batches of 4080 and other
settings.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 512, 100.0
    config.data = {
        'name': 'tfds',
        'dataset': 'imagenet2012',
        'train': 'train',
        'test': 'validation',
    }
    every = {
        'copies': 1,
        'size': 224,
        'flavour': 'torch',
        'area': (0.14, 1.0),
        'interpolation': 'bicubic',
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.2,
        'hue': 0.1,
        'grayscale': 0.2,
    }
    config.views = {
        'global1': every | {'blur': 1.0},
        'global2': every | {'blur': 0.1, 'solarize': 0.2},
        'local': every | {'copies': 8, 'size': 96, 'area': (0.05, 0.14), 'blur': 0.5},
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
        name='dino',
        projector=(2048, 2048, 256),
        prototypes=65536,
        temperature=0.1,
        teacher_temperature=0.04,
        momentum=0.996,
        dtype='bfloat16',
    )
    config.optimizer.update(name='sgd', learning_rate=0.03, scaling='linear', weight_decay=0.0001)
    # to 1e-6, from 0.06
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 10.0, 'final': 1.6667e-5}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.groups.all = {'pattern': '.', 'clip': 3.0}
    # an epoch
    config.groups.last_layer = {'pattern': '^predictor/', 'freeze_until': 2502}
    config.evaluation.update(crop=0.875, every=25020)
    config.checkpoint_every = 2502
    return finish(config, variant)
