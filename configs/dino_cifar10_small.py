"""DINO on CIFAR-10 with a four-layer ConvNet: minutes on a laptop, and not a reproduction of
anything published.

    python -m clr_jax.main --config=configs/dino_cifar10_small.py

Hardware: two CPU cores, about 10 minutes. `python benchmarks/small_compute.py` compares it with the
other methods.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 64, 3.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    every = {
        'size': 32,
        'area': (0.2, 1.0),
        'brightness': 0.4,
        'contrast': 0.4,
        'saturation': 0.4,
        'hue': 0.1,
        'blur': 0.0,
    }
    config.views = {
        'global': every,
        'local': every | {'size': 16, 'area': (0.08, 0.3)},
    }
    config.encoder.update(name='convnet', widths=(32, 64, 128, 256))
    config.method.update(
        name='dino',
        projector=(256, 256, 64),
        projector_norm='full',
        prototypes=512,
        teacher_temperature=0.05,
        momentum=0.98,
    )
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 2e-3,
        'scaling': 'none',
        'weight_decay': 1e-4,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 0.2}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.groups.all = {'pattern': '.', 'clip': 3.0}
    config.groups.last_layer = {'pattern': '^predictor/', 'freeze_until': 200}
    config.evaluation.update(every=780, train_examples=5000, test_examples=1000)
    return finish(config, variant)
