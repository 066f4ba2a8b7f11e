"""Views of texts: one of an example's texts, as the numbers of its tokens."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from clr_jax.data import index, tokens, translation, words
from clr_jax.data.augment import tensorflow
from clr_jax.entry import CONFIG, Problem

KEPT = 'tokenizer.json'  # in a workdir
CHANGES = ('synonym', 'replace', 'delete', 'swap')


class Text(NamedTuple):
    """How one group of views is made of an example's texts.

    delete, swap, synonym and replace are shares of a text's words (`data/words.py`), 0: not at all.
    """

    copies: int = 1  # views of each example
    length: int = 32  # tokens: longer texts are cut, shorter ones filled up with padding
    part: int = 0  # which of the example's texts; -1: any of them, drawn for each view
    back: float = 0.0  # probability that the text is one that has been to another language and back
    translator: str = ''  # the program for that: data/translation.py
    languages: tuple = ('fr',)  # which it goes by way of, one of them drawn
    translations: int = 1  # of each language, by a translator that samples
    synonym: float = 0.0
    wordnet: str = '/usr/share/wordnet'  # where synonyms come from
    replace: float = 0.0  # of words that say little (TF-IDF) by others that say little
    delete: float = 0.0
    swap: float = 0.0


def check(view: Text) -> Text:
    """The view itself, or the Problem with its values."""
    for name, least in (('copies', 1), ('length', 2), ('part', -1), ('translations', 1)):
        if getattr(view, name) < least:
            value = getattr(view, name)
            raise Problem(f'{name}={value} of a view of texts: at least {least}', CONFIG)
    for name in ('back', *CHANGES):
        if not 0 <= getattr(view, name) <= 1:
            value = getattr(view, name)
            raise Problem(f'{name}={value} of a view of texts: from 0 to 1', CONFIG)
    if view.back and not view.translator:
        raise Problem(f'back={view.back} of a view of texts: needs a translator, a command', CONFIG)
    return view


def sample(view: Text, keys, number: int) -> dict:
    """The parameters of view `number` of the examples with `keys` [b] uint64: arrays [b, ...]."""
    own = index.fold(keys, number)
    result = {'part': index.uniform(own, 'part')} if view.part < 0 else {}
    return result | ({'key': own} if changed(view) else {})


def changed(view: Text) -> bool:
    """Whether texts are shown in other words."""
    return any(getattr(view, name) for name in ('back', *CHANGES))


def apply(view: Text, texts, parameters: dict):
    """The one of an example's texts (string [t], filled up with empty ones) that is shown, string []."""
    tf = tensorflow()
    if 'part' not in parameters:
        return texts[view.part]
    count = tf.reduce_sum(tf.cast(tf.strings.length(texts) > 0, tf.float64))
    return texts[tf.cast(parameters['part'] * tf.maximum(count, 1), tf.int32)]


def finisher(view: Text, source) -> Callable:
    """-> finish(UTF-8 texts [b], parameters) -> tokens int32 [b, length], outside the graph: neither a
    tokenizer nor other words are a part of one."""
    change = rewording(view, source) if changed(view) else None

    def finish(texts, parameters):
        shown = [text.decode(errors='replace') for text in texts]
        if change:
            shown = [change(text, key) for text, key in zip(shown, parameters['key'], strict=True)]
        return tokens.encode(source.tokenizer, shown, view.length)

    return finish


def rewording(view: Text, source) -> Callable:
    """-> change(text, key): the text in the other words that `view` asks for, drawn by `key`; it learns
    from the texts of `source` what it needs to know of them."""
    known: Any = source.texts() if (view.back or view.replace) and source.texts else None
    if (view.back or view.replace) and known is None:
        what = 'are not at hand all at once, as back-translation and TF-IDF need them'
        raise Problem(f'the texts of {source.name} {what}', CONFIG)
    thesaurus = words.thesaurus(view.wordnet) if view.synonym else {}
    table = words.frequencies(known) if view.replace else None
    wordings: dict = {}
    if view.back:
        every = sorted(set(known))
        how: dict = {'languages': view.languages, 'samples': view.translations}
        found = translation.back_translated(every, view.translator, **how)
        wordings = dict(zip(every, found, strict=True))

    def change(text, key):
        if index.uniform(key, 'back') < view.back and text in wordings:
            choice = wordings[text]
            text = choice[int(index.uniform(key, 'wording') * len(choice))]
        if view.synonym:
            text = words.synonyms(text, key, thesaurus, view.synonym)
        if table:
            text = words.tf_idf(text, key, table, view.replace)
        if view.delete:
            text = words.delete(text, key, view.delete)
        return words.swap(text, key, view.swap) if view.swap else text

    return change


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
