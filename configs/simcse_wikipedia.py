"""SimCSE (Gao et al., 2021; arXiv:2104.08821), unsupervised: BERT-base on a million sentences of
Wikipedia, each its own positive under another dropout mask.

    python -m clr_jax.main --config=configs/simcse_wikipedia.py --config.data.path=wiki1m_for_simcse.txt --config.tokenizer.path=bert-base-uncased/tokenizer.json --config.pretrained.weights=bert-base-uncased/model.safetensors
    python -m clr_jax.evaluate --workdir=runs/simcse_wikipedia --protocol=sts --pairs=sts-dev.csv

Hardware: one accelerator; not run. Published: 76.25, the average Spearman correlation of seven STS tasks.
The official code keeps the checkpoint that is best on STS-B's development set, of one each 125 steps,
which is not done here.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 64, 1.0
    config.data = {'name': 'lines', 'path': ''}
    config.views = {'text': {'name': 'text', 'length': 32}}
    config.encoder.update(name='bert', pool='cls', dropout=0.1)
    config.method.update(name='simcse', temperature=0.05)
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 3e-5,
        'scaling': 'none',
        'weight_decay': 0.0,
        'clip': 1.0,
    }
    config.optimizer.schedule = {'name': 'linear'}
    config.checkpoint_every = 1000
    return finish(config, variant)
