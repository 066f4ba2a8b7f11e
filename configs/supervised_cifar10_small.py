"""A four-layer ConvNet on CIFAR-10 with all labels: what the encoder of simclr_cifar10_small can
learn from as many pictures when it is told the classes. Not a reproduction of anything published.

    python -m clr_jax.main --config=configs/supervised_cifar10_small.py --config.data.data_dir=~/tensorflow_datasets

Hardware: two CPU cores, minutes. Its views are crops and flips; SimCLR's are too strong for it.
`test_top1` in metrics.jsonl is the accuracy of the classifier.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 6.0
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.views.view = {
        'copies': 1,
        'size': 32,
        'area': (0.25, 1.0),
        'jitter': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.encoder.update(name='convnet', widths=(32, 64, 128, 256))
    config.method.update(name='finetune')
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 2e-3,
        'scaling': 'none',
        'weight_decay': 1e-4,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 0.2}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.probe.learning_rate = 0.0
    config.evaluation.update(every=780, test_examples=10000)
    return finish(config, variant)
