"""Images as patches: cut and put together, damaged, and found again by a decoder behind a ViT (He et
al., 2021; arXiv:2111.06377)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clr_jax.encoders.vit import Dense, LayerNorm, ViT, sincos, stacked

DAMAGES = ('mask', 'shuffle', 'grayscale', 'noise')
LUMA = 0.2989, 0.587, 0.114


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


def grid(x, patch: int, stride: int):
    """[n, h, w, c] -> the patches that begin at every `stride`-th pixel, [n, t, u, patch, patch, c];
    with a smaller stride they overlap."""
    t, u = ((side - patch) // stride + 1 for side in x.shape[1:3])
    row, column = (stride * jnp.arange(k)[:, None] + jnp.arange(patch) for k in (t, u))
    return jnp.asarray(x)[:, row][:, :, :, column].swapaxes(2, 3)


def one_colour(x, key, rows, rate: float):
    """Patches [n, t, u, p, p, 3] of which a share `rate` is left one colour, the other two set to 0,
    drawn by row: the colour dropping of Doersch et al. (2015; arXiv:1505.05192)."""

    def kept(key):
        which, whether = jax.random.split(key)
        one = jax.nn.one_hot(jax.random.randint(which, x.shape[1:3], 0, 3), 3)  # [t, u, 3]
        dropped = jax.random.bernoulli(whether, rate, x.shape[1:3])
        return jnp.where(dropped[..., None], one, 1).astype(x.dtype)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    return x * jax.vmap(kept)(keys)[:, :, :, None, None]


def spared(patches: int, ratio: float) -> int:
    """How many of the patches a damage of `ratio` spares."""
    return int(patches * (1 - ratio))


def damaged(damage: str, x, key, rows, *, patch: int, ratio: float, noise: float):
    """x [b, h, w, 3] in 0..1 -> (what one of `DAMAGES` leaves of it, the visible patches [b, k] or None
    for all, which patches it took [b, n], 0 or 1), drawn by row."""
    b, h, w, _ = x.shape
    n = (h // patch) * (w // patch)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    every = jnp.ones((b, n), x.dtype)
    if damage == 'grayscale':
        gray = (x @ jnp.asarray(LUMA, x.dtype))[..., None]
        return jnp.broadcast_to(gray, x.shape), None, every
    if damage == 'noise':
        draw = lambda key: jax.random.normal(key, x.shape[1:], x.dtype)
        return x + noise * jax.vmap(draw)(keys), None, every
    order = jax.vmap(lambda key: jax.random.permutation(key, n))(keys)  # [b, n]
    visible, taken = jnp.split(order, [spared(n, ratio)], 1)  # [b, k], [b, n - k]
    example = jnp.arange(b)[:, None]
    lost = jnp.zeros_like(every).at[example, taken].set(1)
    if damage == 'mask':
        return x, visible, lost
    patches = to_patches(x, patch)  # [b, n, p p 3]
    moved = patches[example, jnp.roll(taken, 1, 1)]  # none stays where it was
    return to_image(patches.at[example, taken].set(moved), x.shape), None, lost


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
        x, _ = stacked(self.depth, self.heads, 4 * self.width, self.dtype)(x, None, None, None)
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
