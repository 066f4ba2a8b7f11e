"""CURL (Laskin et al., 2020; arXiv:2004.04136) on recorded frames of an environment: the contrastive
task alone, with the encoder and the sizes of the DeepMind Control experiments.

    python -m clr_jax.main --config=configs/curl_control.py --config.data.path=episodes

`benchmarks/control.py` records such episodes and reads the state out of the features. Beside a
learner of actions, `clr_jax.control` takes the same config.

Hardware: a CPU is enough for small frames.

Deviations: the authors' code steps the encoder twice for each batch, by the contrastive loss alone
and with the critic's; here there is no critic. The key encoder is an average with 0.95 at every
second step, as there.
"""

from clr_jax.config import default, finish


def get_config(variant=''):
    config = default()
    config.batch_size, config.epochs = 128, 10.0
    config.data = {'name': 'replay', 'path': '', 'stack': 3}
    config.views = {'frames': {'name': 'frames', 'size': 84, 'channels': 9}}
    config.encoder.update(name='pixel')
    config.method.update(name='curl')
    config.optimizer = {
        'name': 'adamw',
        'learning_rate': 1e-3,
        'scaling': 'none',
        'weight_decay': 0.0,
    }
    config.optimizer.schedule = {'name': 'constant'}
    config.probe.learning_rate = 0.0
    return finish(config, variant)
