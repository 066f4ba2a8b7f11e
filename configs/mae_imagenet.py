"""MAE on ImageNet with a ViT-B/16 (He et al., 2021; the official code).

    python -m clr_jax.main --config=configs/mae_imagenet.py
    python -m clr_jax.evaluate --workdir=runs/mae_imagenet --protocol=finetune
    python -m clr_jax.evaluate.pictures --workdir=runs/mae_imagenet

Hardware: a pod of 64 or more TPU chips. Published: 83.6 % top-1 after fine-tuning and 68.0 by linear
evaluation, after 1600 epochs; 85.9 and 75.8 with a ViT-L (--config.encoder.variant=L). Fine-tuning is
the measure of this family.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 4096, 1600.0
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
        'interpolation': 'bicubic',
        'jitter': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.encoder.update(
        name='vit',
        variant='B',
        patch=16,
        positions='sincos',
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        dtype='bfloat16',
    )
    config.method.update(
        name='mae',
        ratio=0.75,
        decoder_width=512,
        decoder_depth=8,
        decoder_heads=16,
        dtype='bfloat16',
    )
    config.optimizer.update(
        name='adamw', learning_rate=1.5e-4, scaling='linear', weight_decay=0.05, b2=0.95
    )
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 40.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.evaluation.update(crop=0.875, every=6240)
    config.checkpoint_every = 1560
    return finish(config, variant)
