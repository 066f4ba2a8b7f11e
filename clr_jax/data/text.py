"""Views of texts: one of an example's texts, as the numbers of its tokens."""

from typing import NamedTuple

import numpy as np
from etils import epath

from clr_jax.data import index, tokens
from clr_jax.data.augment import tensorflow
from clr_jax.entry import CONFIG, Problem

KEPT = 'tokenizer.json'  # in a workdir


class Text(NamedTuple):
    """How one group of views is made of an example's texts."""

    copies: int = 1  # views of each example
    length: int = 32  # tokens: longer texts are cut, shorter ones filled up with padding
    part: int = 0  # which of the example's texts; -1: any of them, drawn for each view


def check(view: Text) -> Text:
    """The view itself, or the Problem with its values."""
    for name, least in (('copies', 1), ('length', 2), ('part', -1)):
        if getattr(view, name) < least:
            value = getattr(view, name)
            raise Problem(f'{name}={value} of a view of texts: at least {least}', CONFIG)
    return view


def sample(view: Text, keys, number: int) -> dict:
    """The parameters of view `number` of the examples with `keys` [b] uint64: arrays [b, ...]."""
    own = index.fold(keys, number)
    return {'part': index.uniform(own, 'part')} if view.part < 0 else {}


def apply(view: Text, texts, parameters: dict):
    """The one of an example's texts (string [t], filled up with empty ones) that is shown, string []."""
    tf = tensorflow()
    if 'part' not in parameters:
        return texts[view.part]
    count = tf.reduce_sum(tf.cast(tf.strings.length(texts) > 0, tf.float64))
    return texts[tf.cast(parameters['part'] * tf.maximum(count, 1), tf.int32)]


def finish(view: Text, texts, tokenizer) -> np.ndarray:
    """UTF-8 texts [b] -> tokens int32 [b, length], outside the graph: no tokenizer is a part of one."""
    words = [text.decode(errors='replace') for text in texts]
    return tokens.encode(tokenizer, words, view.length)


def tokenizer(config: dict, workdir, source):
    """What turns texts into tokens in the run with this config: what it has kept in `workdir`, or else
    config.tokenizer.path, or else WordPiece learned from the texts of `source`, its training examples.
    None if no view shows a text.
    """
    if not any(view.get('name') == 'text' for view in config['views'].values()):
        return None
    kept, section = epath.Path(workdir) / KEPT, config['tokenizer']
    if kept.is_file():
        found = tokens.load(kept)
    elif section['path']:
        found = tokens.load(section['path'])
    elif source.texts is None:
        what = 'are not at hand all at once to learn a tokenizer from'
        raise Problem(f'the texts of {source.name} {what}: set config.tokenizer.path', CONFIG)
    else:
        found = tokens.train(source.texts(), section['vocabulary'])
    for part in ('encoder', 'text_encoder'):
        size = config.get(part, {}).get('vocabulary', found.size)
        if size < found.size:
            most = f'the tokenizer has {found.size} tokens'
            raise Problem(f'config.{part}.vocabulary={size} is too small: {most}', CONFIG)
        padding = config.get(part, {}).get('padding', found.padding)
        if padding != found.padding:
            other = f'the tokenizer pads with {found.padding}'
            raise Problem(f'config.{part}.padding={padding}: {other}', CONFIG)
    return found


def plain(view: Text) -> Text:
    """The first of the texts that this view may show, without augmentation."""
    return Text(length=view.length, part=max(view.part, 0))


def blank(view: Text, examples: int) -> np.ndarray:
    return np.zeros((examples, view.length), np.int32)
