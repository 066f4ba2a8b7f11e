"""Frozen features of a whole data set, computed on all devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from clr_jax import parallel
from clr_jax.data import damage, pipeline
from clr_jax.networks import view


class Features(NamedTuple):
    """What protocols see."""

    h: Any  # [n, d] float32; None of texts alone, for a method of images and texts
    label: np.ndarray  # [n] int32
    logits: Any = None  # [n, classes] of a method that classifies
    z: Any = None  # [n, e] embeddings
    text: Any = None  # [n, e] embeddings of texts, for a method of images and texts


def forward(features: Callable, mesh) -> Callable:
    """A method's `features` on the mesh: (params, state, batch) -> `Features` of the global batch,
    whole on every device, compiled once."""

    def on_shard(params, state, batch):
        out = features(params, state, batch)
        rest = (out.get(name) for name in ('logits', 'z', 'text'))
        ours = Features(out.get('h'), batch['label'], *rest)
        return jax.tree.map(parallel.gather_state, ours)

    return jax.jit(parallel.shard(on_shard, mesh, (P(), P(), P(parallel.DATA)), P()))


def extract(
    run: Callable, mesh, source, shown: list, *, indices=None, batch_size: int = 256
) -> Features:
    """`run(batch) -> Features` over the examples of `source` (or those with the numbers `indices`) in
    their order, in the views `shown` (`data.views.evaluated`)."""
    batch_size = -(-batch_size // mesh.size) * mesh.size
    rows = parallel.rows(mesh, batch_size)
    count = source.size if indices is None else len(indices)
    batches = pipeline.eval_batches(
        source, shown, batch_size=batch_size, rows=rows, indices=indices
    )
    pieces = [jax.device_get(run(parallel.spread(batch, mesh))) for batch in batches]
    damage.report(source)
    whole = jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *pieces)
    return whole if whole.h is None else whole._replace(h=whole.h.astype(np.float32))


def pixels(params, state, batch):
    """The `features` of no encoder at all: pixels in -0.5..0.5, flattened [n, h * w * 3].

    Centred, because the cosine between positive vectors says little: a weaker baseline flatters.
    """
    return {'h': batch['views'][0].reshape(len(batch['label']), -1) / 255.0 - 0.5}


def log_mel(rate: int, bands: int = 40) -> Callable:
    """-> the `features` of no encoder at all for recordings of `rate` Hz: the mean and the standard
    deviation over time of the logarithm of the power in `bands` triangular bands, evenly spaced from
    0 to rate / 2 on the mel scale 2595 log10(1 + f / 700); windows (Hann) of 25 ms, every 10 ms.
    [n, 2 bands]"""
    window, hop = round(0.025 * rate), round(0.01 * rate)
    mel = lambda f: 2595 * np.log10(1 + f / 700)
    edges = np.interp(
        np.linspace(0, mel(rate / 2), bands + 2), mel(x := np.arange(rate / 2 + 1)), x
    )
    frequency = np.arange(window // 2 + 1) * rate / window  # [f]
    left, middle, right = (edges[k : k + bands, None] for k in range(3))
    rise, fall = (frequency - left) / (middle - left), (right - frequency) / (right - middle)
    triangles = np.maximum(0, np.minimum(rise, fall))  # [bands, f]

    def features(params, state, batch):
        wave = view(batch['views'][0])  # [n, samples]
        count = 1 + max(0, wave.shape[1] - window) // hop
        wave = jnp.pad(wave, [(0, 0), (0, max(0, window - wave.shape[1]))])
        at = np.arange(count)[:, None] * hop + np.arange(window)  # [windows, window]
        power = jnp.abs(jnp.fft.rfft(wave[:, at] * np.hanning(window))) ** 2  # [n, windows, f]
        loud = jnp.log(power @ triangles.T + 1e-6)  # [n, windows, bands]
        return {'h': jnp.concatenate([loud.mean(1), loud.std(1)], 1)}

    return features
