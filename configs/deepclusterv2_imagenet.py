"""DeepCluster v2 on ImageNet with a ResNet-50 (Caron et al., 2020; the official code of SwAV): two
large crops and six small ones.

    python -m clr_jax.main --config=configs/deepclusterv2_imagenet.py

Hardware: a pod of 64 or more TPU chips, 1.3 GB of each for the memory of all images. Published:
75.2 % top-1 by linear evaluation after 800 epochs. The first of these only fills the memory here.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 4096, 800.0
    config.bn_groups = 8  # of 512 images, which the official code has on 8 devices
    config.data = {
        'name': 'tfds',
        'dataset': 'imagenet2012',
        'train': 'train',
        'test': 'validation',
    }
    both = {
        'flavour': 'torch',
        'interpolation': 'bilinear',
        'brightness': 0.8,
        'contrast': 0.8,
        'saturation': 0.8,
        'hue': 0.2,
        'grayscale': 0.2,
        'blur': 0.5,
    }
    config.views = {
        'large': both | {'copies': 2, 'size': 224, 'area': (0.14, 1.0)},
        'small': both | {'copies': 6, 'size': 96, 'area': (0.05, 0.14)},
    }
    config.encoder.update(
        name='resnet',
        depth=50,
        zero_init=False,
        mean=(0.485, 0.456, 0.406),
        std=(0.228, 0.224, 0.225),  # of the official code; others have 0.229
        dtype='bfloat16',
    )
    config.method.update(
        name='deepclusterv2',
        projector=(2048, 128),
        prototypes=3000,
        heads=3,
        temperature=0.1,
        iterations=10,
        dtype='bfloat16',
    )
    config.optimizer.update(
        name='lars',
        learning_rate=4.8,
        scaling='none',
        weight_decay=1e-6,
        ratio='larc',
        learning_rate_in='update',
        eps=1e-8,
    )
    config.optimizer.schedule = {
        'name': 'cosine',
        'warmup_epochs': 10.0,
        'warmup_from': 0.0625,
        'final': 0.001,
    }
    config.evaluation.update(crop=0.875, every=6240)
    config.checkpoint_every = 1560
    smoke = {'method': {'prototypes': 64}, 'optimizer': {'learning_rate': 0.3}}
    return finish(config, variant, **smoke)
