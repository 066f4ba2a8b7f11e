"""Views as grids of positions, and what each knows of those before it: the networks of Contrastive
Predictive Coding (van den Oord et al., 2018; arXiv:1807.03748; Henaff et al., 2019;
arXiv:1905.09272)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from clr_jax import parallel
from clr_jax.networks import wide
from clr_jax.patches import grid, one_colour


class Positions(NamedTuple):
    """What the network says of a view as t x w positions: patches, or moments with w = 1."""

    h: jax.Array  # [n, t, w, d] embeddings by the encoder
    z: jax.Array  # [n, t, w, e] what is predicted of them: h, or its projection
    c: jax.Array  # [n, r, t, w, f] contexts: h of rows 0..t, of the grid in each direction
    weights: jax.Array  # [k, r, f, e] from a context to the z that are so many rows further


class GRU(nn.Module):
    """[n, t, w, d] -> [n, t, w, width]: gated recurrent units (Cho et al., 2014; arXiv:1406.1078)
    along t, in float32 at least."""

    width: int
    depth: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        n, t, w, _ = x.shape
        x = x.swapaxes(1, 2).reshape(n * w, t, -1)
        for i in range(1, self.depth + 1):
            cell = nn.GRUCell(self.width, dtype=self.dtype, name=f'gru{i}')
            # the first state is of the type of those that follow
            state = parallel.vary(jnp.zeros((n * w, self.width), x.dtype))
            x = nn.RNN(cell)(x, initial_carry=state)  # [n w, t, width]
        return wide(x).reshape(n, w, t, -1).swapaxes(1, 2)


class PixelCNN(nn.Module):
    """[n, t, w, d] -> [n, t, w, d]: `depth` residual branches of `width`, each of which sees its row
    and the one above it."""

    width: int
    depth: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        d = x.shape[-1]
        for i in range(1, self.depth + 1):
            conv = lambda name, features, kernel=(1, 1), above=0, i=i: nn.Conv(
                features,
                kernel,
                padding=((above, 0), (kernel[1] // 2,) * 2),
                dtype=self.dtype,
                name=f'block{i}_{name}',
            )
            y = nn.relu(conv('in', self.width)(x))  # [n, t, w, width]
            y = conv('beside', self.width, (1, 3))(y)
            y = nn.relu(conv('above', self.width, (2, 1), 1)(y))
            x = x + conv('out', d)(y)
        return wide(nn.relu(x))


class Predictive(nn.Module):
    """Images [n, s, s, 3], cut into overlapping patches, or waveforms [n, samples] -> `Positions`."""

    encoder: nn.Module
    projector: nn.Module | None
    contexts: tuple[nn.Module, ...]  # of the view turned by 0, 90, ... degrees
    steps: int
    patch: int
    stride: int
    drop_colours: float

    @nn.compact
    def __call__(self, x, rows=None):
        h = self.sequence(x, rows) if x.ndim == 2 else self.patches(x, rows)  # [n, t, w, d]
        z = h if self.projector is None else self.projector(h, None)
        turned = (jnp.rot90(h, r, (1, 2)) for r in range(len(self.contexts)))
        c = jnp.stack([of(h) for of, h in zip(self.contexts, turned, strict=True)], 1)
        lecun = nn.initializers.variance_scaling(
            1.0, 'fan_in', 'normal', in_axis=2, out_axis=3, batch_axis=(0, 1)
        )
        shape = self.steps, len(self.contexts), c.shape[-1], z.shape[-1]
        return Positions(h, z, c, self.param('predictor', lecun, shape, jnp.float32))

    def sequence(self, x, rows):
        return self.encoder.sequence(x, rows)[:, :, None]

    def patches(self, x, rows):
        """Each patch passes the encoder as an example of its own: the i-th of row r of m patches is
        row r m + i."""
        x = grid(x, self.patch, self.stride)  # [n, t, w, p, p, 3]
        n, t, w, *shape = x.shape
        if rows is not None:
            if self.drop_colours and self.has_rng('dropout'):
                x = one_colour(x, self.make_rng('dropout'), rows, self.drop_colours)
            rows = (rows[:, None] * (t * w) + jnp.arange(t * w)).reshape(-1)  # [n t w]
        return self.encoder(x.reshape(-1, *shape), rows).reshape(n, t, w, -1)
