"""The config of a run: every knob of the trainer on one page, completed from the signatures of what it names."""

import importlib
import inspect
import json

from etils import epath
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from clr_jax.entry import CONFIG, INPUT, Problem, nearest


def default() -> ConfigDict:
    """What every config starts from. Sections with a `name` are a function's keyword arguments."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256  # examples, over all devices
    config.epochs = 100.0
    config.steps = 0  # if above 0, the length of the run instead of `epochs`
    config.bn_groups = 1  # contiguous parts of the global batch with batch statistics of their own
    config.data = ConfigDict({'name': 'digits'})
    config.views = ConfigDict({'view': {}})  # groups of views, each the fields of data.augment.View
    config.encoder = ConfigDict({'name': 'resnet', 'bn_groups': config.get_ref('bn_groups')})
    config.method = ConfigDict({'name': 'simclr', 'bn_groups': config.get_ref('bn_groups')})
    config.optimizer = ConfigDict({'name': 'lars', 'learning_rate': 0.3, 'scaling': 'linear', 'schedule': {}})
    config.groups = ConfigDict()  # named groups of parameters with settings of their own: optimizers.py
    config.probe = ConfigDict({'learning_rate': 1e-3})  # the online linear probe; 0 leaves it out
    config.pretrained = ConfigDict({'workdir': '', 'step': -1})  # start from the encoder of another run; -1: its latest
    config.evaluation = ConfigDict({'size': 0, 'crop': 1.0, 'every': 0, 'train_examples': 10000, 'test_examples': 10000})
    config.log_every = 50  # steps
    config.checkpoint_every = 1000
    config.keep = 3  # checkpoints
    return config


def finish(config: ConfigDict, variant: str = '', **smoke_changes) -> ConfigDict:
    """The last line of every config: fill in what it leaves at its default, and apply the variant ('' or 'smoke')."""
    if variant not in ('', 'smoke'):
        raise Problem(f'unknown config variant ":{variant}": {nearest(variant, ["smoke"])}')
    config = smoke(config) if variant == 'smoke' else config
    config.update(smoke_changes if variant == 'smoke' else {})
    from clr_jax.data.augment import View

    for part, package in (('encoder', 'clr_jax.encoders'), ('method', 'clr_jax.methods')):
        _complete(config[part], getattr(importlib.import_module(f'{package}.{config[part].name}'), config[part].name))
    _complete(config.data, getattr(importlib.import_module('clr_jax.data.sources'), config.data.name))
    _complete(config.optimizer, getattr(importlib.import_module('clr_jax.optimizers'), config.optimizer.name))
    _complete(config.optimizer.schedule, importlib.import_module('clr_jax.schedules').schedule)
    for view in config.views.values():
        _complete(view, View)
    if not config.evaluation.size:
        config.evaluation.size = max(view.size for view in config.views.values())
    return config


def smoke(config: ConfigDict) -> ConfigDict:
    """The same method, encoder family, optimizer and views, at laptop size on scikit-learn's embedded digits."""
    config.data = ConfigDict({'name': 'digits'})
    shrink = 4.0 / config.epochs
    config.batch_size, config.epochs, config.steps = 64, 4.0, 0
    config.optimizer.schedule.warmup_epochs = shrink * config.optimizer.schedule.get('warmup_epochs', 0.0)
    config.log_every, config.checkpoint_every, config.evaluation.every = 10, 44, 44
    config.evaluation.update(size=0, crop=1.0)
    small = {'resnet': {'depth': 18, 'width': 0.125, 'small_stem': True}, 'convnet': {'widths': (16, 32, 64)}}
    config.encoder.update(small.get(config.encoder.name, {}))
    for view in config.views.values():
        view.size = 16
    return config


def _complete(section: ConfigDict, function):
    """Give a section every keyword of the function it names, so that flags can override and the saved config is whole."""
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is not parameter.empty and name not in section:
            section[name] = placeholder(str) if parameter.default is None else parameter.default


def save(config: dict, workdir):
    """Write the resolved config as `workdir/config.json`, atomically."""
    path = epath.Path(workdir) / 'config.json'
    temporary = path.with_suffix('.tmp')
    temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + '\n')
    temporary.replace(path)


def saved(workdir) -> dict:
    """The config that a run left in its workdir."""
    path = epath.Path(workdir) / 'config.json'
    if not path.is_file():
        raise Problem(f'{workdir} is not the workdir of a run: it has no config.json', INPUT)
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise Problem(f'{path} is not JSON: {error}', CONFIG) from None


def differences(then: dict, now: dict, prefix: str = '') -> list[str]:
    """['optimizer.learning_rate: 0.3 -> 0.1', ...] between two resolved configs."""
    found = []
    for key in sorted(then.keys() | now.keys()):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f'{prefix}{key}.')
        elif a != b:
            found.append(f'{prefix}{key}: {a!r} -> {b!r}')
    return found
