"""SimCLR v1 on ImageNet with a ResNet-50 (Chen et al., 2020, section 6; appendix B.6-B.8 and the
official code).

    python -m clr_jax.main --config=configs/simclr_imagenet.py --workdir=gs://bucket/simclr_imagenet

Hardware: a pod of 64 or more TPU chips. Published: 69.3 % top-1 by linear evaluation after 1000
epochs, 64.5 % after 100. Where paper and code differ this follows the code (loss summed over both
directions, multiplicative brightness), except for the weight decay: the paper's 1e-6, not the 1e-4
of the code's README.
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
        name='resnet', depth=50, padding='torch', pool_padding='SAME', dtype='bfloat16'
    )
    config.method.update(
        name='simclr', projector=(2048, 128), temperature=0.1, constant='official', dtype='bfloat16'
    )
    config.optimizer.update(name='lars', learning_rate=0.3, scaling='linear', weight_decay=1e-6)
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 10.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0, 'adapt': False}
    config.evaluation.update(crop=0.875, every=6240)
    config.checkpoint_every = 1560
    return finish(config, variant)
