"""SimCSE (Gao et al., 2021; arXiv:2104.08821), supervised: BERT-base on premises, what they entail and
what contradicts them.

    python -m clr_jax.main --config=configs/simcse_nli.py --config.data.path=nli_for_simcse.csv --config.tokenizer.path=bert-base-uncased/tokenizer.json --config.pretrained.weights=bert-base-uncased/model.safetensors
    python -m clr_jax.evaluate --workdir=runs/simcse_nli --protocol=sts --pairs=sts-dev.csv

The data are a CSV file with a header and three columns.

Hardware: one accelerator; not run. Published: 81.57, the average Spearman correlation of seven STS tasks.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 512, 3.0
    config.data = {'name': 'triples', 'path': ''}
    config.views = {
        'anchor': {'name': 'text', 'length': 32, 'part': 0},
        'entailment': {'name': 'text', 'length': 32, 'part': 1},
        'opposite': {'name': 'text', 'length': 32, 'part': 2},
    }
    config.encoder.update(name='bert', pool='cls', dropout=0.1)
    config.method.update(name='simcse', temperature=0.05, head_in_features=True)
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 5e-5,
        'scaling': 'none',
        'weight_decay': 0.0,
        'clip': 1.0,
    }
    config.optimizer.schedule = {'name': 'linear'}
    return finish(config, variant)
