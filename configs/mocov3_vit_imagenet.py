"""MoCo v3 on ImageNet with a ViT-S/16 (Chen et al., 2021; the official code).

    python -m clr_jax.main --config=configs/mocov3_vit_imagenet.py

Hardware: a pod of 32 or more TPU chips. Published: 73.2 % top-1 by linear evaluation after 300
epochs; 76.7 with a ViT-B (--config.encoder.variant=B --config.encoder.heads=12). The patch
projection keeps its random weights; its ViT-S has 12 heads.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 4096, 300.0
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
        name='vit',
        variant='S',
        patch=16,
        heads=12,
        positions='sincos',
        token_std=1e-6,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        dtype='bfloat16',
    )
    config.method.update(
        name='mocov3',
        projector=(4096, 4096, 256),
        predictor=(4096, 256),
        predictor_norm='plain',
        temperature=0.2,
        momentum=0.99,
        dtype='bfloat16',
    )
    config.optimizer.update(name='adamw', learning_rate=0.00015, scaling='linear', weight_decay=0.1)
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 40.0}
    config.groups.patches = {'pattern': 'encoder/patch_embed', 'frozen': True}
    config.evaluation.update(crop=0.875, every=6240)
    config.checkpoint_every = 1560
    return finish(config, variant)
