"""MAE on CIFAR-10 with a small ViT: minutes on a laptop, and not a reproduction of anything
published.

    python -m clr_jax.main --config=configs/mae_cifar10_small.py

--config.method.damage=grayscale, noise or shuffle: the cheaper damages. A ConvNet cannot leave
patches out, so this run has its own random baseline.

Hardware: two CPU cores, about 14 minutes. `python benchmarks/small_compute.py` compares it with the
other methods.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 6.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.views.view = {
        'copies': 1,
        'size': 32,
        'area': (0.2, 1.0),
        'min_object_covered': 0.0,
        'jitter': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.encoder.update(
        name='vit',
        width=128,
        depth=4,
        heads=4,
        patch=4,
        pool='average',
        positions='sincos',
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    config.method.update(name='mae', ratio=0.75, decoder_width=64, decoder_depth=2, decoder_heads=4)
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 1e-3,
        'scaling': 'none',
        'weight_decay': 0.05,
        'b2': 0.95,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 0.5}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.evaluation.update(every=780, train_examples=5000, test_examples=1000)
    return finish(config, variant)
