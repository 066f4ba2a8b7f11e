"""SimCLR on CIFAR-10 with a ResNet-50 for small images (Chen et al., 2020, appendix B.9).

    python -m clr_jax.main --config=configs/simclr_cifar10.py

Hardware: 8 TPU chips. Published: 94.0 % top-1 by linear evaluation at batch 1024 after 1000 epochs,
for the best of the paper's grid: learning rate 0.5, 1.0 or 1.5, temperature 0.1, 0.5 or 1.0. The
paper does not say which point that is; this is the grid's centre. Colour distortion has half its
strength, and there is no blur.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 1024, 1000.0
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
        name='simclr', projector=(2048, 128), temperature=0.5, constant='official', dtype='bfloat16'
    )
    config.optimizer.update(name='lars', learning_rate=1.0, scaling='linear', weight_decay=1e-6)
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 10.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0, 'adapt': False}
    config.evaluation.update(every=2400)
    return finish(config, variant)
