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


def nt_xent(z, temperature, normalized=True, negatives=()):
    """Chen et al., 2020, eq. 1, the mean over all 2B views. z: [B, 2, d], negatives: [K, d]."""
    every = [(n, v) for n in range(len(z)) for v in range(2)]
    z = {(n, v): unit(z[n, v]) if normalized else z[n, v] for n, v in every}
    losses = []
    for n, v in every:
        others = [other for other in every if other != (n, v)]
        candidates = [*(z[other] for other in others), *negatives]
        logits = [np.dot(z[n, v], candidate) / temperature for candidate in candidates]
        losses.append(cross_entropy(logits, others.index((n, 1 - v))))
    return np.mean(losses)


def softplus(x):
    """-log sigmoid(-x)."""
    return np.logaddexp(0, x)


def nt_logistic(z, temperature, normalized=True, semi_hard=False):
    """Chen et al., 2020, table 2; the mean over negatives, then over all 2B views. z: [B, 2, d].

    semi_hard: instead of all negatives the most similar that is less similar than the positive.
    """
    every = [(n, v) for n in range(len(z)) for v in range(2)]
    z = {(n, v): unit(z[n, v]) if normalized else z[n, v] for n, v in every}
    losses = []
    for n, v in every:
        similarity = lambda other: np.dot(z[n, v], z[other]) / temperature
        positive = similarity((n, 1 - v))
        negatives = [similarity(other) for other in every if other[0] != n]
        if semi_hard:
            negatives = sorted(s for s in negatives if s < positive)[-1:]
        repel = np.mean([softplus(s) for s in negatives]) if negatives else 0
        losses.append(softplus(-positive) + repel)
    return np.mean(losses)


def margin(z, margin, normalized=True, semi_hard=False):
    """Chen et al., 2020, table 2; the mean over negatives, then over all 2B views. z: [B, 2, d].

    semi_hard: over those negatives alone that lie between the positive and it less the margin.
    """
    losses = []
    for n, v in np.ndindex(z.shape[:2]):
        row = lambda n, v: unit(z[n, v]) if normalized else z[n, v]
        positive = np.dot(row(n, v), row(n, 1 - v))
        negatives = [np.dot(row(n, v), row(m, w)) for m in range(len(z)) if m != n for w in (0, 1)]
        if semi_hard:
            negatives = [s for s in negatives if positive - margin < s < positive]
        hinges = [max(s - positive + margin, 0) for s in negatives]
        losses.append(np.mean(hinges) if hinges else 0)
    return np.mean(losses)


def invariant_spread(z, constant, temperature):
    """Ye et al., 2019: minus the log-probability of the positive and of each negative's absence.

    z: [B, 2, d]; `constant` has the same values, and no gradient reaches it.
    """
    losses = []
    for n, v in np.ndindex(z.shape[:2]):
        others = [other for other in np.ndindex(z.shape[:2]) if other != (n, v)]
        e = [np.exp(np.dot(unit(z[n, v]), unit(constant[o])) / temperature) for o in others]
        for k, other in enumerate(others):
            if other == (n, 1 - v):
                losses.append(-np.log(e[k] / sum(e)))
            else:
                losses.append(-np.log(sum(e[:k] + e[k + 1 :]) / sum(e)))
    return sum(losses) / (2 * len(z))


def hard_negative(z, temperature, tau_plus, beta):
    """Chuang et al., 2020 (beta = 0), Robinson et al., 2021; the mean over 2B views. z: [B, 2, d]."""
    number, losses = 2 * len(z) - 2, []
    for n, v in np.ndindex(z.shape[:2]):
        e = lambda m, w: np.exp(np.dot(unit(z[n, v]), unit(z[m, w])) / temperature)
        positive = e(n, 1 - v)
        negatives = [e(m, w) for m in range(len(z)) if m != n for w in (0, 1)]
        importance = [x**beta for x in negatives]
        pairs = zip(importance, negatives, strict=True)
        reweighted = sum(w * x for w, x in pairs) / np.mean(importance)
        rest = (reweighted - number * tau_plus * positive) / (1 - tau_plus)
        rest = max(rest, number * np.exp(-1 / temperature))
        losses.append(-np.log(positive / (positive + rest)))
    return np.mean(losses)


def sup_con(z, label, temperature):
    """Khosla et al., 2020, eq. 2, the mean over all views. z: [B, v, d]; label -1: none."""
    losses, every = [], list(np.ndindex(z.shape[:2]))
    for anchor in every:
        others = [other for other in every if other != anchor]
        logits = [np.dot(unit(z[anchor]), unit(z[other])) / temperature for other in others]
        positives = []
        for k, other in enumerate(others):
            of_class = label[anchor[0]] >= 0 and label[anchor[0]] == label[other[0]]
            if other[0] == anchor[0] or of_class:
                positives.append(cross_entropy(logits, k))
        losses.append(np.mean(positives) if positives else 0)
    return np.mean(losses)


def info_nce(query, key, temperature, negatives=None, score=np.dot, hard=None, hard_weight=0.0):
    """Van den Oord et al., 2018, eq. 4: among the keys, or the own key and `negatives` [K, d], and the
    `hard` negatives of all rows [B, d].

    score: of one query and one key.
    """
    losses = []
    for n, q in enumerate(query):
        candidates, target = (key, n) if negatives is None else ([key[n], *negatives], 0)
        logits = [score(q, k) / temperature for k in candidates]
        for m, k in enumerate([] if hard is None else hard):
            logits.append(score(q, k) / temperature + (hard_weight if m == n else 0))
        losses.append(cross_entropy(logits, target))
    return np.mean(losses)


def clip(image, text, log_scale):
    """Radford et al., 2021, fig. 3: image to text and text to image, by halves."""
    image, text = [unit(x) for x in image], [unit(x) for x in text]
    logits = [[np.exp(log_scale) * np.dot(x, y) for y in text] for x in image]
    by_rows = [cross_entropy(row, n) for n, row in enumerate(logits)]
    by_columns = [cross_entropy(column, n) for n, column in enumerate(zip(*logits, strict=True))]
    return (np.mean(by_rows) + np.mean(by_columns)) / 2


def sigmoid(image, text, log_scale, bias):
    """Zhai et al., 2023, eq. of section 3.2: the sum over all pairs, divided by the images."""
    total = 0
    for n, m in itertools.product(range(len(image)), range(len(text))):
        logit = np.exp(log_scale) * np.dot(unit(image[n]), unit(text[m])) + bias
        total += softplus(-logit if n == m else logit)
    return total / len(image)


def predictive_coding(z, c, weights, places, ahead, drawn=None):
    """Van den Oord et al., 2018, eq. 4, the mean over directions, positions and examples, then over k.

    z: [B, m, d], c: [B, r, t, w, e], weights: [K, r, e, d], places: [r, t, w]. drawn: [K, B, n] of
    the B m positions, the negatives; None: all others.
    """
    every, m = z.reshape(-1, z.shape[-1]), z.shape[1]
    of_steps = []
    for i, k in enumerate(ahead):
        losses = []
        for n, r, t, w in np.ndindex(c.shape[:4]):
            if t + k < c.shape[2]:
                scores = every @ (c[n, r, t, w] @ weights[i, r])  # [B m]
                target = n * m + places[r, t + k, w]
                others = range(len(every)) if drawn is None else drawn[i][n]
                noise = [scores[other] for other in others if other != target]
                losses.append(cross_entropy([scores[target], *noise], 0))
        of_steps.append(np.mean(losses))
    return np.mean(of_steps)


def perceptron(kernel1, bias1, kernel2, bias2):
    """The score of a query and a key by a network of one hidden layer of ReLU."""

    def score(query, key):
        hidden = np.maximum(np.concatenate([query, key]) @ kernel1 + bias1, 0)
        return (hidden @ kernel2 + bias2)[0]

    return score


def nce(positive, noise, log_noise):
    """Gutmann & Hyvarinen, 2010, as InstDisc writes it: h = p / (p + m p_noise).

    positive: [B], noise: [B, m] log-probabilities; log_noise [B, 1 + m]: log m p_noise.
    """
    losses = []
    for n in range(len(positive)):
        h = lambda log_p, log_noise: np.exp(log_p) / (np.exp(log_p) + np.exp(log_noise))
        losses.append(-np.log(h(positive[n], log_noise[n, 0])))
        for draw in range(noise.shape[1]):
            losses.append(-np.log(1 - h(noise[n, draw], log_noise[n, 1 + draw])))
    return sum(losses) / len(positive)


def jensen_shannon(parts, whole, there):
    """Hjelm et al., 2019, eq. 4, negated: the mean over parts with their whole and with all others.

    parts: [B, m, d], whole: [B, d], there: [B, m].
    """
    together, apart = [], []
    for (n, i), k in itertools.product(np.ndindex(there.shape), range(len(whole))):
        if there[n, i]:
            score = np.dot(parts[n, i], whole[k])
            (together if n == k else apart).append(softplus(-score if n == k else score))
    return np.mean(together) + np.mean(apart)


def contrastive(x, y, same, margin):
    """Hadsell et al., 2006, eq. 4, without the half. x, y: [B, d]."""
    losses = []
    for a, b, pair in zip(x, y, same, strict=True):
        distance = np.linalg.norm(a - b)
        losses.append(distance**2 if pair else max(0, margin - distance) ** 2)
    return np.mean(losses)


def squared(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def triplet(anchor, positive, negative, margin):
    """Schroff et al., 2015, the mean over the rows [B, d]."""
    triplets = zip(anchor, positive, negative, strict=True)
    return np.mean([max(0, squared(a, p) - squared(a, n) + margin) for a, p, n in triplets])


def triplet_mined(z, label, margin, mining):
    """The mean over the triplets of a batch that `mining` chooses. z: [B, d]; label -1: left out."""
    losses, rows = [], [n for n in range(len(z)) if label[n] >= 0]
    for anchor in rows:
        distance = lambda n: squared(z[anchor], z[n])
        positives = [distance(n) for n in rows if n != anchor and label[n] == label[anchor]]
        negatives = [distance(n) for n in rows if label[n] != label[anchor]]
        if not positives or not negatives:
            continue
        if mining == 'all':
            chosen = list(itertools.product(positives, negatives))
        elif mining == 'hard':
            chosen = [(max(positives), min(negatives))]
        else:
            farther = {p: [n for n in negatives if n > p] for p in positives}
            chosen = [(p, min(farther[p]) if farther[p] else max(negatives)) for p in positives]
        losses += [max(0, p - n + margin) for p, n in chosen]
    return np.mean(losses) if losses else 0.0


def n_pair(query, key, l2):
    """Sohn, 2016, and l2 times the mean over rows of |q|^2 + |k|^2. query, key: [B, d]."""
    losses = []
    for n, q in enumerate(query):
        others = [np.dot(q, key[m]) - np.dot(q, key[n]) for m in range(len(key)) if m != n]
        losses.append(np.log(1 + np.sum(np.exp(others))))
        losses[-1] += l2 * (np.dot(q, q) + np.dot(key[n], key[n]))
    return np.mean(losses)


def barlow_twins(z1, z2, weight):
    """Zbontar et al., 2021, eq. 1 and 2. z1, z2: [B, d]. -> (on, off) the diagonal, and the loss."""
    on = off = 0.0
    for i, j in np.ndindex(z1.shape[1], z1.shape[1]):
        x, y = z1[:, i], z2[:, j]
        pairs = zip(x - np.mean(x), y - np.mean(y), strict=True)
        scale = np.sqrt((np.var(x) + 1e-5) * (np.var(y) + 1e-5))
        correlation = np.mean([a * b for a, b in pairs]) / scale
        if i == j:
            on += (1 - correlation) ** 2
        else:
            off += correlation**2
    return on, off, on + weight * off


def vicreg(z1, z2, invariance=25, variance=25, covariance=1):
    """Bardes et al., 2022, as the official code has it. z1, z2: [B, d]. -> (invariance, variance,
    covariance) terms, and the loss."""
    size, d = z1.shape
    apart = np.mean([(z1[at] - z2[at]) ** 2 for at in np.ndindex(size, d)])
    hinges, squares = [], 0.0
    for z in (z1, z2):
        c = np.cov(z.T)  # by B - 1
        hinges += [max(0, 1 - np.sqrt(c[i, i] + 1e-4)) for i in range(d)]
        squares += sum(c[i, j] ** 2 for i, j in np.ndindex(d, d) if i != j) / d
    hinge = np.mean(hinges)
    return apart, hinge, squares, invariance * apart + variance * hinge + covariance * squares


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


def canonical_correlation(u, v, ridge=1e-3):
    """By the singular values of Q_u' Q_v (Bjorck & Golub, 1973), without covariances.

    Q is of the centred rows and further rows below them, which raise each variance by `ridge` times
    the mean variance and 1e-10.
    """

    def basis(x):
        x = x - x.mean(0)
        below = np.sqrt(ridge * np.square(x).sum() / x.shape[1] + 1e-10 * len(x))
        return np.linalg.qr(np.concatenate([x, below * np.eye(x.shape[1])]))[0][: len(x)]

    return np.linalg.svd(basis(u).T @ basis(v), compute_uv=False).mean()
