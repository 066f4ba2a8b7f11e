"""CLIP (Radford et al., 2021; arXiv:2103.00020) with a ViT-B/32 on LAION-400M, in the recipe of
OpenCLIP, which follows the paper's.

    python -m clr_jax.main --config=configs/clip_laion.py --config.tokenizer.path=tokenizer.json

The tokenizer is CLIP's, a JSON file of the library tokenizers. The data are prepared by TensorFlow
Datasets as laion400m; its captions are the texts.

Hardware: a pod of 256 TPU chips; not run. Published: 62.9 % zero-shot on ImageNet (OpenCLIP). Where they
differ, this follows OpenCLIP: crops of 0.9 to 1 of the image, as many steps of warm-up as the paper
(2000). Statistics of the optimizer are float32.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 32768, 32.0
    config.data = {
        'name': 'tfds',
        'dataset': 'laion400m/images',
        'train': 'train[1%:]',
        'test': 'train[:1%]',
        'text': ('caption',),
    }
    config.views = {
        'image': {
            'copies': 1,
            'size': 224,
            'flavour': 'torch',
            'area': (0.9, 1.0),
            'flip': 0.0,
            'jitter': 0.0,
            'grayscale': 0.0,
            'blur': 0.0,
        },
        'text': {'name': 'text', 'length': 77, 'part': 0},
    }
    config.encoder.update(
        name='vit',
        variant='B',
        patch=32,
        activation='quick_gelu',
        pre_norm=True,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        remat='full',
        dtype='bfloat16',
    )
    config.text_encoder = {'name': 'text', 'width': 512, 'remat': 'full', 'dtype': 'bfloat16'}
    config.method.update(name='clip', dim=512, temperature=0.07, dtype='bfloat16')
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 5e-4,
        'scaling': 'none',
        'weight_decay': 0.2,
        'b2': 0.98,
        'eps': 1e-6,
    }
    warmup = 2000 * 32768 / 400_000_000  # 2000 steps
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': warmup}
    config.groups.gains_and_biases = {'pattern': '(bias|scale|cls_token)$', 'weight_decay': 0.0}
    config.evaluation.update(crop=1.0)
    return finish(config, variant)
