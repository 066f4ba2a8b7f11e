"""Stateless order and randomness in closed form: permutations of the examples and named draws.

Everything is a function of its arguments in 64-bit integers, the same on every machine and with
every version of the libraries: a run resumes at any step, on any number of processes, with no state
to save.
"""

import hashlib
from functools import cache

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@np.errstate(over='ignore')  # arithmetic modulo 2**64 is meant
def fold(key, word):
    """A new key for each pair of `key` and `word` (uint64, integer or string; arrays broadcast)."""
    if isinstance(word, str):
        word = _named(word)
    return mix(np.asarray(key, np.uint64) ^ mix(np.asarray(word).astype(np.uint64) + GOLDEN))


def key(*words):
    """The uint64 key of (seed, epoch, ...): `words`, which may be arrays, folded in one by one."""
    result = np.uint64(0)
    for word in words:
        result = fold(result, word)
    return result


def uniform(keys, name: str, n: int | None = None):
    """The draw called `name` of each key, [b] uint64 -> [b], or [b, n], float64 in [0, 1)."""
    bits = fold(keys, name)
    if n is not None:
        bits = fold(bits[..., None], np.arange(n))
    return (bits >> np.uint64(11)) * 2.0**-53


@np.errstate(over='ignore')
def permutation(position, n, key):
    """The permutation of range(n) that `key` names, at `position` [b], int in [0, n) -> [b] int64. Of
    several, `n` and `key` are arrays [b], too.

    A Feistel network of six rounds on the next even power of two, walked until it lands in range
    (fewer than four steps on average): a bijection in constant memory.
    """
    n = np.asarray(n)
    bits = np.frexp(n - 1.0)[1]  # of n - 1
    half = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
    rounds = np.moveaxis(fold(fold(key, n)[..., None], np.arange(6)), -1, 0)  # [6] or [6, b]
    part = lambda each, at: each[at] if np.ndim(each) else each

    def encrypt(x, at):
        shift = part(half, at)
        mask = (np.uint64(1) << shift) - np.uint64(1)
        left, right = x >> shift, x & mask
        for k in rounds:
            left, right = right, left ^ (mix(right + part(k, at)) & mask)
        return left << shift | right

    x = encrypt(np.atleast_1d(position).astype(np.uint64), slice(None))
    while (outside := x >= n.astype(np.uint64)).any():
        x[outside] = encrypt(x[outside], outside)
    return x.astype(np.int64)


def mix(z):
    """The finalizer of SplitMix64 (Steele, Lea & Flood, 2014): a bijection that mixes all bits."""
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


@cache
def _named(name: str):
    return np.uint64(
        int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), 'little')
    )
