"""UDA (Xie et al., 2019; arXiv:1904.12848) on CIFAR-10 with 4,000 labels and a four-layer ConvNet: minutes
on a laptop, and not a reproduction of anything published.

    python -m clr_jax.main --config=configs/uda_cifar10_convnet.py --config.data.data_dir=~/tensorflow_datasets

So small a network in so few steps is seldom as sure as the paper's 0.8, and learns little from squares of half its
images: hence confidence 0.5 and squares of 8 pixels. Strong augmentations pass by themselves: in one pass with them, the
running statistics were not of the images that are classified in the end, and cost up to a point.

Hardware: one CPU core, some twenty minutes. `python benchmarks/few_labels.py` compares it with the labels alone.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.steps = 64, 2500
    config.data = {'name': 'tfds', 'dataset': 'cifar10', 'train': 'train', 'test': 'test'}
    config.subset.per_class = 400
    plain = {
        'copies': 1,
        'size': 32,
        'area': (0.7, 1.0),
        'min_object_covered': 0.0,
        'jitter': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.views.view = plain
    config.unlabelled.batch_size = 64
    config.unlabelled.views = {'plain': plain, 'strong': plain | {'policy': 'uda', 'cutout': 8}}
    config.encoder.update(name='convnet', widths=(32, 64, 128, 256))
    config.method.update(name='uda', temperature=0.4, confidence=0.5, momentum=0.99, joint=False)
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 2e-3,
        'scaling': 'none',
        'weight_decay': 1e-4,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 1.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.probe.learning_rate = 0.0
    config.evaluation.update(every=500, test_examples=10000)
    return finish(config, variant)
