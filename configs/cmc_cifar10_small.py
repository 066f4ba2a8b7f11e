"""CMC of L and ab on CIFAR-10 with two four-layer ConvNets: minutes on a laptop, and not a reproduction
of anything published.

    python -m clr_jax.main --config=configs/cmc_cifar10_small.py

It contrasts an image with the others of its batch: in so short a run, memories would be of encoders
long gone.

Hardware: two CPU cores. `python benchmarks/small_compute.py` compares it with the other methods, and with
its own encoders at random initialisation.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 2.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.views.view = {
        'size': 32,
        'area': (0.2, 1.0),
        'jitter': 0.0,  # what colours have to say
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.encoder.update(name='convnet', widths=(24, 48, 96, 192))
    config.method.update(
        name='cmc',
        channels=('L', 'ab'),
        projector=(128,),
        temperature=0.1,
        memories=False,
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
    return finish(config, variant, data={'colored': True})
