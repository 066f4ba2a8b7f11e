"""Vision Transformers (Dosovitskiy et al., 2020; arXiv:2010.11929) without a classifier, and their
weights under the names of timm."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clr_jax.entry import Problem
from clr_jax.networks import Dropout, sown, standardize
from clr_jax.remat import recomputed

VARIANTS = {  # width, depth, heads
    'S': (384, 12, 6),
    'B': (768, 12, 12),
    'L': (1024, 24, 16),
    'H': (1280, 32, 16),
}
# float32 statistics, as Flax has them; the variance not as a difference of two means
LayerNorm = partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False)
xavier = nn.initializers.xavier_uniform()
Dense = partial(nn.Dense, kernel_init=xavier)
ACTIVATIONS: dict[str, Callable] = {
    'gelu': partial(nn.gelu, approximate=False),
    'quick_gelu': lambda x: x * nn.sigmoid(1.702 * x),
}


class Kernels(NamedTuple):
    """How the kernels of a block begin; so as in MoCo v3 (arXiv:2104.02057)."""

    # queries, keys and values are three matrices [d, d], whose xavier is lecun of [d, 3 d]
    qkv: Any = nn.initializers.lecun_uniform()
    proj: Any = xavier
    fc1: Any = xavier
    fc2: Any = xavier


class PatchEmbed(nn.Module):
    """[n, h, w, c] -> [n, h / patch, w / patch, d]: a convolution whose stride is its size, which is
    one product."""

    width: int
    patch: int
    bias: bool
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
        zeros = nn.initializers.zeros
        bias = self.param('bias', zeros, (d,), jnp.float32) if self.bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = x.reshape(n, h // p, p, w // p, p, c)
        y = jnp.einsum('nipjqc,pqcd->nijd', x, kernel)  # [n, h / p, w / p, d]
        return y if bias is None else y + bias


class Block(nn.Module):
    """[n, t, d] -> [n, t, d]: attention, then two dense layers, each after a norm and beside a
    shortcut. dropout: of attention weights and of what both branches say."""

    heads: int
    hidden: int
    dtype: Any
    activation: str = 'gelu'
    dropout: float = 0.0
    kernels: Kernels = Kernels()

    @nn.compact
    def __call__(self, x, rows, rate, mask):
        n, t, d = x.shape
        norm = partial(LayerNorm, dtype=self.dtype)

        def dense(width, name):
            init = getattr(self.kernels, name)
            return nn.Dense(width, dtype=self.dtype, kernel_init=init, name=name)

        y = dense(3 * d, 'qkv')(norm(name='norm1')(x)).reshape(n, t, 3, self.heads, d // self.heads)
        weights = attention(y[:, :, 0], y[:, :, 1], mask)  # [n, heads, t, t]
        self.sow('intermediates', 'attention', weights)
        weights = Dropout(self.dropout)(weights, rows).astype(y.dtype)
        y = jnp.einsum('nhqk,nkhd->nqhd', weights, y[:, :, 2]).reshape(n, t, d)
        y = Dropout(self.dropout)(dense(d, 'proj')(y), rows)
        x = x + self.drop(y, rows, rate)
        y = dense(self.hidden, 'fc1')(norm(name='norm2')(x))  # [n, t, hidden]
        y = dense(d, 'fc2')(ACTIVATIONS[self.activation](y))
        return x + self.drop(Dropout(self.dropout)(y, rows), rows, rate), None

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
    """Softmax attention of queries [n, q, heads, d] to keys [n, k, heads, d] -> its weights [n, heads,
    q, k], in float32 at least. mask: which keys a query sees, of a shape that broadcasts to these;
    one that sees none looks everywhere. None: all."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum('nqhd,nkhd->nhqk', q, k, preferred_element_type=wide)
    # finite, so that a query without any key is not NaN
    logits = logits if mask is None else jnp.where(mask, logits, jnp.finfo(wide).min)
    return nn.softmax(logits * q.shape[-1] ** -0.5)


def stacked(depth: int, heads: int, hidden: int, dtype, remat='', **options) -> nn.Module:
    """`depth` blocks one after the other, their parameters stacked, [depth, ...]: (x, rows, rates of
    drop-path [depth] or None, mask as of `attention`) -> (x, None). remat: '' or of
    `remat.POLICIES`. options: others of `Block`."""
    blocks = nn.scan(
        recomputed(Block, remat),
        variable_axes={'params': 0, 'intermediates': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=(nn.broadcast, 0, nn.broadcast),
        length=depth,
    )
    return blocks(heads, hidden, dtype, **options, name='blocks')


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
    activation: str
    pre_norm: bool
    remat: str
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
        cut = PatchEmbed(self.width, self.patch, not self.pre_norm, self.dtype, name='patch_embed')
        x = cut(x)
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
        if self.pre_norm:
            x = LayerNorm(dtype=self.dtype, name='norm_pre')(x)
        dropping = rows is not None and self.drop_path > 0
        rates = jnp.linspace(0, self.drop_path, self.depth) if dropping else None
        layout = self.depth, self.heads, self.hidden, self.dtype, self.remat
        x, _ = stacked(*layout, activation=self.activation)(x, rows, rates, None)
        # without a dtype it is in that of its parameters, float32, or a wider one
        return LayerNorm(name='norm')(x)

    def encode(self, height: int, width: int):
        """Positions of a grid of patches [1, t, d], t with the class token if there is one."""
        token = int(self.pool == 'token')
        if self.positions == 'sincos':
            return jnp.pad(sincos(height, width, self.width), ((token, 0), (0, 0)))[None]
        shape = (1, token + self.grid**2, self.width)
        learned = self.param('pos_embed', nn.initializers.normal(0.02), shape, jnp.float32)
        return resized(learned, self.grid, height, width)


def resized(learned, grid: int, height: int, width: int):
    """Learned positions of tokens and then of a square grid, [1, t, d], for a grid of another size:
    bicubic with a = -1/2, antialiased."""
    if (height, width) == (grid, grid):
        return learned
    tokens, d = learned.shape[1] - grid**2, learned.shape[-1]
    square = learned[:, tokens:].reshape(1, grid, grid, d)
    square = jax.image.resize(square, (1, height, width, d), 'bicubic')
    return jnp.concatenate([learned[:, :tokens], square.reshape(1, -1, d)], 1)


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
    activation='gelu',
    pre_norm=False,
    remat='',
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
    begins (MoCo v3: 1e-6). activation: 'gelu' or 'quick_gelu', x sigmoid(1.702 x). pre_norm: a norm
    before the first block too, and patches without a bias; CLIP has both. remat: '', or what is
    computed again in the backward pass, for less memory: each block in 'full', or but for its products
    with kernels, 'dots'.
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
        ('activation', activation, tuple(ACTIVATIONS)),
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
        activation=activation,
        pre_norm=pre_norm,
        remat=remat,
        mean=tuple(mean),
        std=tuple(std),
        dtype=dtype,
    )


# Our names and timm's, whose layers of a block come one by one, 'blocks.{i}.norm1' and so on.
ALONE = ('cls_token', 'pos_embed')
OUTER = {'patch_embed': 'patch_embed.proj', 'norm_pre': 'norm_pre', 'norm': 'norm'}
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
    layers = {theirs: params[ours] for ours, theirs in OUTER.items() if ours in params}
    for ours, theirs in INNER.items():
        for i in range(len(params['blocks'][ours]['bias'])):
            layers[f'blocks.{i}.{theirs}'] = {k: x[i] for k, x in params['blocks'][ours].items()}
    weights = {name: np.asarray(params[name]) for name in ALONE if name in params}
    for name, layer in layers.items():
        weight = np.asarray(layer['scale' if 'scale' in layer else 'kernel'])
        weights[f'{name}.weight'] = weight.transpose(TO_TIMM[weight.ndim])
        if 'bias' in layer:
            weights[f'{name}.bias'] = np.asarray(layer['bias'])
    return weights


def from_timm(weights):
    """The inverse of `to_timm`: parameters of a `ViT` from the weights of timm's VisionTransformer
    by name, without its classifier. A Problem names what makes them another network's."""
    depth = len({name.split('.')[1] for name in weights if name.startswith('blocks.')})
    inner = {ours: [f'blocks.{i}.{theirs}' for i in range(depth)] for ours, theirs in INNER.items()}
    pre_norm = 'norm_pre.weight' in weights
    outer = {ours: theirs for ours, theirs in OUTER.items() if pre_norm or ours != 'norm_pre'}
    names = [*outer.values(), *sum(inner.values(), [])]
    known = {f'{name}.{kind}' for name in names for kind in ('weight', 'bias')}
    known -= {'patch_embed.proj.bias'} if pre_norm else set()
    found = {name for name in weights if name not in ALONE and not name.startswith('head.')}
    if found != known or not depth:
        which = ', '.join(sorted(found ^ known)[:3]) or 'blocks'
        raise Problem(f'these are not the weights of a ViT, which differ in {which}')

    def layer(name):
        weight = np.asarray(weights[f'{name}.weight'])
        kind = 'scale' if weight.ndim == 1 else 'kernel'
        made = {kind: weight.transpose(FROM_TIMM[weight.ndim])}
        bias = f'{name}.bias'
        return made | ({'bias': np.asarray(weights[bias])} if bias in weights else {})

    stack = lambda names: jax.tree.map(lambda *x: np.stack(x), *map(layer, names))
    alone = {name: np.asarray(weights[name]) for name in ALONE if name in weights}
    layers = {ours: layer(theirs) for ours, theirs in outer.items()}
    return alone | layers | {'blocks': {ours: stack(names) for ours, names in inner.items()}}


# What `config.pretrained.weights` is read by.
from_weights, to_weights = from_timm, to_timm
