"""NNCLR on ImageNet with a ResNet-50 (Dwibedi et al., 2021).

    python -m clr_jax.main --config=configs/nnclr_imagenet.py

Hardware: a pod of 64 or more TPU chips. Published: 75.4 % top-1 by linear evaluation after 1000
epochs. Learning rate and augmentation are SimCLR's: the paper's own could not be confirmed. The
queue takes 101 MB on every device.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 4096, 1000.0
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
        name='nnclr',
        projector=(2048, 2048, 256),
        predictor=(4096, 256),
        temperature=0.1,
        queue_size=98304,
        dtype='bfloat16',
    )
    config.optimizer.update(name='lars', learning_rate=0.3, scaling='linear', weight_decay=1e-06)
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 10.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0, 'adapt': False}
    config.evaluation.update(crop=0.875, every=6240)
    config.checkpoint_every = 1560
    return finish(config, variant)
