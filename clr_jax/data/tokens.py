"""Sentences as numbers: tokenizers in the JSON of Hugging Face's `tokenizers`, and WordPiece (Schuster
& Nakajima, 2012; BERT, arXiv:1810.04805) trained on one's own sentences."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from clr_jax.entry import DATA, INPUT, Problem

SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')  # of BERT, numbered from 0
PADDING = ('[PAD]', '<pad>')  # as BERT's and RoBERTa's call it
END = '<|endoftext|>'  # of CLIP, which pads with 0 behind it, the number of a character


class Tokenizer(NamedTuple):
    """What turns sentences into numbers below `size`."""

    model: Any  # tokenizers.Tokenizer, which neither pads nor truncates by itself
    padding: int  # the number that fills up sentences; config.encoder.padding must be the same
    size: int


def library():
    """The module `tokenizers`, an optional dependency."""
    try:
        import tokenizers
    except ImportError:
        raise Problem('text needs the package tokenizers: pip install clr_jax[text]') from None
    return tokenizers


def load(path) -> Tokenizer:
    """The tokenizer of a file, such as the tokenizer.json beside a model's weights."""
    try:
        text = epath.Path(path).read_text()
    except OSError as error:
        raise Problem(f'tokenizer {path} cannot be read: {error.strerror}', INPUT) from error
    return parse(text, path)


def parse(text: str, where) -> Tokenizer:
    """The tokenizer of a JSON text; `where` it is from, for errors. Its padding is the file's own: the
    token of its setting for padding, or one with a name of `PADDING`, or 0 where `END` is a token."""
    tokenizers = library()
    try:
        model = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more special
        raise Problem(f'tokenizer {where} is not one: {error}', DATA) from error
    found = [model.token_to_id(token) for token in PADDING]
    if model.padding:
        found.insert(0, model.padding['pad_id'])
    found += [None if model.token_to_id(END) is None else 0]
    found = [number for number in found if number is not None]
    if not found:
        raise Problem(f'tokenizer {where} has no token to pad with, {" or ".join(PADDING)}', DATA)
    model.no_padding()
    model.no_truncation()
    return Tokenizer(model, found[0], max(model.get_vocab().values()) + 1)


def encode(tokenizer: Tokenizer, sentences: Sequence[str], length: int) -> np.ndarray:
    """-> int32 [n, length]: the tokens of each sentence with the special ones around them, of what is
    too long the beginning, and padding behind what is shorter."""
    model = tokenizer.model
    words = length - model.num_special_tokens_to_add(False)
    if words < 1:
        raise Problem(f'sentences of length {length}: there is no room beside the special tokens')
    rows = np.full((len(sentences), length), tokenizer.padding, np.int32)
    encoded = model.encode_batch(list(sentences), add_special_tokens=False)
    for row, tokens in zip(rows, encoded, strict=True):
        tokens.truncate(words)
        ids = model.post_process(tokens).ids
        row[: len(ids)] = ids
    return rows


def train(sentences: Sequence[str], size: int = 8192) -> Tokenizer:
    """WordPiece of at most `size` tokens for these sentences, in lower case: a function of its
    arguments, whichever process computes it."""
    tokenizers = library()
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    model = tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL[1]))
    model.normalizer, model.pre_tokenizer = normalizer, splitter
    # The library would number the pieces '##x' in the order of a hash table, by which it then breaks
    # ties: a list of them comes first.
    characters = sorted({c for s in sentences for c in normalizer.normalize_str(s)} - {' '})
    inner = [f'##{c}' for c in characters]
    if len(SPECIAL) + 2 * len(characters) > size:
        least = f'{len(characters)} characters need {len(SPECIAL) + 2 * len(characters)}'
        raise Problem(f'a vocabulary of {size} is too small: {least}')
    how: dict = {'special_tokens': [*SPECIAL, *inner], 'initial_alphabet': characters}
    trainer = trainers.WordPieceTrainer(vocab_size=size, show_progress=False, **how)
    model.train_from_iterator(sentences, trainer)
    vocabulary = model.get_vocab()
    model = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL[1]))
    model.add_special_tokens(list(SPECIAL))  # and not the pieces
    model.normalizer, model.pre_tokenizer = normalizer, splitter
    model.decoder = decoders.WordPiece()
    ends = [(token, vocabulary[token]) for token in ('[CLS]', '[SEP]')]
    model.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1', special_tokens=ends
    )
    return Tokenizer(model, vocabulary[SPECIAL[0]], len(vocabulary))


def save(tokenizer: Tokenizer, path):
    """Write what `load` reads, atomically: several processes may write the same at once."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    temporary.write_text(tokenizer.model.to_str())
    temporary.replace(path)


def trained(path, sentences: Sequence[str], size: int = 8192) -> Tokenizer:
    """The tokenizer of the file `path`, which is trained and written first if it does not exist."""
    if not epath.Path(path).exists():
        save(train(sentences, size), path)
    return load(path)
