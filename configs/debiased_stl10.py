"""Debiased contrastive learning on STL-10 with a ResNet-50 for small images (Chuang et al., 2020;
the official code).

    python -m clr_jax.main --config=configs/debiased_stl10.py

Hardware: 8 TPU chips. Published: 84.3 % top-1 by linear evaluation after 400 epochs (SimCLR 80.2).
32-pixel crops of the labelled and unlabelled images, also in the evaluation; the official code
tests at 96 pixels.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 256, 400.0
    config.data = {
        'name': 'tfds',
        'dataset': 'stl10',
        'train': 'train+unlabelled',
        'test': 'test',
    }
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
        'blur': 0.5,
        'kernel': 3,
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
        name='debiased',
        projector=(512, 128),
        temperature=0.5,
        tau_plus=0.1,
        dtype='bfloat16',
    )
    config.optimizer.update(name='adamw', learning_rate=0.001, scaling='none', weight_decay=1e-06)
    config.optimizer.schedule = {'name': 'constant'}
    config.evaluation.update(every=4000)
    config.checkpoint_every = 2000
    return finish(config, variant)
