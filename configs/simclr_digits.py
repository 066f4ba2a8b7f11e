"""SimCLR on scikit-learn's handwritten digits, embedded: no download.

    launch/local.sh
    python -m clr_jax.main --config=configs/simclr_digits.py
    python -m clr_jax.evaluate --workdir=runs/simclr_digits --protocol=knn --labels_per_class=1 --draws=20 --baselines
    python -m clr_jax.evaluate --workdir=runs/simclr_digits --protocol=knn --baselines

Expected by nearest neighbours, top-1: with one label per class (mean of 20 draws) 0.836, at random
initialisation 0.514, pixels 0.639; with all labels 0.981, at random initialisation 0.939, pixels
0.967. Hardware: two CPU cores, less than a minute.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 100.0
    config.data = {'name': 'digits'}
    config.views.view = {
        'size': 8,
        'area': (0.4, 1.0),
        'ratio': (0.5, 2.0),
        'flip': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
    }
    config.views.view.update(jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.0, hue=0.0)
    config.encoder.update(name='convnet', widths=(32, 64, 128, 256))
    config.method.update(name='simclr', projector=(128, 64), temperature=0.5)
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 2e-3,
        'scaling': 'none',
        'weight_decay': 1e-4,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 5.0}
    config.evaluation.update(every=220)
    return finish(config, variant)
