"""What the library computes, a second time: NumPy float64 loops straight from the equations.

Each takes the global batch. Nothing here is clever, nothing is shared with `clr_jax`, and gradients
are central differences, which know no calculus.
"""

import itertools

import numpy as np


def assert_close(actual, expected, tolerance=1e-5):
    """Equal up to `tolerance` times the largest entry of `expected`; shapes must be the same."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f'{actual.shape} is not {expected.shape}'
    error, scale = np.abs(actual - expected).max(), np.abs(expected).max()
    assert error <= tolerance * scale, f'off by {error:.3e} where the largest entry is {scale:.3e}'


def gradient(f, *arrays, step=1e-5):
    """The gradients of a scalar function of NumPy arrays, one central difference for each entry.

    In float64 their error is about step^2 f''' / 6 + 1e-16 f / step: 1e-10 or so.
    """
    arrays = [np.array(x, np.float64) for x in arrays]
    slopes = [np.zeros_like(x) for x in arrays]
    for x, slope in zip(arrays, slopes, strict=True):
        for place in np.ndindex(x.shape):
            value = x[place]
            x[place] = value + step
            above = f(*arrays)
            x[place] = value - step
            below = f(*arrays)
            x[place] = value
            slope[place] = (above - below) / (2 * step)
    return slopes


# Losses


def unit(x):
    length = np.sqrt((x * x).sum())
    return x / length if length else x


def cross_entropy(logits, target):
    """-log of the softmax of `logits` [n] at `target`."""
    highest = max(logits)
    return highest + np.log(sum(np.exp(logit - highest) for logit in logits)) - logits[target]


def nt_xent(z, temperature, normalized=True):
    """Chen et al., 2020, eq. 1, the mean over all 2B views. z: [B, 2, d]."""
    every = [(n, v) for n in range(len(z)) for v in range(2)]
    z = {(n, v): unit(z[n, v]) if normalized else z[n, v] for n, v in every}
    losses = []
    for n, v in every:
        others = [other for other in every if other != (n, v)]
        logits = [np.dot(z[n, v], z[other]) / temperature for other in others]
        losses.append(cross_entropy(logits, others.index((n, 1 - v))))
    return np.mean(losses)


def nt_logistic(z, temperature, normalized=True):
    """Chen et al., 2020, table 2; the mean over negatives, then over all 2B views. z: [B, 2, d]."""
    softplus = lambda x: np.logaddexp(0, x)  # -log sigmoid(-x)
    every = [(n, v) for n in range(len(z)) for v in range(2)]
    z = {(n, v): unit(z[n, v]) if normalized else z[n, v] for n, v in every}
    losses = []
    for n, v in every:
        similarity = lambda other: np.dot(z[n, v], z[other]) / temperature
        repel = [softplus(similarity(other)) for other in every if other[0] != n]
        losses.append(softplus(-similarity((n, 1 - v))) + np.mean(repel))
    return np.mean(losses)


def info_nce(query, key, temperature, negatives=None):
    """Van den Oord et al., 2018, eq. 4: among the keys, or the own key and `negatives` [K, d]."""
    losses = []
    for n, q in enumerate(query):
        candidates, target = (key, n) if negatives is None else ([key[n], *negatives], 0)
        losses.append(cross_entropy([np.dot(q, k) / temperature for k in candidates], target))
    return np.mean(losses)


# Layers


def batch_norm(x, groups, scale, bias, epsilon=1e-5):
    """x [n, ..., c] normalised in each of `groups` contiguous parts -> (y, mean [c], variance [c]).

    The last two are what enters the running averages: means over the groups, the variance biased.
    """
    y, means, variances = [], [], []
    for part in np.split(x, groups):
        columns = part.reshape(-1, x.shape[-1])
        mean, variance = columns.mean(0), columns.var(0)
        y.append((part - mean) / np.sqrt(variance + epsilon) * scale + bias)
        means.append(mean)
        variances.append(variance)
    return np.concatenate(y), np.mean(means, 0), np.mean(variances, 0)


def same_pads(size, kernel, stride):
    """TensorFlow's SAME: ceil(size / stride) outputs, the odd pixel of padding after the image."""
    needed = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return needed // 2, needed - needed // 2


def windows(x, kernel, stride, pads, fill=0.0):
    """-> ((i, j), window [b, kernel, kernel, c]) for every place of the output.

    pads: ((top, bottom), (left, right)).
    """
    x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    starts = [range(0, size - kernel + 1, stride) for size in x.shape[1:3]]
    for (i, top), (j, left) in itertools.product(*map(enumerate, starts)):
        yield (i, j), x[:, top : top + kernel, left : left + kernel]


def grid(values):
    """{(i, j): [b, c]} -> [b, h, w, c]."""
    h, w = (max(places) + 1 for places in zip(*values, strict=True))
    return np.stack([np.stack([values[i, j] for j in range(w)], 1) for i in range(h)], 1)


def convolution(x, w, stride, pads):
    """x [b, h, w, c] with w [k, k, c, f]."""
    places = windows(x, len(w), stride, pads)
    return grid({at: np.einsum('bijc,ijcf->bf', window, w) for at, window in places})


def max_pool(x, kernel, stride, pads):
    places = windows(x, kernel, stride, pads, fill=-np.inf)
    return grid({at: window.max((1, 2)) for at, window in places})


# Health: u [n, e] are unit rows


def spread(u):
    return np.mean([np.std(column) for column in u.T]) * np.sqrt(u.shape[1])


def alignment(u, v):
    return np.mean([np.dot(a - b, a - b) for a, b in zip(u, v, strict=True)])


def uniformity(u):
    pairs = itertools.combinations(u, 2)
    return np.log(np.mean([np.exp(-2 * np.dot(a - b, a - b)) for a, b in pairs]))


def effective_rank(u):
    """exp of the entropy of the normalised eigenvalues of the covariance.

    They are the squared singular values of the centred rows.
    """
    values = np.linalg.svd(u - u.mean(0), compute_uv=False) ** 2
    p = values / values.sum()
    return np.exp(-sum(q * np.log(q) for q in p if q > 0))
