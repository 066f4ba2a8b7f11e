"""Vision Transformers (Dosovitskiy et al., 2020; arXiv:2010.11929) without a classifier, and their
weights under the names of timm."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.entry import Problem
from clr_jax.networks import sown, standardize

VARIANTS = {  # width, depth, heads
    'S': (384, 12, 6),
    'B': (768, 12, 12),
    'L': (1024, 24, 16),
    'H': (1280, 32, 16),
}
# float32 statistics, as Flax has them; the variance not as a difference of two means
LayerNorm = partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False)
Dense = partial(nn.Dense, kernel_init=nn.initializers.xavier_uniform())


class PatchEmbed(nn.Module):
    """[n, h, w, c] -> [n, h / patch, w / patch, d]: a convolution whose stride is its size, which is
    one product."""

    width: int
    patch: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        n, h, w, c = x.shape
        p, d = self.patch, self.width
        # xavier of the matrix [p p c, d]
        xavier = nn.initializers.variance_scaling(
            1.0, 'fan_avg', 'uniform', in_axis=(0, 1, 2), out_axis=3
        )
        kernel = self.param('kernel', xavier, (p, p, c, d), jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, (d,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = x.reshape(n, h // p, p, w // p, p, c)
        return jnp.einsum('nipjqc,pqcd->nijd', x, kernel) + bias  # [n, h / p, w / p, d]


class Block(nn.Module):
    """[n, t, d] -> [n, t, d]: attention, then two dense layers, each after a norm and beside a
    shortcut."""

    heads: int
    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x, rows, rate):
        n, t, d = x.shape
        dense = partial(Dense, dtype=self.dtype)
        norm = partial(LayerNorm, dtype=self.dtype)
        # queries, keys and values are three matrices [d, d], whose xavier is lecun of [d, 3 d]
        qkv = dense(3 * d, kernel_init=nn.initializers.lecun_uniform(), name='qkv')
        y = qkv(norm(name='norm1')(x)).reshape(n, t, 3, self.heads, d // self.heads)
        weights = attention(y[:, :, 0], y[:, :, 1])  # [n, heads, t, t]
        self.sow('intermediates', 'attention', weights)
        y = jnp.einsum('nhqk,nkhd->nqhd', weights.astype(y.dtype), y[:, :, 2]).reshape(n, t, d)
        x = x + self.drop(dense(d, name='proj')(y), rows, rate)
        y = dense(self.hidden, name='fc1')(norm(name='norm2')(x))  # [n, t, hidden]
        y = dense(d, name='fc2')(nn.gelu(y, approximate=False))
        return x + self.drop(y, rows, rate), None

    def drop(self, y, rows, rate):
        """Leave out whole branches y [n, t, d] of examples: stochastic depth (Huang et al., 2016).

        As in `networks.Dropout` it depends on the example, not on the device that holds it.
        """
        if rate is None or not self.has_rng('dropout'):
            return y
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng('dropout'), rows)
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)  # [n]
        return jnp.where(keep[:, None, None], y / (1 - rate), 0).astype(y.dtype)


def attention(q, k, mask=None):
    """Softmax attention of queries [n, t, heads, d] to keys [n, t, heads, d], all or those in `mask`
    [n, t] -> its weights [n, heads, t, t], in float32 at least."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum('nqhd,nkhd->nhqk', q, k, preferred_element_type=wide) * q.shape[-1] ** -0.5
    if mask is not None:  # finite, so that a row without any key is not NaN
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(wide).min)
    return nn.softmax(logits)


def stacked(depth: int, heads: int, hidden: int, dtype, remat=False) -> nn.Module:
    """`depth` blocks one after the other, their parameters stacked, [depth, ...]: (x, rows, rates of
    drop-path [depth] or None) -> (x, None). remat: computed again in the backward pass."""
    blocks = nn.scan(
        nn.remat(Block, prevent_cse=False) if remat else Block,
        variable_axes={'params': 0, 'intermediates': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=(nn.broadcast, 0),
        length=depth,
    )
    return blocks(heads, hidden, dtype, name='blocks')


class ViT(nn.Module):
    """[n, h, w, 3] -> [n, width]; the parameters of all blocks are stacked, [depth, ...]."""

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    grid: int
    pool: str
    positions: str
    drop_path: float
    token_std: float
    remat: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: Any

    def __call__(self, x, rows):
        return self.pooled(self.tokens(x, rows))

    def pooled(self, tokens):
        """Tokens [n, t, d] -> features h [n, d]."""
        return tokens[:, 0] if self.pool == 'token' else tokens.mean(1)

    @nn.compact
    def tokens(self, x, rows, visible=None):
        """Images [n, h, w, 3] -> what the last norm says of the class token, if there is one, and
        the patches: [n, t, d]. visible: [n, k], the only patches that are seen, by number."""
        n, h, w, _ = x.shape
        if h % self.patch or w % self.patch:
            raise Problem(
                f'encoder.patch={self.patch}: patches do not fill images of {h} x {w} pixels'
            )
        x = standardize(x, self.mean, self.std)
        x = PatchEmbed(self.width, self.patch, self.dtype, name='patch_embed')(x)
        positions = self.encode(*x.shape[1:3])  # [1, t, d]
        x = x.reshape(n, -1, self.width)
        first = int(self.pool == 'token')
        x = x + positions[:, first:].astype(x.dtype)
        if visible is not None:
            x = jnp.take_along_axis(x, visible[..., None], 1)  # [n, k, d]
        if first:
            normal = nn.initializers.normal(self.token_std)
            token = self.param('cls_token', normal, (1, 1, self.width), jnp.float32)
            token = token.astype(x.dtype) + positions[:, :1].astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (n, 1, self.width)), x], 1)
        dropping = rows is not None and self.drop_path > 0
        rates = jnp.linspace(0, self.drop_path, self.depth) if dropping else None
        blocks = stacked(self.depth, self.heads, self.hidden, self.dtype, self.remat)
        x, _ = blocks(x, rows, rates)
        # without a dtype it is in that of its parameters, float32, or a wider one
        return LayerNorm(name='norm')(x)

    def encode(self, height: int, width: int):
        """Positions of a grid of patches [1, t, d], t with the class token if there is one."""
        token = int(self.pool == 'token')
        if self.positions == 'sincos':
            return jnp.pad(sincos(height, width, self.width), ((token, 0), (0, 0)))[None]
        shape = (1, token + self.grid**2, self.width)
        learned = self.param('pos_embed', nn.initializers.normal(0.02), shape, jnp.float32)
        if (height, width) == (self.grid, self.grid):
            return learned
        grid = learned[:, token:].reshape(1, self.grid, self.grid, -1)
        grid = jax.image.resize(grid, (1, height, width, self.width), 'bicubic')
        return jnp.concatenate([learned[:, :token], grid.reshape(1, -1, self.width)], 1)


def sincos(height: int, width: int, d: int):
    """Fixed positions of a grid, [height * width, d]: of the column sin and cos, then of the row, at
    d / 4 frequencies from 1 to almost 1 / 10000 (as in MoCo v3 and MAE; the former's code, which
    means columns, has rows first)."""
    frequency = 10000.0 ** -(jnp.arange(d // 4) / (d // 4))
    row, column = jnp.indices((height, width)).reshape(2, -1, 1)
    x, y = column * frequency, row * frequency  # [height * width, d / 4]
    return jnp.concatenate([jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)], 1)


def attention_maps(encoder: ViT, params, x):
    """How much the class token of the last block attends to each patch of images x [n, h, w, 3] ->
    [n, heads, h / patch, w / patch]."""
    n, h, w, _ = x.shape
    weights = sown(encoder, params, x)['blocks']['attention'][0][-1]  # [n, heads, t, t]
    return weights[:, :, 0, 1:].reshape(n, -1, h // encoder.patch, w // encoder.patch)


def vit(
    *,
    variant='S',
    patch=16,
    heads=0,
    image_size=224,
    pool='token',
    positions='learned',
    drop_path=0.0,
    mlp_ratio=4.0,
    token_std=0.02,
    remat=False,
    width=0,
    depth=0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    bn_groups=1,
    dtype=None,
) -> ViT:
    """A Vision Transformer of `variant` S (384 wide, 12 deep, 6 heads), B (768, 12, 12), L (1024,
    24, 16) or H (1280, 32, 16) on patches of `patch` pixels; h is in float32 at least.

    width, depth, heads: above 0, instead of the variant's (the ViT-S of MoCo v3 has 12 heads).
    pool: h is the class 'token', or the 'average' over patches without such a token; both after the
    last norm. positions: 'learned' at `image_size` pixels and on other grids interpolated as timm
    does (bicubic with a = -1/2, antialiased; DINO's differ: a = -3/4), or 'sincos', fixed, for which
    image_size means nothing.
    drop_path: the rate of the last block's stochastic depth, from 0 at the first rising linearly.
    mlp_ratio: hidden units of a block for each of its width. token_std: of the class token when it
    begins (MoCo v3: 1e-6). remat: compute each block again in the backward pass, for less memory.
    mean, std: subtracted from and divided into pixels in 0..1. bn_groups: every encoder is given
    it; here it does nothing, for there is no batch norm. dtype: of the computation, e.g. bfloat16;
    parameters, attention weights and norms' statistics are float32.

    Dense layers begin as in MoCo v3 (arXiv:2104.02057): xavier uniform, with queries, keys and
    values as three matrices, and biases of zero.
    """
    if variant not in VARIANTS:
        raise Problem(f'encoder.variant={variant}: a vit has one of {", ".join(VARIANTS)}')
    for name, value, known in (
        ('pool', pool, ('token', 'average')),
        ('positions', positions, ('learned', 'sincos')),
    ):
        if value not in known:
            raise Problem(f'encoder.{name}={value}: {" or ".join(known)}')
    for name, value in (('width', width), ('depth', depth), ('heads', heads)):
        if value < 0:
            raise Problem(f"encoder.{name}={value}: at least 1, or 0 for the variant's")
    if patch < 1:
        raise Problem(f'encoder.patch={patch}: at least 1 pixel')
    if not 0 <= drop_path < 1:
        raise Problem(f'encoder.drop_path={drop_path}: at least 0 and below 1')
    usual = VARIANTS[variant]
    width, depth, heads = width or usual[0], depth or usual[1], heads or usual[2]
    if width % heads:
        raise Problem(f'encoder.heads={heads}: does not divide a width of {width}')
    hidden = int(width * mlp_ratio)
    if hidden < 1:
        raise Problem(f'encoder.mlp_ratio={mlp_ratio}: leaves no hidden unit of a width of {width}')
    if positions == 'sincos' and width % 4:
        raise Problem(f'encoder.width={width}: sincos positions need a multiple of 4')
    if positions == 'learned' and (image_size < patch or image_size % patch):
        raise Problem(f'encoder.image_size={image_size}: not a multiple of encoder.patch={patch}')
    return ViT(
        width=width,
        depth=depth,
        heads=heads,
        hidden=hidden,
        patch=patch,
        grid=image_size // patch,
        pool=pool,
        positions=positions,
        drop_path=drop_path,
        token_std=token_std,
        remat=remat,
        mean=tuple(mean),
        std=tuple(std),
        dtype=dtype,
    )


# Our names and timm's, whose layers of a block come one by one, 'blocks.{i}.norm1' and so on.
ALONE = ('cls_token', 'pos_embed')
OUTER = {'patch_embed': 'patch_embed.proj', 'norm': 'norm'}
INNER = {
    'norm1': 'norm1',
    'qkv': 'attn.qkv',
    'proj': 'attn.proj',
    'norm2': 'norm2',
    'fc1': 'mlp.fc1',
    'fc2': 'mlp.fc2',
}
TO_TIMM = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}  # [in, out] -> [out, in], HWIO -> OIHW
FROM_TIMM = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}


def to_timm(params) -> dict[str, np.ndarray]:
    """The parameters of a `ViT` (or their average over time) under the names and in the layout of
    timm's VisionTransformer.

    One of pool 'average' is timm's with class_token=False, global_pool='avg', fc_norm=False. Fixed
    positions are no parameters, so not among them.
    """
    layers = {theirs: params[ours] for ours, theirs in OUTER.items()}
    for ours, theirs in INNER.items():
        for i in range(len(params['blocks'][ours]['bias'])):
            layers[f'blocks.{i}.{theirs}'] = {k: x[i] for k, x in params['blocks'][ours].items()}
    weights = {name: np.asarray(params[name]) for name in ALONE if name in params}
    for name, layer in layers.items():
        weight = np.asarray(layer['scale' if 'scale' in layer else 'kernel'])
        weights[f'{name}.weight'] = weight.transpose(TO_TIMM[weight.ndim])
        weights[f'{name}.bias'] = np.asarray(layer['bias'])
    return weights


def from_timm(weights):
    """The inverse of `to_timm`: parameters of a `ViT` from the weights of timm's VisionTransformer
    by name, without its classifier. A Problem names what makes them another network's."""
    depth = len({name.split('.')[1] for name in weights if name.startswith('blocks.')})
    inner = {ours: [f'blocks.{i}.{theirs}' for i in range(depth)] for ours, theirs in INNER.items()}
    names = [*OUTER.values(), *sum(inner.values(), [])]
    known = {f'{name}.{kind}' for name in names for kind in ('weight', 'bias')}
    found = {name for name in weights if name not in ALONE and not name.startswith('head.')}
    if found != known or not depth:
        which = ', '.join(sorted(found ^ known)[:3]) or 'blocks'
        raise Problem(f'these are not the weights of a ViT, which differ in {which}')

    def layer(name):
        weight, bias = (np.asarray(weights[f'{name}.{kind}']) for kind in ('weight', 'bias'))
        kind = 'scale' if weight.ndim == 1 else 'kernel'
        return {kind: weight.transpose(FROM_TIMM[weight.ndim]), 'bias': bias}

    stack = lambda names: jax.tree.map(lambda *x: np.stack(x), *map(layer, names))
    alone = {name: np.asarray(weights[name]) for name in ALONE if name in weights}
    outer = {ours: layer(theirs) for ours, theirs in OUTER.items()}
    return alone | outer | {'blocks': {ours: stack(names) for ours, names in inner.items()}}


# What `config.pretrained.weights` is read by.
from_weights, to_weights = from_timm, to_timm
