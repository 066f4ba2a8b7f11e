"""The memory of instance discrimination (Wu et al., 2018; arXiv:1805.01978): a table with a row for
each example, the average of its embeddings, against which queries are contrasted."""

import jax
import jax.numpy as jnp

from clr_jax import parallel
from clr_jax.losses import contrastive
from clr_jax.networks import normalize


def fresh(key, examples: int, d: int):
    """A memory before the first step, uniform as in the official code: `examples` rows of d, and what
    `parallel.padded` has behind them."""
    reach = (d / 3) ** -0.5
    return parallel.padded(jax.random.uniform(key, (examples, d), minval=-reach, maxval=reach))


def score(memory, v, examples: int, rows=None):
    """Dot products of embeddings v [b, d] with the rows of all examples [b, examples], or with `rows`
    [b, m] of them [b, m]."""
    scores = parallel.score(memory, v, rows)
    return scores[:, :examples] if rows is None else scores


def candidates(key, index, noise: int, examples: int):
    """Rows of a memory for each example of this shard [b, 1 + noise]: its own `index` [b], then
    `noise` drawn uniformly from all, by its number in the global batch."""
    draw = lambda row: jax.random.randint(jax.random.fold_in(key, row), (noise,), 0, examples)
    return jnp.concatenate([index[:, None], jax.vmap(draw)(parallel.positions(len(index)))], 1)


def nce(scores, log_z, first, examples: int):
    """`contrastive.nce` of the scores [b, 1 + noise] of `candidates`, log-probabilities less log_z
    [], which is estimated from this batch if it is the `first` [] and then kept. -> (loss, log_z)"""
    estimate = parallel.mean(jnp.exp(jax.lax.stop_gradient(scores)).mean()) * examples
    log_z = jnp.where(first, jnp.log(estimate), log_z).astype(log_z.dtype)
    log_p, noise = scores - log_z, scores.shape[1] - 1
    return contrastive.nce(log_p[:, 0], log_p[:, 1:], jnp.log(noise / examples)), log_z


def moved(memory, index, v, momentum):
    """The memory with the rows `index` [b] of this shard's examples moved towards their embeddings v
    [b, d], of length 1 again."""
    mine = parallel.take(memory, index)  # [b, d]
    return parallel.put(memory, index, normalize(momentum * mine + (1 - momentum) * v))
