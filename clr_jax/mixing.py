"""Mixup (Zhang et al., 2017; arXiv:1710.09412) and CutMix (Yun et al., 2019; arXiv:1905.04899): images
that show two examples and have the labels of both, by share."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import betaincinv

from clr_jax import networks, parallel
from clr_jax.entry import Problem


def check(mixup: float, cutmix: float):
    """Refuse what describes no distribution."""
    for name, value in (('mixup', mixup), ('cutmix', cutmix)):
        if value < 0:
            raise Problem(f'config.method.{name}={value}: both parameters of a Beta, or 0 for none')


def mixed(views: Sequence[jax.Array], label, key, mixup: float, cutmix: float):
    """Views of images [b, s, s, 3] and their labels [b], each row with another -> (the views in 0..1,
    (the other's label [b], the share of the own label [b, v])).

    The other of row r of the global batch is r ^ 1: examples come in random order, and none leaves
    its device. Each row and view draws for itself. mixup, cutmix: the two parameters of the Beta that
    the share is drawn from; 0: never; with both, one or the other, as likely.
    """
    b = len(label)
    if b % 2 or any(x.ndim != 4 for x in views):
        raise Problem(f'mixup and cutmix need images, an even number on each device (not {b})')
    swapped = lambda x: jnp.asarray(x).reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
    rows, made, shares = parallel.positions(b), [], []
    for number, x in enumerate(map(networks.view, views)):
        own = jax.random.fold_in(key, number)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(own, rows)
        weight = jax.vmap(lambda key: weights(key, x.shape[1], mixup, cutmix))(keys)  # [b, s, s]
        shares.append(weight.mean((1, 2)))
        weight = weight[..., None].astype(x.dtype)
        made.append(weight * x + (1 - weight) * swapped(x))
    return made, (swapped(label), jnp.stack(shares, 1))


def weights(key, size: int, mixup: float, cutmix: float):
    """[size, size]: the share of the own picture in each pixel. In CutMix 0 in a square of the other
    picture and 1 around it; where it reaches beyond the border, it covers less than was drawn."""
    coin, blend, area, place = jax.random.split(key, 4)
    share = beta(blend, mixup) if mixup else 1.0
    if not cutmix:
        return jnp.full((size, size), share)
    half = jnp.floor(size * jnp.sqrt(1 - beta(area, cutmix)) / 2)
    centre = jax.random.randint(place, (2, 1), 0, size)
    within = (centre - half <= jnp.arange(size)) & (jnp.arange(size) < centre + half)  # [2, s]
    box = jnp.where(within[0, :, None] & within[1], 0.0, 1.0)
    return jnp.where(jax.random.bernoulli(coin), box, share) if mixup else box


def beta(key, parameter: float):
    """A draw from Beta(parameter, parameter), by quantiles: linear between 4,097 of them, without the
    loop of `jax.random.beta`."""
    grid = np.linspace(0, 1, 4097)
    return jnp.interp(jax.random.uniform(key), grid, betaincinv(parameter, parameter, grid))
