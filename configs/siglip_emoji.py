"""SigLIP (Zhai et al., 2023; arXiv:2303.15343) on captioned drawings with small towers: minutes on a
laptop, and not a reproduction of anything published.

    python -m clr_jax.main --config=configs/siglip_emoji.py --config.data.path=emoji/google --config.data.test_path=emoji/twitter
    python -m clr_jax.evaluate --workdir=runs/siglip_emoji --protocol=retrieval,zeroshot --baselines
    python -m clr_jax.evaluate --workdir=runs/siglip_emoji --protocol=retrieval,zeroshot --test=seen

It trains on the names of one drawing style, and is tested on names it has not seen, in another style;
with --test=seen, on the names of training in the other style. The drawings are those of the npm
packages emoji-datasource-google and -twitter, 64 pixels; `captions.json` beside their folders is a list
of {"image": ..., "caption": ..., "category": ...}.

Hardware: two CPU cores, some minutes. Of names seen in training, in the other style: 41.2 % of the
drawings find their name and 43.4 % of the names their drawing among the nearest ten (chance: 0.6 %).
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 60.0
    config.data = {
        'name': 'captions',
        'path': '',
        'test_path': '',
        'file': '../captions.json',
        'label': 'category',
    }
    config.views = {
        'image': {
            'copies': 1,
            'size': 32,
            'area': (0.5, 1.0),
            'min_object_covered': 0.0,
            'brightness': 0.4,
            'contrast': 0.4,
            'saturation': 0.4,
            'hue': 0.05,
            'grayscale': 0.1,
            'blur': 0.0,
        },
        'text': {'name': 'text', 'length': 16, 'part': 0},
    }
    config.tokenizer.vocabulary = 2048
    config.encoder.update(name='convnet', widths=(32, 64, 128, 256))
    config.text_encoder = {
        'name': 'text',
        'width': 128,
        'depth': 2,
        'heads': 4,
        'vocabulary': 2048,
        'length': 16,
        'causal': False,
        'pool': 'mean',
    }
    config.method.update(name='siglip', dim=128)
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 1e-3,
        'scaling': 'none',
        'weight_decay': 0.1,
        'b2': 0.98,
    }
    config.optimizer.schedule = {'name': 'cosine', 'warmup_epochs': 5.0}
    config.groups.gains_and_biases = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.evaluation.update(every=390)
    return finish(config, variant)
