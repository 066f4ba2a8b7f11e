"""Is the representation alive? Measures of collapse, spread and agreement, on this shard's
embeddings, exact over the global batch."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from clr_jax import parallel
from clr_jax.networks import normalize

WIDEST = 2048  # dimensions of an eigendecomposition: its cost is their cube
CORRELATED = 64  # dimensions whose correlations a batch can tell


def health(z) -> dict:
    """All of the below for embeddings z [b, v, e] of v views; what compares the first two needs v >=
    2."""
    u = normalize(z)
    rows = u.reshape(-1, u.shape[-1])  # [b * v, e]
    measures = {
        'std': spread(rows),
        'uniformity': uniformity(u[:, 0]),
        'effective_rank': effective_rank(rows),
    }
    if u.shape[1] > 1:
        measures['alignment'] = alignment(u[:, 0], u[:, 1])
        measures['canonical_correlation'] = canonical_correlation(u[:, 0], u[:, 1])
    return measures


def spread(u):
    """Mean over dimensions of the standard deviation of unit rows u [n, e], times sqrt(e).

    1 for a distribution without a preferred direction, 0 for a collapsed one (Chen & He, 2020,
    section 4.1).
    """
    mean, power = parallel.mean((u.mean(0), jnp.square(u).mean(0)))
    return jnp.sqrt(jnp.maximum(power - jnp.square(mean), 0)).mean() * jnp.sqrt(u.shape[-1])


def alignment(u, v):
    """Mean squared distance of positive pairs of unit rows [n, e], in 0..4 (Wang & Isola, 2020;
    arXiv:2005.10242)."""
    return parallel.mean(jnp.square(u - v).sum(-1).mean())


def uniformity(u):
    """log of the mean over pairs of distinct unit rows u [n, e] of exp(-2 |u_i - u_j|^2); 0
    collapsed, at best about -4."""
    every = parallel.gather(u)  # [N, e]
    near = jnp.exp(4 * (u @ every.T - 1))  # [n, N]: |a - b|^2 = 2 - 2 a.b
    different = parallel.positions(len(u))[:, None] != jnp.arange(len(every))
    return jnp.log(parallel.mean(jnp.where(different, near, 0).sum(1).mean()) / (len(every) - 1))


def effective_rank(u):
    """exp of the entropy of the normalised eigenvalues of the covariance of rows u [n, e] (Roy &
    Vetterli, 2007); of wider rows than 2048, of the first 2048 dimensions."""
    p = jnp.maximum(jnp.linalg.eigvalsh(covariance(u[:, :WIDEST])), 0)
    # less is the rounding of equal rows, whose rank is 1
    p = jnp.where(p.sum() > 1e-12, p / p.sum(), 0)
    return jnp.exp(-jax.scipy.special.xlogy(p, p).sum())


def canonical_correlation(u, v):
    """Mean of the canonical correlations of rows u and v [n, e], in 0..1 (Hotelling, 1936): how much
    of one view a linear map tells of the other, which deep CCA trains for (Andrew et al., 2013).

    Of the first 64 dimensions, since N rows tell few correlations: those of independent embeddings
    are not 0 but of order sqrt(e / N). Variances are raised by a thousandth of their mean, so that a
    direction without any, as all are after a collapse, counts as 0.
    """
    u, v = u[:, :CORRELATED], v[:, :CORRELATED]
    e = u.shape[1]
    both = covariance(jnp.concatenate([u, v], 1))  # [2e, 2e]

    def root(c):
        ridge = 1e-3 * jnp.trace(c) / e + 1e-10  # the latter for rounding of equal rows
        return jnp.linalg.cholesky(c + ridge * jnp.eye(e, dtype=c.dtype))

    half = solve_triangular(root(both[:e, :e]), both[:e, e:], lower=True)
    white = solve_triangular(root(both[e:, e:]), half.T, lower=True)
    return jnp.linalg.svd(white, compute_uv=False).mean()


def covariance(u):
    """Covariance [e, e] of the rows u [n, e] over the global batch, biased."""
    u = u - parallel.mean(u.mean(0))
    return parallel.mean(u.T @ u / len(u))
