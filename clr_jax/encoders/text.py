"""The text transformer of CLIP (Radford et al., 2021; arXiv:2103.00020, section 2.4), or without its
causal mask one that reads in both directions."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from clr_jax.encoders.vit import ACTIVATIONS, Kernels, LayerNorm, stacked
from clr_jax.entry import Problem
from clr_jax.networks import Dropout


class Text(nn.Module):
    """Tokens int32 [n, t] -> [n, width]; the parameters of all blocks are stacked, [depth, ...]."""

    width: int
    depth: int
    heads: int
    hidden: int
    vocabulary: int
    length: int
    causal: bool
    pool: str
    padding: int
    activation: str
    dropout: float
    remat: str
    dtype: Any

    @nn.compact
    def __call__(self, tokens, rows):
        n, t = tokens.shape
        if t > self.length:
            raise Problem(f'length={self.length} of the text encoder: these texts have {t} tokens')
        d, normal = self.width, nn.initializers.normal
        table = self.param('tokens', normal(0.02), (self.vocabulary, d), jnp.float32)
        places = self.param('pos_embed', normal(0.01), (self.length, d), jnp.float32)
        table, places = nn.dtypes.promote_dtype(table, places, dtype=self.dtype)
        x = jnp.take(table, tokens, axis=0) + places[:t]  # [n, t, d]; NaN beyond the vocabulary
        x = Dropout(self.dropout)(x, rows)
        place = jnp.arange(t)
        last = jnp.where(tokens != self.padding, place, 0).max(1)  # [n]
        text = place <= last[:, None]  # [n, t], without the padding at its end
        # a causal text does not see that padding anyway
        mask = place <= place[:, None] if self.causal else text[:, None, None]
        inner, outer = d**-0.5, d**-0.5 * (2 * self.depth) ** -0.5
        kernels = Kernels(*map(normal, (inner, outer, (2 * d) ** -0.5, outer)))
        options = {'activation': self.activation, 'dropout': self.dropout, 'kernels': kernels}
        blocks = stacked(self.depth, self.heads, self.hidden, self.dtype, self.remat, **options)
        x, _ = blocks(x, rows, None, mask)
        # without a dtype it is in that of its parameters, float32, or a wider one
        x = LayerNorm(name='norm')(x)  # [n, t, d]
        if self.pool == 'mean':
            return jnp.where(text[..., None], x, 0).sum(1) / text.sum(1, keepdims=True)
        where = last if self.pool == 'last' else jnp.zeros_like(last)
        return jnp.take_along_axis(x, where[:, None, None], 1)[:, 0]  # [n, d]


def text(
    *,
    width=512,
    depth=12,
    heads=8,
    mlp_ratio=4.0,
    vocabulary=49408,
    length=77,
    causal=True,
    pool='last',
    padding=0,
    activation='quick_gelu',
    dropout=0.0,
    remat='',
    bn_groups=1,
    dtype=None,
) -> Text:
    """A transformer on texts of up to `length` tokens, numbers below `vocabulary`; h is in float32 at
    least. The defaults are those of CLIP's ViT-B/32.

    A text ends with its last token that is not `padding`, which in CLIP is the mark of its end; the
    number may also stand within. causal: a token sees only itself and those before it; otherwise
    all of its text. pool: after the last norm, h is the 'last' token of the text, the 'first', or
    their 'mean'. activation: 'quick_gelu' or 'gelu'. dropout: the rate at which embeddings,
    attention weights and what branches say are left out, drawn by example. mlp_ratio: hidden units
    of a block for each of its width. remat: '', 'full' or 'dots', as of a vit. bn_groups: every
    encoder is given it; here it does nothing. dtype: of the computation, e.g. bfloat16; parameters,
    attention weights and norms' statistics are float32.

    Kernels and embeddings begin as in the official code, normal with deviations that fall with
    width and, where a branch ends, depth; biases are zero.
    """
    for name, value, known in (
        ('pool', pool, ('last', 'first', 'mean')),
        ('activation', activation, tuple(ACTIVATIONS)),
    ):
        if value not in known:
            raise Problem(f'{name}={value} of the text encoder: {" or ".join(known)}')
    sizes = {'width': width, 'depth': depth, 'heads': heads, 'vocabulary': vocabulary}
    for name, value in (sizes | {'length': length}).items():
        if value < 1:
            raise Problem(f'{name}={value} of the text encoder: at least 1')
    if width % heads:
        raise Problem(f'heads={heads} of the text encoder: does not divide a width of {width}')
    hidden = int(width * mlp_ratio)
    if hidden < 1:
        raise Problem(f'mlp_ratio={mlp_ratio} of the text encoder: leaves no hidden unit')
    if not 0 <= dropout < 1:
        raise Problem(f'dropout={dropout} of the text encoder: at least 0 and below 1')
    return Text(
        width=width,
        depth=depth,
        heads=heads,
        hidden=hidden,
        vocabulary=vocabulary,
        length=length,
        causal=causal,
        pool=pool,
        padding=padding,
        activation=activation,
        dropout=dropout,
        remat=remat,
        dtype=dtype,
    )
