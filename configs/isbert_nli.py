"""IS-BERT (Zhang et al., 2020; arXiv:2009.12061): BERT-base on the sentences of NLI, without their
labels.

    python -m clr_jax.main --config=configs/isbert_nli.py --config.data.path=nli_sentences.txt --config.tokenizer.path=bert-base-uncased/tokenizer.json --config.pretrained.weights=bert-base-uncased/model.safetensors
    python -m clr_jax.evaluate --workdir=runs/isbert_nli --protocol=sts --pairs=sts-dev.csv

The data are a text file with a sentence of SNLI or MultiNLI on each line.

Hardware: one accelerator; not run. Published: 66.58, the average Spearman correlation of seven STS tasks.
Batch size, epoch, rate, warm-up and decay are the official code's; that the published number is of them
is not confirmed. Several windows side by side with ReLU are the paper's, their sizes and channels our
reading: as released, the code has one window of 3 without ReLU. It also keeps the checkpoint that is
best on STS-B's development set, of one each 1000 steps, and lets Adam correct no bias, which is not done
here.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 32, 1.0
    config.data = {'name': 'lines', 'path': ''}
    config.views = {'text': {'name': 'text', 'length': 64}}
    config.encoder.update(name='bert', dropout=0.1)
    config.method.update(name='isbert', windows=(1, 3, 5), filters=256)
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 5e-6,
        'scaling': 'none',
        'weight_decay': 0.01,
        'eps': 1e-6,
        'clip': 1.0,
    }
    config.optimizer.schedule = {'name': 'linear', 'warmup_epochs': 0.1}
    config.groups.norm_and_bias = {'pattern': '(bias|scale)$', 'weight_decay': 0.0}
    config.checkpoint_every = 1000
    return finish(config, variant)
