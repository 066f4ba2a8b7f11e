"""Supervised contrastive learning on ImageNet with a ResNet-50 (Khosla et al., 2020): stage 1.

    python -m clr_jax.main --config=configs/supcon_imagenet.py
    python -m clr_jax.evaluate --workdir=runs/supcon_imagenet --protocol=linear

Hardware: a pod of 64 or more TPU chips. Published: 78.7 % top-1 after 350 epochs, with AutoAugment;
here the augmentation is SimCLR's, and so is the learning rate, which could not be confirmed.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 6144, 350.0
    config.data = {
        'name': 'tfds',
        'dataset': 'imagenet2012',
        'train': 'train',
        'test': 'validation',
    }
    config.views.view = {
        'size': 224,
        'flavour': 'tf',
        'area': (0.08, 1.0),
        'jitter': 0.8,
        'grayscale': 0.2,
        'blur': 0.5,
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
        name='supcon',
        projector=(2048, 128),
        temperature=0.1,
        dtype='bfloat16',
    )
    config.optimizer.update(name='lars', learning_rate=0.3, scaling='linear', weight_decay=1e-06)
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 10.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0, 'adapt': False}
    config.evaluation.update(crop=0.875, every=4160)
    config.checkpoint_every = 1040
    return finish(config, variant)
