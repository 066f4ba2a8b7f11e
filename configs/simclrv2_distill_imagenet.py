"""SimCLR v2 on ImageNet (Chen et al., 2020b; the official notebook): stage 3 of three, a network of
the same size learns from what the fine-tuned one says of all images; no labels are used.

    python -m clr_jax.main --config=configs/simclrv2_imagenet.py           # stage 1
    python -m clr_jax.main --config=configs/simclrv2_finetune_imagenet.py  # stage 2: the teacher
    python -m clr_jax.main --config=configs/simclrv2_distill_imagenet.py

Hardware: a pod of 64 or more TPU chips. Published, of a plain ResNet-50 whose teacher is a
ResNet-152 (3x, selective kernels): 77.5 % top-1 with a tenth of the labels, 73.9 with one of a
hundred. The temperature is that of self-distillation; for a teacher bigger than the student it is
--config.method.temperature=1. The loss is the notebook's: the paper's times the square of the
temperature. The length of the warm-up is that of stage 1, 5 % of the run.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 4096, 400.0
    config.data = {
        'name': 'tfds',
        'dataset': 'imagenet2012',
        'train': 'train',
        'test': 'validation',
    }
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
        name='distillation',
        temperature=0.1,
        constant='official',
        projector=(2048, 2048, 128),
        head_layers=1,
        dtype='bfloat16',
    )
    config.teacher.workdir = 'runs/simclrv2_finetune_imagenet'
    config.optimizer.update(name='lars', learning_rate=0.1, scaling='sqrt', weight_decay=1e-4)
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 20.0}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0, 'adapt': False}
    config.groups.classifier = {'pattern': '^predictor/', 'adapt': False}
    config.probe.learning_rate = 0.0
    config.evaluation.update(crop=0.875, every=6240)
    config.checkpoint_every = 1560
    return finish(config, variant, teacher={'workdir': 'runs/simclrv2_finetune_imagenet_smoke'})
