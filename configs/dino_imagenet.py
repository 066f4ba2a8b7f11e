"""DINO on ImageNet with a ViT-S/16 (Caron et al., 2021; the official code).

    python -m clr_jax.main --config=configs/dino_imagenet.py

Hardware: a pod of 32 or more TPU chips. Published: 73.3 % top-1 by nearest neighbours and 76.0 by
linear evaluation after 300 epochs, the official code's boosted recipe; 74.5 and 77.0 after 800. Its
vanilla recipe, 69.3 and 74.0 after 100 epochs: --config.batch_size=512 --config.epochs=100
--config.method.teacher_temperature=0.04 --config.method.warmup_epochs=0
--config.method.norm_last_layer=True --config.optimizer.schedule.final=0.001
--config.groups.last_layer.freeze_until=2502.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 1024, 300.0
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
        'area': (0.4, 1.0),
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
        'local': every | {'copies': 8, 'size': 96, 'area': (0.05, 0.4), 'blur': 0.5},
    }
    config.encoder.update(
        name='vit',
        variant='S',
        patch=16,
        drop_path=0.1,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        dtype='bfloat16',
    )
    config.method.update(
        name='dino',
        projector=(2048, 2048, 256),
        prototypes=65536,
        norm_last_layer=False,
        temperature=0.1,
        teacher_temperature=0.07,
        warmup_temperature=0.04,
        warmup_epochs=30,
        momentum=0.996,
        dtype='bfloat16',
    )
    config.optimizer.update(
        name='adamw',
        learning_rate=0.0005,
        scaling='linear',
        weight_decay={'start': 0.04, 'end': 0.4},
    )
    # to 1e-6, from 0.002
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 10.0, 'final': 0.0005}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.groups.all = {'pattern': '.', 'clip': 3.0}
    # an epoch
    config.groups.last_layer = {'pattern': '^predictor/', 'freeze_until': 1251}
    config.evaluation.update(crop=0.875, every=12510)
    config.checkpoint_every = 1251
    return finish(config, variant)
