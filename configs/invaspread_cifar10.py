"""InvaSpread on CIFAR-10 with a ResNet-18 for small images (Ye et al., 2019; the official code).

    python -m clr_jax.main --config=configs/invaspread_cifar10.py

Hardware: 1 TPU chip. Published: 83.6 % by 200 nearest neighbours after 301 epochs. The code
multiplies the learning rate by 0.1, 0.05 and 0.01 from epochs 120, 160 and 200 on; here by 0.1 at
120 and 200.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 301.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.views.view = {
        'size': 32,
        'flavour': 'torch',
        'area': (0.2, 1.0),
        'interpolation': 'bilinear',
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
        name='invaspread',
        projector=(128,),
        temperature=0.1,
        dtype='bfloat16',
    )
    config.optimizer.update(name='sgd', learning_rate=0.03, scaling='none', weight_decay=0.0005)
    config.optimizer.schedule = {'name': 'step', 'milestones': (120, 200)}
    config.evaluation.update(every=4000)
    config.checkpoint_every = 2000
    return finish(config, variant)
