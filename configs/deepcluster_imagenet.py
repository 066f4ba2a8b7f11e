"""DeepCluster on ImageNet with an AlexNet (Caron et al., 2018; the official code).

    python -m clr_jax.main --config=configs/deepcluster_imagenet.py

Hardware: 8 TPU chips. The features of all images, of which k-means makes the classes of an epoch,
take 21 GB of every host's memory, and twice that while they are collected. Published: linear
classifiers on the maps of each convolution (table 1), after 500 epochs; `linear` here is on the last
layer.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 256, 200.0
    config.data = {
        'name': 'tfds',
        'dataset': 'imagenet2012',
        'train': 'train',
        'test': 'validation',
    }
    config.views.view = {
        'copies': 1,
        'size': 224,
        'flavour': 'torch',
        'area': (0.08, 1.0),
        'interpolation': 'bilinear',
        'jitter': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.encoder.update(
        name='alexnet',
        sobel=True,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        dtype='bfloat16',
    )
    config.method.update(name='deepcluster', clusters=10000, iterations=20, dimensions=256)
    config.optimizer.update(
        name='sgd', learning_rate=0.05, scaling='linear', weight_decay=1e-5, momentum=0.9
    )
    config.optimizer.schedule = {'name': 'constant'}
    # it begins anew with every epoch, and what moved the last one must not move it
    config.groups.classifier = {'pattern': '^predictor/', 'momentum': 0.0}
    config.evaluation.update(crop=0.875, every=25020)
    config.checkpoint_every = 5004
    return finish(config, variant)
