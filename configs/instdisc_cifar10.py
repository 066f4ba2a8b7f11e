"""Instance discrimination on CIFAR-10 with a ResNet-18 for small images (Wu et al., 2018; the
official code).

    python -m clr_jax.main --config=configs/instdisc_cifar10.py

Hardware: 1 TPU chip. Published: 80.8 % by 200 nearest neighbours after 200 epochs, with the full
softmax over all images and no flips.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 200.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.views.view = {
        'copies': 1,
        'size': 32,
        'flavour': 'torch',
        'area': (0.2, 1.0),
        'interpolation': 'bilinear',
        'flip': 0.0,
        'jitter': 1.0,
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.4,
        'hue': 0.4,
        'grayscale': 0.2,
        'blur': 0.0,
    }
    config.encoder.update(
        name='resnet',
        depth=18,
        small_stem=True,
        zero_init=False,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        dtype='bfloat16',
    )
    config.method.update(
        name='instdisc',
        projector=(128,),
        temperature=0.1,
        noise=0,
        momentum=0.5,
        dtype='bfloat16',
    )
    config.optimizer.update(name='sgd', learning_rate=0.03, scaling='none', weight_decay=0.0005)
    config.optimizer.schedule = {'name': 'step', 'milestones': (120, 160)}
    config.evaluation.update(every=4000)
    config.checkpoint_every = 2000
    return finish(config, variant)
