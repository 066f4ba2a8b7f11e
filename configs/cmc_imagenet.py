"""Contrastive multiview coding of L and ab on ImageNet with two ResNet-50 of half the width (Tian et
al., 2020; the official code's resnet50v1).

    python -m clr_jax.main --config=configs/cmc_imagenet.py

Hardware: 8 TPU chips. The two memories of 1,281,167 images take 1,312 MB on every device. No
published number belongs to exactly this: the authors' 64.1 % top-1 by linear evaluation is of two
encoders of full width (`--config.encoder.width=1.0`), with Fast AutoAugment, which is not here.

The loss is the cross entropy that the authors came to recommend, with the official code's default
of 16,384 negatives. They also recommend YCbCr and 65,536 (`--config.method.noise=65536
--config.method.channels="('Y', 'CbCr')"`); the weights they released were trained by NCE with 4,096
(`--config.method.nce=True --config.method.noise=4096`). Computation is in float32, because mixed
precision cost them half a point to one. Batch statistics are of the whole batch, theirs of each
GPU's part of it.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 240.0
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
        'interpolation': 'bilinear',
        'jitter': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.encoder.update(name='resnet', depth=50, width=0.5, zero_init=False)
    config.method.update(
        name='cmc',
        channels=('L', 'ab'),
        projector=(128,),
        temperature=0.07,
        noise=16384,
        nce=False,
        momentum=0.5,
    )
    config.optimizer.update(name='sgd', learning_rate=0.03, scaling='none', weight_decay=0.0001)
    config.optimizer.schedule = {'name': 'step', 'milestones': (120, 160, 200)}
    config.evaluation.update(crop=0.875, every=50000)
    config.checkpoint_every = 5000
    return finish(config, variant, data={'colored': True})
