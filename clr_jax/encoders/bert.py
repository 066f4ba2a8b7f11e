"""BERT (Devlin et al., 2019; arXiv:1810.04805) as an encoder of sentences, and its weights under the
names of Hugging Face's BertModel."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.cutoff import CUTOFFS, cutoff
from clr_jax.encoders.vit import attention
from clr_jax.entry import Problem, known
from clr_jax.networks import Dropout, wide
from clr_jax.remat import recomputed

POOLS = ('cls', 'mean', 'first_last')
TYPES = 2  # first and second sentence; here every token is of the first
normal = nn.initializers.truncated_normal(0.02)
# float32 statistics, as Flax has them; the variance not as a difference of two means
LayerNorm = partial(nn.LayerNorm, epsilon=1e-12, use_fast_variance=False)
Dense = partial(nn.Dense, kernel_init=normal)


class Embeddings(nn.Module):
    """Tokens [n, t] -> the normed sum of what stands for the word, its place and its type [n, t, d]."""

    width: int
    vocabulary: int
    length: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x, rows):
        d, t = self.width, x.shape[1]
        words = self.param('words', normal, (self.vocabulary, d), jnp.float32)
        positions = self.param('positions', normal, (self.length, d), jnp.float32)
        types = self.param('types', normal, (TYPES, d), jnp.float32)
        words, positions, types = nn.dtypes.promote_dtype(words, positions, types, dtype=self.dtype)
        x = LayerNorm(dtype=self.dtype, name='norm')(words[x] + positions[:t] + types[0])
        return Dropout(self.dropout)(x, rows)  # [n, t, d]


class Block(nn.Module):
    """[n, t, d] -> [n, t, d]: attention, then two dense layers, each with a shortcut and a norm behind
    it. mask: [n, t], the tokens that are attended to."""

    heads: int
    hidden: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x, rows, mask):
        n, t, d = x.shape
        dense, norm = partial(Dense, dtype=self.dtype), partial(LayerNorm, dtype=self.dtype)
        drop = lambda y: Dropout(self.dropout)(y, rows)
        q, k, v = (
            dense(d, name=name)(x).reshape(n, t, self.heads, d // self.heads)
            for name in ('query', 'key', 'value')
        )
        weights = drop(attention(q, k, mask[:, None, None]))  # [n, heads, t, t]
        y = jnp.einsum('nhqk,nkhd->nqhd', weights.astype(v.dtype), v).reshape(n, t, d)
        x = norm(name='norm1')(x + drop(dense(d, name='proj')(y)))
        y = nn.gelu(dense(self.hidden, name='fc1')(x), approximate=False)  # [n, t, hidden]
        return norm(name='norm2')(x + drop(dense(d, name='fc2')(y))), None


class BERT(nn.Module):
    """Tokens int32 [n, t] -> [n, width]; the parameters of all blocks are stacked, [depth, ...]."""

    width: int
    depth: int
    heads: int
    hidden: int
    vocabulary: int
    length: int
    dropout: float
    cutoff: str
    cutoff_ratio: float
    pool: str
    padding: int
    remat: str
    dtype: Any

    def __call__(self, x, rows):
        return self.pooled(*self.states(x, rows))

    @nn.compact
    def states(self, x, rows):
        """Tokens [n, t] -> their embeddings [n, t, d], the states of the last block [n, t, d], and
        which of them are seen [n, t]: those that are not padding, nor cut off."""
        if x.shape[1] > self.length:
            longer = f'there are sentences of {x.shape[1]} tokens'
            raise Problem(f'encoder.length={self.length}: {longer}')
        mask = x != self.padding
        sizes = self.width, self.vocabulary, self.length, self.dropout
        embedded = Embeddings(*sizes, self.dtype, name='embeddings')(x, rows)
        if self.cutoff and rows is not None and self.has_rng('dropout'):
            key = self.make_rng('dropout')
            embedded, mask = cutoff(self.cutoff, embedded, mask, key, rows, self.cutoff_ratio)
        stacked = nn.scan(
            recomputed(Block, self.remat),
            variable_axes={'params': 0},
            split_rngs={'params': True, 'dropout': True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=self.depth,
        )
        blocks = stacked(self.heads, self.hidden, self.dropout, self.dtype, name='blocks')
        last, _ = blocks(embedded, rows, mask)  # [n, t, d]
        return embedded, last, mask

    def pooled(self, embedded, last, mask):
        """What `states` says -> features h [n, d], in float32 at least."""
        if self.pool == 'cls':
            return wide(last[:, 0])
        states = wide(last) if self.pool == 'mean' else (wide(embedded) + wide(last)) / 2
        seen = mask[..., None].astype(states.dtype)  # [n, t, 1]
        return (states * seen).sum(1) / jnp.maximum(seen.sum(1), 1)


def bert(
    *,
    width=768,
    depth=12,
    heads=12,
    hidden=3072,
    vocabulary=30522,
    length=512,
    dropout=0.1,
    cutoff='',
    cutoff_ratio=0.1,
    pool='cls',
    padding=0,
    remat='',
    bn_groups=1,
    dtype=None,
) -> BERT:
    """A post-norm Transformer of `depth` blocks, `hidden` units in each, on sentences of at most
    `length` tokens; the defaults are BERT-base's (large: 1024, 24, 16, 4096). h is in float32 at
    least.

    dropout: the rate behind the embeddings, both branches of a block and of attention weights, in
    training. cutoff: '' or what else training takes from the embeddings, of `cutoff.CUTOFFS`: a
    share cutoff_ratio of 'token's, a 'span' of them, or 'feature's. pool: h is the state of the
    first token ('cls'), the 'mean' over a sentence's tokens, or that of the mean of the embeddings
    and the last block ('first_last': avg_first_last in SimCSE's code). padding: the token that
    fills up sentences: it is not attended to and in no mean (RoBERTa's tokenizers have 1). remat:
    '', 'full' or 'dots', as of a vit. bn_groups: every encoder is given it; here it does nothing,
    for there is no batch norm. dtype: of the computation, e.g. bfloat16; parameters,
    attention weights and norms' statistics are float32.
    """
    known([pool], POOLS, 'encoder.pool')
    if cutoff:
        known([cutoff], CUTOFFS, 'encoder.cutoff')
    sizes = {'width': width, 'depth': depth, 'heads': heads, 'hidden': hidden, 'length': length}
    for name, value in sizes.items():
        if value < 1:
            raise Problem(f'encoder.{name}={value}: at least 1')
    if width % heads:
        raise Problem(f'encoder.heads={heads}: does not divide a width of {width}')
    if not 0 <= padding < vocabulary:
        raise Problem(f'encoder.padding={padding}: no token of a vocabulary of {vocabulary}')
    for name, value in (('dropout', dropout), ('cutoff_ratio', cutoff_ratio)):
        if not 0 <= value < 1:
            raise Problem(f'encoder.{name}={value}: at least 0 and below 1')
    return BERT(
        **sizes,
        vocabulary=vocabulary,
        dropout=dropout,
        cutoff=cutoff,
        cutoff_ratio=cutoff_ratio,
        pool=pool,
        padding=padding,
        remat=remat,
        dtype=dtype,
    )


# Our names and Hugging Face's, whose layers of a block come one by one, 'encoder.layer.{i}.output.dense'.
TABLES = {
    'words': 'word_embeddings',
    'positions': 'position_embeddings',
    'types': 'token_type_embeddings',
}
INNER = {
    'query': 'attention.self.query',
    'key': 'attention.self.key',
    'value': 'attention.self.value',
    'proj': 'attention.output.dense',
    'norm1': 'attention.output.LayerNorm',
    'fc1': 'intermediate.dense',
    'fc2': 'output.dense',
    'norm2': 'output.LayerNorm',
}
# of BERT's own objectives, and a constant: not of the encoder
LEFT_OUT = ('pooler.', 'cls.', 'embeddings.position_ids')
OLD = {'.gamma': '.weight', '.beta': '.bias'}  # of norms in files made from TensorFlow's


def to_weights(params) -> dict[str, np.ndarray]:
    """The parameters of a `BERT` (or their average over time) under the names and in the layout of
    Hugging Face's BertModel, without a pooler."""
    embeddings = params['embeddings']
    weights = {f'embeddings.{theirs}.weight': embeddings[ours] for ours, theirs in TABLES.items()}
    layers = {'embeddings.LayerNorm': embeddings['norm']}
    for ours, theirs in INNER.items():
        for i in range(len(params['blocks'][ours]['bias'])):
            layers[f'encoder.layer.{i}.{theirs}'] = {
                k: x[i] for k, x in params['blocks'][ours].items()
            }
    for name, layer in layers.items():
        weights[f'{name}.weight'] = layer['scale'] if 'scale' in layer else layer['kernel'].T
        weights[f'{name}.bias'] = layer['bias']
    return {name: np.asarray(x) for name, x in weights.items()}


def from_weights(weights):
    """The inverse of `to_weights`: parameters of a `BERT` from the weights of a BertModel by name,
    with the prefix 'bert.' or without it; pooler and heads of BERT's own objectives are left out. A
    Problem names what makes them another network's."""
    found = {}
    for name, x in weights.items():
        name = name.removeprefix('bert.')
        for old, new in OLD.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        if not name.startswith(LEFT_OUT):
            found[name] = np.asarray(x)
    depth = len({name.split('.')[2] for name in found if name.startswith('encoder.layer.')})
    inner = {
        ours: [f'encoder.layer.{i}.{theirs}' for i in range(depth)]
        for ours, theirs in INNER.items()
    }
    names = ['embeddings.LayerNorm', *sum(inner.values(), [])]
    expected = {f'{name}.{kind}' for name in names for kind in ('weight', 'bias')}
    expected |= {f'embeddings.{theirs}.weight' for theirs in TABLES.values()}
    if found.keys() != expected or not depth:
        which = ', '.join(sorted(found.keys() ^ expected)[:3]) or 'encoder.layer'
        raise Problem(f'these are not the weights of a BERT, which differ in {which}')

    def layer(name):
        weight, bias = (found[f'{name}.{kind}'] for kind in ('weight', 'bias'))
        return {'scale' if weight.ndim == 1 else 'kernel': weight.T, 'bias': bias}

    stack = lambda names: jax.tree.map(lambda *x: np.stack(x), *map(layer, names))
    tables = {ours: found[f'embeddings.{theirs}.weight'] for ours, theirs in TABLES.items()}
    return {
        'embeddings': tables | {'norm': layer('embeddings.LayerNorm')},
        'blocks': {ours: stack(names) for ours, names in inner.items()},
    }
