"""Kinds of views: of images, texts, recordings, stacks of frames.

Each kind is a module with the type of its settings and the same functions: `check` (settings),
`sample` (parameters in NumPy), `apply` (the view, in a TensorFlow graph), `plain` (the settings of
the view in which an example is evaluated) and `blank` (zeros in the shape of a batch). A kind's name
is also that of what it shows in an example.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from clr_jax.data import augment, frames, population, recording, text
from clr_jax.entry import known

KINDS: dict[str, tuple[ModuleType, Any]] = {
    'image': (augment, augment.View),
    'text': (text, text.Text),
    'recording': (recording, recording.Recording),
    'frames': (frames, frames.Frames),
}


def settings(section) -> Any:
    """The type whose fields a section of config.views holds, by its `name` (an image, if it has
    none)."""
    name = section.get('name', 'image')
    known([name], KINDS, 'the name of a section of config.views')
    return KINDS[name][1]


def whole(section: dict) -> dict:
    """A section of config.views with its schedule of policies, where it names a file of one."""
    path = section.get('schedule')
    read = {'schedule': population.read(path)} if path and isinstance(path, str) else {}
    return section | read


def with_schedules(config: dict) -> dict:
    """`config` with the schedules of policies of which its views name a file: with the saved config,
    the run is whole without it."""
    of = lambda groups: {name: whole(section) for name, section in groups.items()}
    unlabelled = config['unlabelled'] | {'views': of(config['unlabelled']['views'])}
    return config | {'views': of(config['views']), 'unlabelled': unlabelled}


def make(section: dict, where: str):
    """The settings that a section of config.views describes, checked."""
    fields = {key: value for key, value in whole(section).items() if key != 'name'}
    kind = settings(section)
    known(fields, kind._fields, where)
    view = kind(**fields)
    of(view).check(view)
    return view


def of(view) -> ModuleType:
    """The module of a view's kind."""
    return next(module for module, kind in KINDS.values() if isinstance(view, kind))


def at(view, epoch: int):
    """The view as it is in an epoch."""
    return augment.at(view, epoch) if isinstance(view, augment.View) else view


def evaluated(config: dict) -> list:
    """The views in which the examples of a run are evaluated: one of each kind it trains on, images
    by their central crop."""
    found: dict = {}
    for name, section in config['views'].items():
        view = make(section, f'config.views.{name}')
        size, crop = (config['evaluation'][key] for key in ('size', 'crop'))
        image = isinstance(view, augment.View)
        found.setdefault(
            type(view), augment.central(view, size, crop) if image else of(view).plain(view)
        )
    return list(found.values())


def show(view, example: dict, parameters: dict):
    """The view of an example, in a graph: `example` as `Source.read` gives it, a row of `sample`."""
    if isinstance(view, augment.Central):
        return augment.evaluation(example['image'], view)
    name = next(name for name, (_, kind) in KINDS.items() if isinstance(view, kind))
    return of(view).apply(view, example[name], parameters)


def blank(views: Sequence, examples: int) -> dict:
    """A batch of zeros in the shapes of a real one."""
    number = np.zeros(examples, np.int32)
    made = tuple(of(view).blank(view, examples) for view in views for _ in range(view.copies))
    return {'views': made, 'label': number, 'index': number}
