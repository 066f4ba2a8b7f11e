"""SimCLR with the margin loss with semi-hard negatives, on CIFAR-10: one of the losses that the
paper compares (Chen et al., 2020, tables 4 and 5).

    python -m clr_jax.main --config=configs/simclr_margin_semihard_cifar10.py

Hardware: 8 TPU chips. Published for ImageNet, 100 epochs: 57.5 % top-1 by linear evaluation. The
paper has no such comparison on CIFAR-10 and tunes each loss's temperature or margin; this is one
point.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 1024, 100.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.views.view = {
        'size': 32,
        'flavour': 'tf',
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.4,
        'hue': 0.1,
        'blur': 0.0,
    }
    config.encoder.update(name='resnet', depth=50, small_stem=True, dtype='bfloat16')
    config.method.update(
        name='simclr',
        projector=(2048, 128),
        loss='margin',
        mining='semi_hard',
        margin=0.4,
        dtype='bfloat16',
    )
    config.optimizer.update(name='lars', learning_rate=1.0, scaling='linear', weight_decay=1e-06)
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 10.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0, 'adapt': False}
    config.evaluation.update(every=1200)
    config.checkpoint_every = 1200
    return finish(config, variant)
