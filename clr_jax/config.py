"""The config of a run: every knob of the trainer on one page, completed from the signatures of what
it names."""

import importlib.util
import inspect
import json
import re
import runpy
import traceback

from etils import epath
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from clr_jax.entry import CONFIG, INPUT, Problem, absolute, nearest

OFF = {'layer_decay': 1.0, 'clip': 0.0}  # what every optimizer can have besides its keywords


def default() -> ConfigDict:
    """What every config starts from. Sections with a `name` are a function's keyword arguments."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256  # examples, over all devices
    config.epochs = 100.0
    config.steps = 0  # if above 0, the length of the run instead of `epochs`
    config.bn_groups = 1  # contiguous parts of the global batch with batch statistics of their own
    config.data = ConfigDict({'name': 'digits'})
    # of texts: a tokenizer's JSON, or else WordPiece of so many tokens, learned from the data
    config.tokenizer = ConfigDict({'path': '', 'vocabulary': 8192})
    # of the training examples, by one of three: data.subsets.subset
    config.subset = ConfigDict(
        {'fraction': 1.0, 'per_class': 0, 'list': '', 'seed': 0, 'repeat': 1}
        | {'balance': 0.0, 'weights': ''}
    )
    # groups of views, in alphabetical order, each the fields of one of data.views.KINDS: `name`, or
    # else an image's
    config.views = ConfigDict({'view': {}})
    # device: whether devices make the views of images, in the step, of crops or of whole images on a
    # canvas of so many pixels a side (0: crops)
    config.augment = ConfigDict({'device': False, 'canvas': 0})
    # whether each device keeps a part only of the optimizer's state, of slow copies, memories and queues
    config.sharded = False
    # pieces of the batch on each device, one after the other: for the encoder alone, with the same result,
    # or as batches of their own, whose mean gradient is the step's; 1: none
    config.accumulate = ConfigDict({'exact': 1, 'plain': 1})
    # all training examples without their labels, so many beside each batch, in views of their own
    config.unlabelled = ConfigDict({'batch_size': 0, 'views': {}})
    config.encoder = ConfigDict({'name': 'resnet', 'bn_groups': config.get_ref('bn_groups')})
    config.text_encoder = ConfigDict()  # of methods with images and texts, else empty
    config.method = ConfigDict({'name': 'simclr', 'bn_groups': config.get_ref('bn_groups')})
    config.optimizer = ConfigDict(
        {'name': 'lars', 'learning_rate': 0.3, 'scaling': 'linear', 'schedule': {}}
    )
    config.groups = ConfigDict()  # of parameters, with settings of their own: optimizers.py
    config.probe = ConfigDict({'learning_rate': 1e-3})  # the online linear probe; 0 leaves it out
    # what to start from: parts of another run (step -1: the latest), or a safetensors file of an
    # encoder's weights (weights.py)
    config.pretrained = ConfigDict(
        {'workdir': '', 'step': -1, 'parts': ('encoder',), 'weights': ''}
    )
    config.teacher = ConfigDict({'workdir': '', 'step': -1})  # another run, for distillation
    config.evaluation = ConfigDict(
        {'size': 0, 'crop': 1.0, 'every': 0, 'train_examples': 10000, 'test_examples': 10000}
    )
    config.log_every = 50  # steps
    config.checkpoint_every = 1000
    config.keep = 3  # checkpoints
    # seconds without a step, an evaluation or a checkpoint after which a process ends itself; 0: never
    config.stuck_after = 1800.0
    # of XLA for the step, 'name=value,name=value': what its compiler for these devices knows
    config.compiler_options = ''
    config.profile = (0, 0)  # first and last step of a trace in <workdir>/profile; 0: none
    return config


def finish(config: ConfigDict, variant: str = '', **smoke_changes) -> ConfigDict:
    """The last line of every config: fill in what it leaves at its default, and apply the variant
    ('' or 'smoke')."""
    if variant not in ('', 'smoke'):
        raise Problem(f'unknown config variant ":{variant}": {nearest(variant, ["smoke"])}')
    config = smoke(config) if variant == 'smoke' else config
    from clr_jax.data.views import settings
    from clr_jax.schedules import schedule

    for part in ('encoder', 'method'):
        _complete(config[part], _named(f'clr_jax.{part}s.{config[part].name}', config[part].name))
    if config.text_encoder:
        name = config.text_encoder.get('name')
        _complete(config.text_encoder, _named(f'clr_jax.encoders.{name}', name))
    _complete(config.data, _named('clr_jax.data.sources', config.data.name))
    _complete(config.optimizer, _named('clr_jax.optimizers', config.optimizer.name))
    _complete(config.optimizer.schedule, schedule)
    for name, off in OFF.items():
        config.optimizer[name] = config.optimizer.get(name, off)
    for view in (*config.views.values(), *config.unlabelled.views.values()):
        _complete(view, settings(view))
    if variant == 'smoke':
        _narrow(config.method)
        config.update(smoke_changes)
    if not config.evaluation.size:
        sizes = [view.size for view in config.views.values() if 'size' in view]
        config.evaluation.size = max(sizes, default=0)
    return config


def smoke(config: ConfigDict) -> ConfigDict:
    """The same method, encoder family, optimizer and views, at laptop size on data that are embedded
    or made: scikit-learn's digits, or what their views are of."""
    kinds = frozenset(view.get('name', 'image') for view in config.views.values())
    made = {
        frozenset({'image'}): 'digits',
        frozenset({'image', 'text'}): 'captioned_digits',
        frozenset({'text'}): 'docstrings',
        frozenset({'recording'}): 'tones',
        frozenset({'frames'}): 'moving_digits',
    }
    config.data, config.subset = ConfigDict({'name': made[kinds]}), default().subset
    config.tokenizer.update(path='', vocabulary=512)
    config.pretrained.weights = ''  # of another size
    shrink = 4.0 / config.epochs
    ratio = config.unlabelled.batch_size / config.batch_size
    config.batch_size, config.epochs, config.steps = 64, 4.0, 0
    config.unlabelled.batch_size = 64 * min(2, round(ratio))
    config.optimizer.schedule.warmup_epochs = shrink * config.optimizer.schedule.get(
        'warmup_epochs', 0.0
    )
    config.log_every, config.checkpoint_every, config.evaluation.every = 10, 44, 44
    config.evaluation.update(size=0, crop=1.0)
    small = {
        'resnet': {'depth': 18, 'width': 0.125, 'small_stem': True},
        'convnet': {'widths': (16, 32, 64)},
        'alexnet': {'width': 0.125, 'hidden': 64},
        'vgg': {'width': 0.125, 'hidden': 64},
        'wave': {'widths': (16, 16, 16, 16, 16)},
        'vit': {'width': 64, 'depth': 2, 'heads': 4, 'patch': 4, 'image_size': 16},
        'text': {'width': 64, 'depth': 2, 'heads': 4, 'vocabulary': 512},
        'bert': {'width': 64, 'depth': 2, 'heads': 4, 'hidden': 128, 'vocabulary': 512},
        'pixel': {'widths': (8, 8, 8, 8)},
        'wide_resnet': {'depth': 10, 'width': 1},
    }
    for section in (config.encoder, config.text_encoder):
        section.update(small.get(section.get('name'), {}))
    for group in config.groups.values():
        if group.get('freeze_until'):
            group.freeze_until = min(group.freeze_until, 20)  # of some ninety steps
    _small(config.views)
    _small(config.unlabelled.views)
    return config


def _small(views: ConfigDict):
    """Groups of views at laptop size: images of 16 pixels, small crops of 8, and in them what is in
    pixels."""
    images = {n: v for n, v in views.items() if v.get('name', 'image') == 'image'}
    sizes = {name: view.get('size', 224) for name, view in images.items()}
    for name, view in images.items():
        view.size = max(8, round(4 * sizes[name] / max(sizes.values())) * 4)
        view.cutout = view.get('cutout', 0) * view.size // sizes[name]
        view.sigma = tuple(x * view.size / sizes[name] for x in view.get('sigma', (0.1, 2.0)))
    least: dict = {'recording': {'samples': 2560}, 'frames': {'size': 16}}
    least['text'] = {'length': 16, 'back': 0.0}  # there is no translator
    for view in views.values():
        view.update(least.get(view.get('name', ''), {}))


def _narrow(method: ConfigDict):
    """Heads, queues, draws of noise, patches and filters at laptop size."""
    limits = {'projector': 128, 'predictor': 128, 'prototypes': 256, 'clusters': 64}
    limits |= {
        'queue_size': 256,
        'memory': 256,
        'noise': 64,
        'decoder_width': 64,
        'decoder_depth': 2,
        'context_width': 32,
        'context_depth': 2,
        'patch': 4,
        'stride': 2,
        'filters': 32,
    }
    for name in limits.keys() & method.keys():
        value, most = method[name], limits[name]
        narrow = (
            tuple(min(x, most) for x in value) if isinstance(value, tuple) else min(value, most)
        )
        method[name] = narrow


def _named(module: str, name: str):
    """The function `name` of `module`. What does not exist takes no keywords here, and is refused
    where it is used."""
    if importlib.util.find_spec(module) is None:
        return lambda: None
    return getattr(importlib.import_module(module), name, lambda: None)


def _complete(section: ConfigDict, function):
    """Give a section every keyword of the function it names, so that flags can override and the
    saved config is whole."""
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is not parameter.empty and name not in section:
            section[name] = placeholder(str) if parameter.default is None else parameter.default


def load(argument: str) -> ConfigDict:
    """The config 'configs/simclr_digits.py:smoke': what that file's get_config('smoke') returns."""
    path, _, variant = argument.partition(':')
    if not epath.Path(path).is_file():
        raise Problem(f'--config={path}: there is no such file')
    try:
        names = runpy.run_path(path)
        if 'get_config' not in names:
            raise Problem(f'{path} is not a config: it defines no get_config(variant)')
        return names['get_config'](variant)
    except Problem:
        raise
    except Exception as error:  # whatever a line of the file can do wrong
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == path] or [getattr(error, 'lineno', None)]
        raise Problem(f'{path}, line {lines[-1]}: {type(error).__name__}: {error}') from error


def check_override(config: ConfigDict, key: str, value: str):
    """Refuse --config.<key>=<value> of a key that the config does not have, or that is a section of
    keys."""
    place, section = 'config', config
    for word in key.split('.'):
        if not isinstance(section, ConfigDict):
            raise Problem(f'--config.{key}: {place} is a value and has no keys')
        if word not in section:
            raise Problem(f'--config.{key}: {place} has no "{word}"; {nearest(word, section)}')
        place, section = f'{place}.{word}', section[word]
    numbers = isinstance(section, tuple) and {type(x) for x in section} & {int, float}
    if numbers and not re.fullmatch(r'[\s(),.\deE+-]*', value):
        raise Problem(f'--config.{key}={value}: {place} is a list of numbers, as {section}')
    if isinstance(section, ConfigDict) and not value.startswith('{'):
        raise Problem(
            f'--config.{key}={value}: {place} is a section; set its keys: {", ".join(section)}'
        )


def save(config: dict, workdir):
    """Write the resolved config as `workdir/config.json`, atomically."""
    path = epath.Path(workdir) / 'config.json'
    temporary = path.with_suffix('.tmp')
    temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + '\n')
    temporary.replace(path)


def saved(workdir) -> dict:
    """The config that a run left in its workdir, `completed`."""
    path = epath.Path(absolute(str(workdir))) / 'config.json'
    if not path.is_file():
        name = path.parent.name.removesuffix('_smoke')
        variant = ':smoke' if name != path.parent.name else ''
        known = epath.Path(f'configs/{name}.py').is_file()
        file = f'configs/{name}.py{variant}' if known else '<its config>'
        command = f'python -m clr_jax.main --config={file} --workdir={workdir}'
        missing = 'is not the workdir of a run: it has no config.json; first run'
        raise Problem(f'{workdir} {missing} {command}', INPUT)
    try:
        return completed(json.loads(path.read_text()))
    except ValueError as error:
        raise Problem(f'{path} is not JSON: {error}', CONFIG) from None


def completed(config: dict) -> dict:
    """A config as JSON has it; sections, and settings of views, data and of what every config has, that
    it did not know yet are as by default. So is that of its teacher."""
    from clr_jax.data.views import settings

    usual = json.loads(json.dumps(default().to_dict()))
    config = usual | config
    config['optimizer'] = OFF | config['optimizer']
    source = ConfigDict({'name': config['data']['name']})
    _complete(source, _named('clr_jax.data.sources', source.name))
    config['data'] = source.to_dict() | config['data']
    sections = 'tokenizer', 'subset', 'augment', 'accumulate', 'probe', 'pretrained', 'teacher'
    for name in (*sections, 'evaluation'):
        config[name] = usual[name] | config[name]
    for groups in (config['views'], config['unlabelled']['views']):
        for name, view in groups.items():
            groups[name] = settings(view)._field_defaults | view
    if 'run' in config['teacher']:
        config['teacher'] |= {'run': completed(config['teacher']['run'])}
    return config


def differences(then: dict, now: dict, prefix: str = '') -> list[str]:
    """['optimizer.learning_rate: 0.3 -> 0.1', ...] between two resolved configs, one of which may
    come from JSON."""
    then, now = (json.loads(json.dumps(config)) for config in (then, now))  # tuples become lists
    found = []
    for key in sorted(then.keys() | now.keys()):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f'{prefix}{key}.')
        elif a != b:
            found.append(f'{prefix}{key}: {a!r} -> {b!r}')
    return found
