"""Population based augmentation (Ho et al., 2019; arXiv:1905.05393) on 4,000 labels of CIFAR-10 by a WRN-10-1: minutes
on a laptop, and not a reproduction of anything published.

    python -m clr_jax.pba --config=configs/pba_cifar10_small.py --interval=3 --workdir=runs/pba
    python -m clr_jax.main --config=configs/pba_cifar10_small.py \
        --config.views.view.policy=pba --config.views.view.schedule=runs/pba/schedule.json

Hardware: one CPU core, the search about 40 minutes, a training 4. `python benchmarks/learned_augmentation.py`
compares what it finds with no policy, which is this config as it is.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 64, 24.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.subset.per_class = 400
    config.views.view = {
        'copies': 1,
        'size': 32,
        'area': (0.7, 1.0),
        'min_object_covered': 0.0,
        'jitter': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.encoder.update(name='wide_resnet', depth=10, width=1, conv='direct')
    config.method.update(name='finetune')
    config.optimizer = {
        'name': 'sgd',
        'learning_rate': 0.1,
        'scaling': 'none',
        'weight_decay': 5e-4,
        'nesterov': True,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 1.0}
    config.probe.learning_rate = 0.0
    config.evaluation.update(every=0, test_examples=2000)
    return finish(config, variant, subset={'per_class': 64})  # at laptop size
