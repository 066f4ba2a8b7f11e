"""SimCLR on your own images: a directory of them, with or without a subfolder for each class.

    python -m clr_jax.main --config=configs/simclr_folder.py --config.data.path=/path/to/images

Labels, where there are subfolders, serve the online probe and nearest neighbours only. Hardware:
one accelerator; set config.batch_size to what it holds, and config.epochs so that the run has at
least some ten thousand steps.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 256, 200.0
    config.data = {'name': 'folder', 'path': ''}
    config.views.view = {'size': 224}
    config.encoder.update(name='resnet', depth=18)
    config.method.update(name='simclr', projector=(512, 128), temperature=0.1)
    config.optimizer.update(name='lars', learning_rate=0.075, scaling='sqrt', weight_decay=1e-6)
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 10.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0, 'adapt': False}
    config.evaluation.update(crop=0.875, every=1000)
    return finish(config, variant)
