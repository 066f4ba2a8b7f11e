"""Where examples come from: in a config, `data.name` is a function of this file and the other keys are
its keyword arguments."""

from clr_jax.data.captions import captioned_digits, captions
from clr_jax.data.images import digits, folder, tfds
from clr_jax.data.replays import moving_digits, replay
from clr_jax.data.sentences import docstrings, lines, neighbours, triples, wordnet
from clr_jax.data.sounds import recordings, spoken_digits, tones
from clr_jax.data.source import Source
from clr_jax.data.tars import tars
from clr_jax.entry import CONFIG, Problem, nearest
from clr_jax.method import check_keywords

FACTORIES = {
    factory.__name__: factory
    for factory in (
        *(digits, tfds, folder, tars),
        *(captions, captioned_digits),
        *(lines, neighbours, wordnet, triples, docstrings),
        *(recordings, spoken_digits, tones),
        *(replay, moving_digits),
    )
}


def load(section: dict, split: str) -> Source:
    """The 'train' or 'test' split of the data set that the section `config.data` describes."""
    section = dict(section)
    name = section.pop('name', None)
    if name not in FACTORIES:
        raise Problem(f'config.data.name={name!r}: {nearest(name, FACTORIES)}', CONFIG)
    check_keywords(FACTORIES[name], section, 'config.data')
    return FACTORIES[name](split, **section)
