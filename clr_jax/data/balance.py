"""The order of an epoch in which examples have other shares than one place each, in closed form."""

from collections.abc import Callable

import numpy as np

from clr_jax.data import index

UNIT = 2**20  # parts of a place in the order: integers, so that no rounding decides


def balanced(labels, balance: float) -> Callable:
    """-> order(place [b] in [0, n), key) -> (examples [b] int64, turns [b]) of an epoch, for the labels
    [n] of n examples (-1, no label, is a class like any).

    A class of n_j examples has the share n_j^(1 - balance) / sum_k n_k^(1 - balance) of the epoch, to one
    place: 0 is instance-balanced sampling, 1/2 square-root, 1 class-balanced (Kang et al., 2020,
    "Decoupling representation and classifier for long-tailed recognition", arXiv:1910.09217, eq. 1,
    with q = 1 - balance). Places are dealt by systematic sampling (Madow, 1949), whose offset is drawn
    for each epoch, so that the mean over epochs is exact, and within a class without replacement:
    each example comes for the k-th time, its turn k - 1, only after all have come k - 1 times.
    """
    _, counts = np.unique(labels, return_counts=True)  # [classes]
    shares = counts.astype(np.float64) ** (1 - balance)
    return dealt(np.argsort(labels, kind='stable'), counts, shares)


def weighted(weights) -> Callable:
    """The same for the weights [n] of n examples, at least 0: each has the share w_i / sum_k w_k of the
    epoch, to one place. Which of those of less than a place come together is chance, settled once."""
    n = len(weights)
    members = index.permutation(np.arange(n), n, index.key('weights'))
    return dealt(members, np.ones(n, np.int64), np.asarray(weights, np.float64)[members])


def dealt(members, counts, shares) -> Callable:
    """The order of the `members` [n], group after group with these `counts` [groups], in which groups have
    these `shares` [groups]. Like the permutation that it is made of, it is a function of its arguments,
    in no state.
    """
    n, start = len(members), np.cumsum(counts) - counts
    total = np.cumsum(shares)
    ends = np.round(total / total[-1] * n * UNIT).astype(np.int64)  # [groups]
    begins = np.append(0, ends[:-1])

    def order(place, key):
        slot = index.permutation(place, n, key)
        shift = int(index.uniform(key, 'balance') * UNIT)
        of = np.searchsorted(ends, slot * UNIT + shift, side='right')  # the group of each place
        number = slot + (shift - begins[of]) // UNIT  # of the place among those of its group
        turn, within = np.divmod(number, counts[of])
        keys = index.fold(index.fold(key, of), turn)
        own = index.permutation(within, counts[of], keys)
        return members[start[of] + own], turn

    return order
