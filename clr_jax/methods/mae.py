"""MAE (He et al., 2021; arXiv:2111.06377): from a quarter of an image's patches, the rest; and the
cheaper damages that the same decoder can repair."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clr_jax import networks, parallel
from clr_jax.encoders.vit import Dense, LayerNorm, ViT, sincos, stacked
from clr_jax.entry import Problem, known
from clr_jax.method import Aux, Method, State, check_views
from clr_jax.networks import Network, standardize, wide

DAMAGES = ('mask', 'shuffle', 'grayscale', 'noise')
LUMA = 0.2989, 0.587, 0.114


class Decoder(nn.Module):
    """Tokens of the visible patches [n, t, d] -> the pixels of all [n, patches, patch * patch * 3],
    a learned token in the place of those that are not `visible` [n, k]."""

    width: int
    depth: int
    heads: int
    patch: int
    token: bool  # whether the first token is no patch
    dtype: Any

    @nn.compact
    def __call__(self, tokens, grid, visible):
        x = Dense(self.width, dtype=self.dtype, name='embed')(tokens)  # [n, t, e]
        height, width = grid
        n, first, patches = len(x), int(self.token), height * width
        positions = sincos(height, width, self.width).astype(x.dtype)[None]
        seen = x[:, first:]
        if visible is not None:
            normal = nn.initializers.normal(0.02)
            hidden = self.param('mask_token', normal, (1, 1, self.width), jnp.float32)
            hidden = jnp.broadcast_to(hidden.astype(x.dtype), (n, patches, self.width))
            seen = hidden.at[jnp.arange(n)[:, None], visible].set(seen)  # [n, patches, e]
        x = jnp.concatenate([x[:, :first], seen + positions], 1)
        x, _ = stacked(self.depth, self.heads, 4 * self.width, self.dtype)(x, None, None)
        x = Dense(self.patch**2 * 3, name='pixels')(LayerNorm(name='norm')(x))
        return x[:, first:]


class Autoencoder(nn.Module):
    """Images [n, h, w, 3] -> features h [n, d] and the pixels of each patch."""

    encoder: ViT
    decoder: Decoder

    def __call__(self, x, rows=None, visible=None):
        grid = tuple(side // self.encoder.patch for side in x.shape[1:3])
        tokens = self.encoder.tokens(x, rows, visible)
        return self.encoder.pooled(tokens), self.decoder(tokens, grid, visible)


def mae(
    encoder,
    *,
    damage='mask',
    ratio=0.75,
    noise=0.5,
    normalized=True,
    decoder_width=512,
    decoder_depth=8,
    decoder_heads=16,
    bn_groups=1,
    dtype=None,
) -> Method:
    """The encoder, a vit, sees what the damage leaves of an image; the loss is the mean squared error
    of the patches that it took, and of these alone.

    damage: 'mask' hides the `ratio` of the patches, and the encoder computes only those that are
    left; 'shuffle' lets as many change places among themselves; 'grayscale' (colourisation) and
    'noise' (denoising, of standard deviation `noise` for pixels in 0..1) leave no patch as it was.
    normalized: each patch of the target has mean 0 and (unbiased) variance 1. decoder_*: its width,
    depth and heads; dtype: of its computation. `bn_groups`: every method is given it; here it does
    nothing, for there is no batch norm.
    """
    if not isinstance(encoder, ViT):
        raise Problem('config.method.name=mae needs an encoder of patches: config.encoder.name=vit')
    known([damage], DAMAGES, 'config.method.damage')
    if not 0 < ratio < 1:
        raise Problem(f'config.method.ratio={ratio}: a share of the patches, above 0 and below 1')
    if decoder_width % 4 or decoder_width % decoder_heads:
        widths = f'not a multiple of 4 and of decoder_heads={decoder_heads}'
        raise Problem(f'config.method.decoder_width={decoder_width}: {widths}')
    patch, token = encoder.patch, encoder.pool == 'token'
    decoder = Decoder(decoder_width, decoder_depth, decoder_heads, patch, token, dtype)
    network = Autoencoder(encoder, decoder)
    alone = Network(encoder)
    cut = partial(to_patches, patch=patch)

    def kept(patches):
        """How many of the patches the damage spares."""
        return int(patches * (1 - ratio))

    def damaged(key, rows, x):
        """x [b, h, w, 3] -> (what is left of it, the visible patches [b, k] or None for all, which
        patches count [b, n]), drawn by row."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
        if damage == 'grayscale':
            return jnp.broadcast_to((x @ jnp.asarray(LUMA, x.dtype))[..., None], x.shape), None, 1
        if damage == 'noise':
            draw = lambda key: jax.random.normal(key, x.shape[1:], x.dtype)
            return x + noise * jax.vmap(draw)(keys), None, 1
        patches = cut(x)  # [b, n, p p 3]
        n = patches.shape[1]
        order = jax.vmap(lambda key: jax.random.permutation(key, n))(keys)  # [b, n]
        visible, taken = jnp.split(order, [kept(n)], 1)  # [b, k], [b, n - k]
        example = jnp.arange(len(x))[:, None]
        counted = jnp.zeros(order.shape, x.dtype).at[example, taken].set(1)
        if damage == 'mask':
            return x, visible, counted
        moved = patches[example, jnp.roll(taken, 1, 1)]  # none stays where it was
        return to_image(patches.at[example, taken].set(moved), x.shape), None, counted

    def target(x):
        """The patches of x [b, h, w, 3] as they are to be found, and their means and deviations."""
        patches = cut(standardize(wide(x), encoder.mean, encoder.std))  # [b, n, p p 3]
        if not normalized:
            return patches, 0, 1
        mean = patches.mean(-1, keepdims=True)
        std = jnp.sqrt(patches.var(-1, keepdims=True, ddof=1) + 1e-6)
        return (patches - mean) / std, mean, std

    def init(key, batch, pretrained=None):
        check_views(batch, 1)
        x = batch['views'][0]
        n = (x.shape[1] // patch) * (x.shape[2] // patch)
        if damage in ('mask', 'shuffle') and not 0 < kept(n) < n:
            few = f'leaves {kept(n)} of the {n} patches of an image'
            raise Problem(f'config.method.ratio={ratio} {few}')
        visible = jnp.zeros((len(x), kept(n)), int) if damage == 'mask' else None
        params, stats = networks.init(network, key, x, pretrained, visible=visible)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        x = networks.image(batch['views'][0])  # [b, h, w, 3]
        left, visible, counted = damaged(key, parallel.positions(len(x)), x)
        (h, pixels), stats = networks.apply(
            network, params, state.stats, left, key=key, visible=visible
        )
        wanted, *_ = target(x)  # [b, n, p p 3]
        error = jnp.square(wide(pixels) - wanted).mean(-1)  # [b, n]
        weight = jnp.broadcast_to(counted, error.shape)
        value = (error * weight).sum() / weight.sum()
        return value, Aux(State(stats), {}, h[:, None], h[:, None])

    def features(params, state, batch):
        return {'h': networks.evaluate(alone, params, state.stats, batch['views'][0]).h}

    def pictures(params, state, batch, *, key):
        """Each image, what is left of it, what the decoder makes of that (with the true means and
        deviations of the patches, if it learned normalised ones), and this where it was damaged."""
        x = networks.image(batch['views'][0])
        rows = jnp.arange(len(x))
        left, visible, counted = damaged(key, rows, x)
        _, pixels = networks.evaluate(network, params, state.stats, left, visible=visible)
        _, mean, std = target(x)
        found = to_image(wide(pixels) * std + mean, x.shape)
        found = jnp.clip(found * jnp.asarray(encoder.std) + jnp.asarray(encoder.mean), 0, 1)
        lost = jnp.broadcast_to(jnp.asarray(counted), cut(x).shape[:2])[..., None]  # [b, n, 1]
        lost = to_image(jnp.broadcast_to(lost, cut(x).shape), x.shape)
        shown = x * (1 - lost) + 0.5 * lost if damage == 'mask' else jnp.clip(left, 0, 1)
        return {'reconstruction': jnp.stack([x, shown, found, x * (1 - lost) + found * lost], 1)}

    return Method(init, loss, features, pictures=pictures)


def to_patches(x, patch: int):
    """[n, h, w, c] -> [n, h w / patch^2, patch patch c], row by row."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
    return x.reshape(n, -1, patch * patch * c)


def to_image(patches, shape):
    """The inverse of `to_patches`, to images of `shape` [n, h, w, c]."""
    n, h, w, c = shape
    p = round((patches.shape[-1] / c) ** 0.5)
    x = patches.reshape(n, h // p, w // p, p, p, c).swapaxes(2, 3)
    return x.reshape(shape)
