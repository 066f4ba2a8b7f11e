"""LooC on ImageNet with a ResNet-50 (Xiao et al., 2020): embeddings that keep colour and rotation
beside one that is invariant to both.

    python -m clr_jax.main --config=configs/looc_imagenet.py

Hardware: 8 TPU chips. The paper trains 500 epochs on 100 classes of ImageNet with MoCo v2's
settings; this is all of ImageNet, and no published number belongs to it. The formula is a reading
of the paper: see methods/looc.py. Three queues take 101 MB on every device.
"""

from clr_jax.config import default, finish
from clr_jax.data.augment import DRAWS


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 256, 200.0
    config.data = {
        'name': 'tfds',
        'dataset': 'imagenet2012',
        'train': 'train',
        'test': 'validation',
    }
    shape = {
        'copies': 1,
        'size': 224,
        'flavour': 'torch',
        'area': (0.2, 1.0),
        'interpolation': 'bilinear',
        'rotate': 0.5,
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.4,
        'hue': 0.1,
        'grayscale': 0.2,
        'blur': 0.5,
    }
    color = ('jitter', 'order', 'brightness', 'contrast', 'saturation', 'hue', 'grayscale')
    config.views = {
        'view0_query': shape | {'shared': DRAWS},
        'view1_all': shape,
        'view2_color': shape | {'shared': color},
        'view3_rotation': shape | {'shared': ('rotate',)},
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
        name='looc',
        sensitive=2,
        projector=(2048, 128),
        temperature=0.2,
        momentum=0.999,
        queue_size=65536,
        dtype='bfloat16',
    )
    config.optimizer.update(name='sgd', learning_rate=0.03, scaling='linear', weight_decay=0.0001)
    config.optimizer.schedule = {'name': 'cosine', 'per': 'epoch'}
    config.evaluation.update(crop=0.875, every=25000)
    config.checkpoint_every = 5000
    return finish(config, variant)
