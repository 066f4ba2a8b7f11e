"""SimCLR v2 on ImageNet (Chen et al., 2020b; the official code): stage 2 of three, fine-tuning from
the first layer of the projector with a tenth of the labels.

    python -m clr_jax.main --config=configs/simclrv2_imagenet.py           # stage 1
    python -m clr_jax.main --config=configs/simclrv2_finetune_imagenet.py

Hardware: a pod of 16 or more TPU chips. Published: 72.1 % top-1. With one of a hundred labels,
--config.subset.fraction=0.01 --config.epochs=60: 64.5 %. The authors' choice of labelled images is
imagenet_subsets/ of their code: --config.subset.fraction=1 --config.subset.list=<its file>.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 1024, 30.0
    config.data = {
        'name': 'tfds',
        'dataset': 'imagenet2012',
        'train': 'train',
        'test': 'validation',
    }
    config.subset.fraction = 0.1
    config.views.view = {
        'copies': 1,
        'size': 224,
        'flavour': 'tf',
        'area': (0.08, 1.0),
        'jitter': 0.0,
        'grayscale': 0.0,
        'blur': 0.0,
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
        name='finetune', projector=(2048, 2048, 128), head_layers=1, dtype='bfloat16'
    )
    config.pretrained.update(workdir='runs/simclrv2_imagenet', parts=('encoder', 'projector'))
    config.optimizer.update(name='lars', learning_rate=0.005, scaling='sqrt', weight_decay=0.0)
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 0.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'adapt': False}
    config.groups.classifier = {'pattern': '^predictor/', 'adapt': False}
    config.probe.learning_rate = 0.0
    config.evaluation.update(crop=0.875, every=625)
    config.checkpoint_every = 625
    return finish(config, variant, pretrained={'workdir': 'runs/simclrv2_imagenet_smoke'})
