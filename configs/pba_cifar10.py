"""Population based augmentation (Ho et al., 2019; arXiv:1905.05393) on CIFAR-10: the search on 4,000 labels by
sixteen WRN-40-2, and a WRN-28-10 on all labels with what it finds.

    python -m clr_jax.pba --config=configs/pba_cifar10.py --trials=16 --workdir=runs/pba
    python -m clr_jax.main --config=configs/pba_cifar10.py --workdir=runs/pba_wrn --config.subset.per_class=0 \
        --config.encoder.depth=28 --config.encoder.width=10 \
        --config.views.view.policy=pba --config.views.view.schedule=runs/pba/schedule.json

Hardware: a TPU v5e-8; not run. Published: 97.42 % (2.58 % error) of the WRN-28-10. As there: 200 epochs, selection
every three, a rate of 0.1, a weight decay of 5e-4, the policy followed by Cutout. Here 10,000 of the other 46,000
training images validate, and the crops are resized. The policy follows crop and flip.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 200.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.subset.per_class = 400
    config.views.view = {
        'copies': 1,
        'size': 32,
        'area': (0.7, 1.0),
        'min_object_covered': 0.0,
        'cutout': 16,
        'jitter': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.encoder.update(name='wide_resnet', depth=40, width=2)
    config.method.update(name='finetune')
    config.optimizer = {
        'name': 'sgd',
        'learning_rate': 0.1,
        'scaling': 'none',
        'weight_decay': 5e-4,
        'nesterov': True,
    }
    config.optimizer.schedule = {'name': 'cosine'}
    config.probe.learning_rate = 0.0
    config.evaluation.update(every=3100)
    return finish(config, variant, subset={'per_class': 64})  # at laptop size
