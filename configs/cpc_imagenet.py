"""Contrastive Predictive Coding on ImageNet with a ResNet-50, as in v2 (Henaff et al., 2019): a grid
of 7x7 overlapping patches, four directions, layer norm, patches of one colour.

    python -m clr_jax.main --config=configs/cpc_imagenet.py

Hardware: a pod of 64 TPU chips; an image is 49 patches of 64 pixels, some four times the pixels of a
view of 224. Published: 63.8 % top-1 by linear evaluation (v2, ResNet-50); there is no official code.
What we could confirm is what the first lines say. The geometry is v1's (64-pixel patches, 32 apart,
of 256 pixels), the features are the mean of the patches' embeddings. Ours, for want of a source: layer
norm over the channels of each pixel; dropped colours are black, and images are flipped, not patches;
which rows are predicted; targets of 64 dimensions, the scale of the predictions and the width and
depth of the context networks; batch size, length and optimizer.
--config.method.directions=1 --config.encoder.norm=batch --config.method.drop_colours=0: nearer to v1.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 512, 200.0
    config.data = {
        'name': 'tfds',
        'dataset': 'imagenet2012',
        'train': 'train',
        'test': 'validation',
    }
    config.views.view = {
        'copies': 1,
        'size': 256,
        'flavour': 'tf',
        'area': (0.3, 1.0),
        'min_object_covered': 0.0,
        'jitter': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.encoder.update(
        name='resnet',
        depth=50,
        norm='layer',
        zero_init=False,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        dtype='bfloat16',
    )
    config.method.update(
        name='cpc',
        context='pixelcnn',
        context_width=256,
        context_depth=5,
        steps=4,
        skip=1,
        directions=4,
        negatives=0,
        projector=(64,),
        scale=0.1,
        patch=64,
        stride=32,
        drop_colours=1.0,
        dtype='bfloat16',
    )
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 4e-4,
        'scaling': 'none',
        'weight_decay': 0.0,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 5.0}
    config.evaluation.update(crop=0.875, every=25000)
    config.checkpoint_every = 5000
    return finish(config, variant)
