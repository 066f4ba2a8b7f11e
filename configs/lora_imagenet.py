"""LoRA (Hu et al., 2021) on the ViT-S of MoCo v3: of 21.6 million parameters none changes; 0.6
million beside them are trained on ImageNet's labels, and a classifier.

    python -m clr_jax.main --config=configs/mocov3_vit_imagenet.py         # the encoder
    python -m clr_jax.main --config=configs/lora_imagenet.py

Hardware: a pod of 16 or more TPU chips. A starting point: nothing is published for these data. With
a ViT-B give both commands its --config.encoder.variant=B.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 1024, 30.0
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
        'area': (0.08, 1.0),
        'jitter': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
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
    config.method.update(name='lora', rank=8, alpha=16.0)
    config.pretrained.workdir = 'runs/mocov3_vit_imagenet'
    config.optimizer.update(name='adamw', learning_rate=1e-3, scaling='none', weight_decay=0.0)
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 1.0}
    config.probe.learning_rate = 0.0
    config.evaluation.update(crop=0.875, every=6255)
    config.checkpoint_every = 1251
    return finish(config, variant, pretrained={'workdir': 'runs/mocov3_vit_imagenet_smoke'})
