"""SimSiam on ImageNet with a ResNet-50 (Chen & He, 2020; the official code).

    python -m clr_jax.main --config=configs/simsiam_imagenet.py

Hardware: 8 TPU chips. Published: 68.1 % top-1 by linear evaluation after 100 epochs, with the
predictor's learning rate held constant.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 512, 100.0
    config.data = {
        'name': 'tfds',
        'dataset': 'imagenet2012',
        'train': 'train',
        'test': 'validation',
    }
    config.views.view = {
        'size': 224,
        'flavour': 'torch',
        'area': (0.2, 1.0),
        'interpolation': 'bilinear',
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.4,
        'hue': 0.1,
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
        name='simsiam',
        projector=(2048, 2048, 2048),
        predictor=(512, 2048),
        dtype='bfloat16',
    )
    config.optimizer.update(name='sgd', learning_rate=0.05, scaling='linear', weight_decay=0.0001)
    config.optimizer.schedule = {'name': 'cosine', 'per': 'epoch'}
    config.groups.predictor = {'pattern': '^predictor/', 'schedule': {'name': 'constant'}}
    config.evaluation.update(crop=0.875, every=12500)
    config.checkpoint_every = 2500
    return finish(config, variant)
