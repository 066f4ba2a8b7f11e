"""Losses that tell a positive from the negatives of the global batch.

Each takes this shard's rows and returns their mean; negatives are gathered from every shard, with
their gradients. Outside a mesh the arrays given are the whole batch:

>>> z = jax.random.normal(jax.random.key(0), (8, 2, 16))  # 8 examples, 2 views, 16 dimensions
>>> nt_xent(z, temperature=0.1).shape
()

The examples below say what a loss is by chance, when all embeddings are orthogonal. Temperatures
are above 0.

A shard compares its rows with those of the global batch in a matrix. Losses with a `chunk` take that
many of its columns at a time, with the same result and gradient, in memory that does not grow with
its size (`losses/chunked.py`). chunk=None is the whole matrix up to 2^24 entries on a device, and
so many at a time beyond.
"""

import jax
import jax.numpy as jnp
import optax
from jax.nn import softplus  # -log sigmoid(-x)

from clr_jax import parallel
from clr_jax.losses import chunked
from clr_jax.networks import normalize, wide

# Two views of each example


def nt_xent(z, temperature=0.1, *, normalized=True, constant='paper', negatives=None, chunk=None):
    """Normalised temperature-scaled cross entropy (Chen et al., 2020, eq. 1). z: [b, 2, d].

    z holds two views of each example. The mean over all 2B views of -log exp(s_ij / t) / sum_{k !=
    i} exp(s_ik / t), s the cosine similarity (`normalized=False`: the dot product), j the other
    view, k over the 2B - 1 other views of the global batch. constant='paper' is that mean;
    'official' is the official code's sum of the two directions, twice as large. It matters where
    the loss's scale does: weight decay against LARS, and the step of biases and norms, which LARS
    does not adapt. negatives: [K, d], further candidates of every view, such as a memory of earlier
    batches (Chen et al., 2020b, SimCLR v2); their rows are used as they are, all at a time.

    >>> z = jnp.eye(8).reshape(4, 2, 8)
    >>> print(f'{nt_xent(z):.4f}, log 7 is {jnp.log(7):.4f}')
    1.9459, log 7 is 1.9459
    """
    if columns := chunked.size(2 * len(z), chunk):
        views = _two_views(z, normalized)
        rows = views.reshape(-1, z.shape[-1])  # [2b, d]
        lse, *_ = chunked.others(rows / temperature**0.5, None, columns)  # [2b]
        positive = (rows * views[:, ::-1].reshape(rows.shape)).sum(1) / temperature
        if negatives is not None:
            further = parallel.score(negatives, rows) / temperature  # [2b, K]
            lse = jnp.logaddexp(lse, jax.nn.logsumexp(further, 1))
        return _constant(constant) * (lse - positive).mean()
    rows, keys, siblings, itself = _against_all(z, normalized)
    logits = jnp.where(itself, -jnp.inf, rows @ keys.T)  # [2b, 2B]
    if negatives is not None:
        logits = jnp.concatenate([logits, parallel.score(negatives, rows)], 1)  # [2b, 2B + K]
    errors = optax.softmax_cross_entropy_with_integer_labels(logits / temperature, siblings)  # [2b]
    return _constant(constant) * errors.mean()


def nt_logistic(z, temperature=0.1, *, normalized=True, mining='all'):
    """Logistic loss of positives and negatives (Chen et al., 2020, table 2). z: [b, 2, d].

    -log sigmoid(s+ / t) - mean over the 2B - 2 negatives of log sigmoid(-s- / t), mean over the 2B
    views. The paper does not say how the negatives are weighted; a mean keeps the two terms equally
    heavy at any batch size.

    mining='semi_hard' takes, instead of that mean, one negative: of those farther than the positive
    (s- < s+) the closest. A view with none has no negative term. This is our reading of the paper's
    "closest in distance, but farther than positive examples" for a loss that has no margin.

    >>> z = jnp.eye(8).reshape(4, 2, 8)
    >>> print(f'{nt_logistic(z):.4f}, 2 log 2 is {2 * jnp.log(2):.4f}')
    1.3863, 2 log 2 is 1.3863
    """
    similarity, positive, negative = _similarities(z, normalized)
    if _semi_hard(mining):
        farther = negative & (similarity < positive)
        closest = jnp.where(farther, similarity, -jnp.inf).max(1)  # [2b]
        repel = softplus(closest / temperature)  # [2b]: 0 without a semi-hard negative
    else:
        repel = _mean(softplus(similarity / temperature), negative)  # [2b]
    return (softplus(-positive[:, 0] / temperature) + repel).mean()


def margin(z, margin=0.4, *, normalized=True, mining='all'):
    """Hinge between the positive and the negatives (Chen et al., 2020, table 2). z: [b, 2, d].

    The mean over the 2B - 2 negatives of max(s- - s+ + margin, 0), mean over the 2B views; s is the
    cosine similarity (`normalized=False`: the dot product). The paper tries margins of 0, 0.4, 0.8
    and 1.6.

    mining='semi_hard' takes the mean over the negatives within the margin but farther than the
    positive, s+ - margin < s- < s+, alone; a view without such a negative counts as 0.

    >>> z = jnp.eye(8).reshape(4, 2, 8)
    >>> print(f'{margin(z, 0.4):.1f}')
    0.4
    """
    similarity, positive, negative = _similarities(z, normalized)
    hinge = jnp.maximum(similarity - positive + margin, 0)  # [2b, 2B]
    if _semi_hard(mining):
        negative &= (similarity < positive) & (hinge > 0)
    return _mean(hinge, negative).mean()


def invariant_spread(z, temperature=0.1):
    """Invariant and spreading features (Ye et al., 2019; arXiv:1904.03436). z: [b, 2, d].

    Each view i classifies the views of the batch: P_k is the softmax of s_ik / t over the 2B - 1
    others. The mean over the 2B views of -log P+ - sum over the 2B - 2 negatives of log(1 - P-). As
    in the official code the candidates are constants: the gradient reaches a view as i alone.

    >>> z = jnp.eye(8).reshape(4, 2, 8)
    >>> print(f'{invariant_spread(z):.4f}, {jnp.log(7) + 6 * jnp.log(7 / 6):.4f}')
    2.8708, 2.8708
    """
    rows, keys, siblings, itself = _against_all(z, True)
    similarity = rows @ jax.lax.stop_gradient(keys).T  # [2b, 2B]
    logits = jnp.where(itself, -jnp.inf, similarity / temperature)
    positive = siblings[:, None] == jnp.arange(len(keys))
    attract = optax.softmax_cross_entropy_with_integer_labels(logits, siblings)  # [2b]
    repel = -jnp.where(positive | itself, 0, _log_rest(logits)).sum(1)  # [2b]
    return (attract + repel).mean()


def debiased(z, temperature=0.5, *, tau_plus=0.1):
    """Debiased contrastive loss (Chuang et al., 2020; arXiv:2007.00224). z: [b, 2, d].

    Drawn at random, a share tau_plus of the N = 2B - 2 negatives is of the class of the positive;
    their part is estimated by the positive and taken out: with e = exp(s / t), the mean over the 2B
    views of -log e+ / (e+ + G), G = max((sum of e- - N tau_plus e+) / (1 - tau_plus), N exp(-1 /
    t)). The maximum is with the least that the sum of e- can be. tau_plus=0 is `nt_xent`.

    >>> z = jnp.eye(8).reshape(4, 2, 8)
    >>> print(f'{debiased(z):.4f}, log 7 is {jnp.log(7):.4f}')
    1.9459, log 7 is 1.9459
    """
    return hard_negative(z, temperature, tau_plus=tau_plus, beta=0.0)


def hard_negative(z, temperature=0.5, *, tau_plus=0.1, beta=1.0):
    """Debiased loss of hard negatives (Robinson et al., 2021; arXiv:2010.04592).

    z: [b, 2, d]. `debiased`, where the negatives count in proportion to exp(beta s / t) and not
    equally: in the sum of e-, each has the weight w = N exp(beta s / t) / sum of exp(beta s / t).
    The weights have a gradient too, as in the official code. beta=0 is `debiased`.

    >>> z = jnp.eye(8).reshape(4, 2, 8)
    >>> print(f'{hard_negative(z):.4f}, log 7 is {jnp.log(7):.4f}')
    1.9459, log 7 is 1.9459
    """
    similarity, positive, negative = _similarities(z, True)
    number = negative.shape[1] - 2  # N
    repel = jnp.where(negative, similarity / temperature, -jnp.inf)  # [2b, 2B]
    attract = positive / temperature  # [2b, 1]
    # relative to the largest exponent of the row, which cancels in the loss
    largest = jax.lax.stop_gradient(jnp.maximum(repel.max(1, keepdims=True), attract))
    plus, minus = jnp.exp(attract - largest), jnp.exp(repel - largest)
    hardness = jnp.where(negative, beta * similarity / temperature, -jnp.inf)
    weighted = number * (jax.nn.softmax(hardness, axis=1) * minus).sum(1, keepdims=True)  # [2b, 1]
    corrected = (weighted - number * tau_plus * plus) / (1 - tau_plus)
    corrected = jnp.maximum(corrected, number * jnp.exp(-1 / temperature - largest))
    return (jnp.log(plus + corrected) - (attract - largest)).mean()


# Labels


def sup_con(z, label, temperature=0.1, *, base_temperature=None, chunk=None):
    """Supervised contrastive loss (Khosla et al., 2020, eq. 2). z: [b, v, d], label: [b].

    The mean over all v B views of the mean over its positives p of -log exp(s_ip / t) / sum_{k !=
    i} exp(s_ik / t), s the cosine similarity, k over the v B - 1 other views of the global batch.
    Positives are the other views of all examples of the same label; of an example with label -1,
    its own. A view without positives counts as 0. With base_temperature the loss is multiplied by
    temperature / base_temperature, as in the official code (0.07).

    The mean over positives stands outside the logarithm. The paper's other form is not offered:
    inside, dividing by their number adds a constant, without effect on the gradient, and the
    accuracy on ImageNet is 67.4, not 78.7.

    >>> z, label = jnp.eye(8).reshape(4, 2, 8), jnp.array([0, 0, 1, -1])
    >>> print(f'{sup_con(z, label):.4f}, log 7 is {jnp.log(7):.4f}')
    1.9459, log 7 is 1.9459
    """
    views, rows = z.shape[1], normalize(z).reshape(-1, z.shape[-1])  # [v b, d]
    # without a label an example is a class of its own
    label = jnp.where(label >= 0, label, -1 - parallel.positions(len(label)))
    label = jnp.repeat(label, views)  # [v b]
    if columns := chunked.size(len(rows), chunk):
        scaled = rows / temperature**0.5
        lse, similar, number = chunked.others(scaled, label, columns)  # [v b] each
        value = jnp.where(number > 0, lse - similar / jnp.maximum(number, 1), 0).mean()
    else:
        keys, labels = parallel.gather(rows), parallel.gather(label)  # [v B, d], [v B]
        itself = parallel.positions(len(rows))[:, None] == jnp.arange(len(keys))  # [v b, v B]
        logits = jnp.where(itself, -jnp.inf, rows @ keys.T / temperature)
        positive = (label[:, None] == labels) & ~itself
        value = _mean(-jax.nn.log_softmax(logits, 1), positive).mean()
    return value if base_temperature is None else value * temperature / base_temperature


# Pairs


def info_nce(
    query,
    key,
    temperature=0.1,
    *,
    negatives=None,
    hard=None,
    hard_weight=0.0,
    score=None,
    chunk=None,
):
    """InfoNCE (van den Oord et al., 2018, eq. 4). query: [b, d], key: [b, e], row by row a positive.

    The candidates of a query are the keys of the global batch, or its own key and the rows of
    `negatives` [K, e]. score(query [m, d], key [n, e]) -> [m, n] is the log of the paper's f, of a
    context and what it predicts; the default is the dot product (e = d), of rows as they are: pass
    unit vectors for cosine similarities. `bilinear` and `critic` have parameters to learn. `chunk`
    is for dot products with the keys of the batch alone.

    hard: [b, e], further keys, each the negative of its row and candidates of every query of the
    global batch; hard_weight is added to the logit of a query and its own (SimCSE; Gao et al.,
    2021, whose weight is its exponential); -inf: its own is no candidate.

    >>> print(f'{info_nce(jnp.zeros((8, 4)), jnp.eye(8, 4)):.4f}, log 8 is {jnp.log(8):.4f}')
    2.0794, log 8 is 2.0794
    """
    query, key = wide(query), wide(key)
    if negatives is None and hard is None and score is None:
        if columns := chunked.size(len(query), chunk):
            scaled = query / temperature
            lse = chunked.log_sum_exp(scaled, parallel.gather(key), columns)  # [b]
            return (lse - (scaled * key).sum(1)).mean()
    elif chunk is not None:
        raise ValueError(f'chunk={chunk}: not with other negatives or a score of your own')
    score = score or (lambda query, key: parallel.score(key, query))
    mine = parallel.positions(len(query))
    if negatives is None:
        logits = score(query, parallel.gather(key)) / temperature  # [b, B]
        target = mine
    else:
        positive = jax.vmap(lambda q, k: score(q[None], k[None])[0])(query, key)  # [b, 1]
        logits = jnp.concatenate([positive, score(query, negatives)], 1) / temperature  # [b, 1 + K]
        target = jnp.zeros(len(query), jnp.int32)
    if hard is not None:
        against = score(query, parallel.gather(wide(hard))) / temperature  # [b, B]
        own = mine[:, None] == jnp.arange(against.shape[1])
        logits = jnp.concatenate([logits, against + jnp.where(own, hard_weight, 0.0)], 1)
    return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()


def clip(image, text, log_scale, *, chunk=None):
    """Which text is the image's, and which image the text's (Radford et al., 2021; CLIP).

    image, text: [b, d], row by row of a pair. With logits exp(log_scale) x cosine similarities, the
    mean of the cross entropies of an image among the texts of the global batch and of a text among
    its images (arXiv:2103.00020, fig. 3). log_scale: a scalar to learn, initially log(1 / 0.07);
    the official code keeps it at log(100) at most, which is the caller's part.

    >>> image, text = jnp.eye(8, 16), jnp.eye(8, 16, 8)
    >>> print(f'{clip(image, text, jnp.log(1 / 0.07)):.4f}, log 8 is {jnp.log(8):.4f}')
    2.0794, log 8 is 2.0794
    """
    image, text = normalize(image), normalize(text)
    temperature = jnp.exp(-jnp.asarray(log_scale, image.dtype))
    of_image = info_nce(image, text, temperature, chunk=chunk)
    return (of_image + info_nce(text, image, temperature, chunk=chunk)) / 2


def sigmoid(image, text, log_scale, bias, *, chunk=None):
    """Of every image and text: are they a pair? (Zhai et al., 2023; SigLIP, arXiv:2303.15343).

    image, text: [b, d], row by row of a pair. With logits exp(log_scale) x cosine similarities +
    bias, the mean over images of the sum over the B texts of the global batch of -log sigmoid(+-
    logit), + for its own text. log_scale, bias: scalars to learn, initially log(10) and -10.

    >>> image, text = jnp.eye(8, 16), jnp.eye(8, 16, 8)
    >>> print(f'{sigmoid(image, text, 0.0, 0.0):.4f}, 8 log 2 is {8 * jnp.log(2):.4f}')
    5.5452, 8 log 2 is 5.5452
    """
    image, texts = normalize(image), parallel.gather(normalize(text))  # [b, d], [B, d]
    log_scale, bias = (jnp.asarray(x, image.dtype) for x in (log_scale, bias))
    image *= jnp.exp(log_scale)
    if columns := chunked.size(len(image), chunk):
        return chunked.logistic(image, texts, bias, columns).mean()
    own = parallel.positions(len(image))[:, None] == jnp.arange(len(texts))  # [b, B]
    return softplus(jnp.where(own, -1, 1) * (image @ texts.T + bias)).sum(1).mean()


def predictive_coding(z, c, weights, places, ahead, *, negatives=0, key=None):
    """Contrastive Predictive Coding (van den Oord et al., 2018, eq. 4), in r directions of a grid.

    z: [b, m, d], what there is at m positions of an example. places: [r, t, w], their numbers in the
    order of each direction, row after row. c: [b, r, t, w, e], the context of rows 0 to t. weights:
    [K, r, e, d] and ahead: [K], W_k and how many rows k looks ahead. The mean over k and over all
    positions that have one k rows further of -log exp(z+' W_k c) / sum of exp(z' W_k c): z+ is that
    position, z all positions of the global batch; or z+ and as many as `negatives`, drawn by `key`
    among them for each example and k, without z+. One k at a time takes memory, again in the
    backward pass.

    >>> z, c, weights = jnp.zeros((2, 4, 3)), jnp.ones((2, 1, 4, 1, 5)), jnp.ones((1, 1, 5, 3))
    >>> places = jnp.arange(4).reshape(1, 4, 1)
    >>> print(f'{predictive_coding(z, c, weights, places, (1,)):.4f}, log 8 is {jnp.log(8):.4f}')
    2.0794, log 8 is 2.0794
    """
    z, c = wide(z), wide(c)
    b, m, d = z.shape
    every = parallel.gather(z).reshape(-1, d)  # [B m, d]
    rows, t = parallel.positions(b), c.shape[2]

    def step(given):
        k, weights = given
        prediction = jnp.einsum('brtwe,red->brtwd', c, weights)
        place = jnp.roll(places, -k, 1)  # [r, t, w], the last k rows without meaning
        number = rows[:, None, None, None] * m + place  # [b, r, t, w] among `every`
        if negatives:
            own = jax.random.fold_in(key, k)
            draw = lambda row: jax.random.randint(
                jax.random.fold_in(own, row), (negatives,), 0, len(every), jnp.int32
            )
            drawn = jax.vmap(draw)(rows)  # [b, n]
            noise = jnp.einsum('brtwd,bnd->brtwn', prediction, every[drawn])
            noise = jnp.where(drawn[:, None, None, None] == number[..., None], -jnp.inf, noise)
            positive = (prediction * z[:, place]).sum(-1, keepdims=True)  # [b, r, t, w, 1]
            logits, number = jnp.concatenate([positive, noise], -1), jnp.zeros_like(number)
        else:
            logits = prediction @ every.T  # [b, r, t, w, B m]
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, number)
        known = (jnp.arange(t) < t - k)[:, None]  # [t, 1]
        return jnp.where(known, errors, 0).sum() / (t - k) / (errors.size // t)

    step = jax.checkpoint(step, prevent_cse=False)
    return jax.lax.map(step, (jnp.asarray(ahead), weights)).mean()


def bilinear(weights):
    """A score for `info_nce`: query weights key' (van den Oord et al., 2018, eq. 3).

    weights: [d, e].

    >>> query, key = jnp.ones((8, 4)), jnp.ones((8, 3))
    >>> print(f'{info_nce(query, key, 1.0, score=bilinear(jnp.ones((4, 3)))):.4f}')
    2.0794
    """
    return lambda query, key: query @ weights @ key.T


def critic(params):
    """A score for `info_nce`: a perceptron of a query and a key side by side, with ReLU.

    params: kernel1 [d + e, hidden], bias1 [hidden], kernel2 [hidden, 1], bias2 [1]. Every pair
    passes it: m queries and n keys take memory for m n hidden numbers.

    >>> params = {'kernel1': jnp.ones((7, 5)), 'bias1': jnp.zeros(5)}
    >>> params |= {'kernel2': jnp.ones((5, 1)), 'bias2': jnp.zeros(1)}
    >>> critic(params)(jnp.ones((8, 4)), jnp.ones((6, 3))).shape
    (8, 6)
    """

    def score(query, key):
        # the first layer of a pair is the sum of those of its halves
        of_query, of_key = jnp.split(params['kernel1'], [query.shape[-1]])
        hidden = (query @ of_query)[:, None] + key @ of_key + params['bias1']  # [m, n, hidden]
        return (jax.nn.relu(hidden) @ params['kernel2'] + params['bias2'])[..., 0]  # [m, n]

    return score


def nce(positive, noise, log_noise):
    """Noise-contrastive estimation (Gutmann & Hyvarinen, 2010): logistic regression, data or noise?

    positive: [b], noise: [b, m], the normalised model's log-probabilities of an example and of its
    m draws from the noise. log_noise: the log of m times the noise's density at them, a scalar or
    [b, 1 + m], the example first. The mean over rows of -log h(example) - sum over draws of log (1
    - h(draw)), h = sigmoid(log p - log_noise) = p / (p + m p_noise). The sum is over draws because m
    stands in h.

    >>> print(f'{nce(jnp.zeros(4), jnp.zeros((4, 3)), 0.0):.4f}, 4 log 2 is {4 * jnp.log(2):.4f}')
    2.7726, 4 log 2 is 2.7726
    """
    logits = jnp.concatenate([positive[:, None], noise], 1)
    logits = wide(logits) - log_noise  # [b, 1 + m]
    return (softplus(-logits[:, 0]) + softplus(logits[:, 1:]).sum(1)).mean()


def mutual_information_bound(loss, candidates: int):
    """log N - L, in nats: what an InfoNCE loss L over N candidates, one of them positive, shows.

    A lower bound, in expectation, of the mutual information of the two sides (van den Oord et al.,
    2018, eq. 5). It can never exceed its ceiling log N, however much information there is.
    """
    return jnp.log(candidates) - loss


def _against_all(z, normalized):
    """z [b, 2, d] -> its rows [2b, d], all rows [2B, d], each row's sibling [2b], and where a row
    meets itself [2b, 2B]."""
    b, _, d = z.shape
    z = _two_views(z, normalized)
    # example-major: the sibling of row r is r ^ 1
    keys = parallel.gather(z).reshape(-1, d)  # [2B, d]
    numbers = parallel.positions(2 * b)  # [2b]
    return z.reshape(-1, d), keys, numbers ^ 1, numbers[:, None] == jnp.arange(len(keys))


def _two_views(z, normalized):
    """z [b, 2, d] in float32 at least, normalised or not; another number of views is refused."""
    if z.shape[1] != 2:
        raise ValueError(
            f'this loss is defined on two views of each example, [b, 2, d]; got {z.shape}'
        )
    return normalize(z) if normalized else wide(z)


def _similarities(z, normalized):
    """z [b, 2, d] -> of its rows and all rows [2b, 2B], of its siblings [2b, 1], and where a row
    meets a negative [2b, 2B]."""
    rows, keys, siblings, itself = _against_all(z, normalized)
    similarity = rows @ keys.T
    positive = siblings[:, None] == jnp.arange(len(keys))
    of_sibling = jnp.where(positive, similarity, 0).sum(1, keepdims=True)
    return similarity, of_sibling, ~(positive | itself)


def _log_rest(logits):
    """log(1 - softmax) of every entry of rows [m, n], exact also where the softmax rounds to 1."""
    log_p = jax.nn.log_softmax(logits, 1)
    largest = log_p.argmax(1, keepdims=True) == jnp.arange(log_p.shape[1])
    # the largest from the sum of the others, which are each at most 1/2
    of_largest = jax.nn.logsumexp(jnp.where(largest, -jnp.inf, log_p), 1, keepdims=True)
    of_others = jnp.log1p(-jnp.exp(jnp.where(largest, -1, log_p)))
    return jnp.where(largest, of_largest, of_others)


def _mean(x, where):
    """The mean of each row of [m, n] over its entries in `where`; 0 without any."""
    return jnp.where(where, x, 0).sum(1) / jnp.maximum(where.sum(1), 1)


def _constant(name):
    if name not in ('paper', 'official'):
        raise ValueError(
            f'constant={name!r}: "paper" (mean over views) or "official" (sum of both directions)'
        )
    return {'paper': 1.0, 'official': 2.0}[name]


def _semi_hard(mining):
    if mining not in ('all', 'semi_hard'):
        raise ValueError(f'mining={mining!r}: "all" or "semi_hard" negatives')
    return mining == 'semi_hard'
