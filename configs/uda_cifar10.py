"""UDA (Xie et al., 2019; arXiv:1904.12848) on CIFAR-10 with 4,000 labels and a WRN-28-2.

    python -m clr_jax.main --config=configs/uda_cifar10.py

Hardware: a TPU v5e-8; not run. Published: 95.68 % (the official code). As there: 448 unlabelled images
beside 64 labelled ones, UDA's own policy and Cutout, a temperature of 0.4, a confidence of 0.8, an
average of parameters with 0.9999. There the rate falls along a cosine to 0.2 of its peak, which is
what `final` stands for: cos(7 pi / 16) = 0.195 of a quarter wave, here of a half wave. Labels are drawn
evenly over the classes by config.subset.seed. The policy follows the crop here and precedes it there.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.steps = 64, 500_000
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.subset.per_class = 400
    plain = {
        'copies': 1,
        'size': 32,
        'flavour': 'tf',
        'area': (0.7, 1.0),
        'min_object_covered': 0.0,
        'jitter': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.views.view = plain
    config.unlabelled.batch_size = 448
    config.unlabelled.views = {'plain': plain, 'strong': plain | {'policy': 'uda', 'cutout': 16}}
    config.encoder.update(name='wide_resnet', depth=28, width=2, slope=0.1)
    config.method.update(name='uda', temperature=0.4, confidence=0.8, momentum=0.9999)
    config.optimizer = {
        'name': 'sgd',
        'learning_rate': 0.03,
        'scaling': 'none',
        'weight_decay': 5e-4,
        'nesterov': True,
    }
    config.optimizer.schedule = {'name': 'cosine', 'final': 0.195}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.probe.learning_rate = 0.0
    config.evaluation.update(every=10_000)
    config.checkpoint_every = 10_000
    return finish(config, variant)
