"""LooC on CIFAR-10 with a four-layer ConvNet: minutes on a laptop, and not a reproduction of
anything published.

    python -m clr_jax.main --config=configs/looc_cifar10_small.py

Only colour has a space of its own here; rotation, the paper's other, is in
configs/looc_imagenet.py.

Hardware: two CPU cores, about 5 minutes. `python benchmarks/small_compute.py` compares it with the
other methods.
"""

from clr_jax.config import default, finish
from clr_jax.data.augment import DRAWS


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 3.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    shape = {
        'copies': 1,
        'size': 32,
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.4,
        'hue': 0.1,
        'blur': 0.0,
    }
    color = ('jitter', 'order', 'brightness', 'contrast', 'saturation', 'hue', 'grayscale')
    config.views = {
        'view0_query': shape | {'shared': DRAWS},
        'view1_all': shape,
        'view2_color': shape | {'shared': color},
    }
    config.encoder.update(name='convnet', widths=(32, 64, 128, 256))
    config.method.update(
        name='looc',
        sensitive=1,
        projector=(256, 128),
        temperature=0.1,
        momentum=0.99,
        queue_size=4096,
    )
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 2e-3,
        'scaling': 'none',
        'weight_decay': 1e-4,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 0.2}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.evaluation.update(every=390, train_examples=5000, test_examples=1000)
    return finish(config, variant)
