"""SimCLR v2 on ImageNet with a ResNet-50 with selective kernels (Chen et al., 2020b; the official
code): stage 1 of three, pre-training.

    python -m clr_jax.main --config=configs/simclrv2_imagenet.py

Stages 2 and 3 are configs/simclrv2_finetune_imagenet.py and configs/simclrv2_distill_imagenet.py.

Hardware: a pod of 64 or more TPU chips. Published: 74.6 % top-1 by linear evaluation (71.7 without
selective kernels) after 800 epochs. This follows the released code, which has no memory; the
paper's, 65,536 embeddings and about 1 % better, is config.method.memory=65536.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 4096, 800.0
    config.data = {
        'name': 'tfds',
        'dataset': 'imagenet2012',
        'train': 'train',
        'test': 'validation',
    }
    config.views.view = {
        'size': 224,
        'flavour': 'tf',
        'area': (0.08, 1.0),
        'jitter': 0.8,
        'grayscale': 0.2,
        'blur': 0.5,
    }
    config.encoder.update(
        name='resnet',
        depth=50,
        sk_ratio=0.0625,
        resnet_d=True,
        padding='torch',
        pool_padding='SAME',
        dtype='bfloat16',
    )
    config.method.update(
        name='simclr',
        projector=(2048, 2048, 128),
        temperature=0.1,
        constant='official',
        dtype='bfloat16',
    )
    config.optimizer.update(name='lars', learning_rate=0.1, scaling='sqrt', weight_decay=0.0001)
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 40.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0, 'adapt': False}
    config.evaluation.update(crop=0.875, every=6240)
    config.checkpoint_every = 1560
    return finish(config, variant)
