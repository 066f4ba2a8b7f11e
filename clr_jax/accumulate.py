"""Large batches on few devices: a batch in pieces, exact or each as a batch of its own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from clr_jax import networks, parallel
from clr_jax.entry import Problem
from clr_jax.method import Aux, Method

ENCODERS = ('encoder', 'text_encoder', 'context')  # parts of networks


def exact(method: Method, kinds: tuple[type, ...], pieces: int) -> Method:
    """The method whose encoders, modules of these `kinds`, take this shard's rows in `pieces`, one after
    the other, and compute each again in the backward pass: of all rows only what they say is kept.
    Heads and loss have the whole batch, so that loss and gradient are those of one piece, but for
    rounding (as by the gradient cache of Gao et al., 2021; arXiv:2101.06983).

    Not so with batch norm, whose statistics would be of a piece: `init` raises Problem for an encoder
    that has it. What is random in an encoder is drawn by row, as `networks.Dropout` does.
    """

    def init(key, batch, pretrained=None):
        params, state = method.init(key, batch, pretrained)
        stats = method.variables(params, state)['batch_stats']
        if any(jax.tree.leaves(stats.get(part)) for part in ENCODERS):
            instead = 'take an encoder without (vit, or norm=layer), or config.accumulate.plain'
            raise Problem(
                f'config.accumulate.exact={pieces}: not exact with batch norm in the encoder, whose '
                f'statistics would be of a piece of the batch; {instead}, whose pieces are batches'
            )
        return params, state

    def loss(params, state, batch, *, key, time):
        with networks.in_pieces(kinds, pieces):
            return method.loss(params, state, batch, key=key, time=time)

    return method._replace(init=init, loss=loss)


def plain(gradient: Callable, pieces: int) -> Callable:
    """gradient(params, key, state, batch) -> ((loss, Aux), gradients of params) on a shard -> the same,
    as the mean over `pieces` of the batch, in the memory of one.

    Each piece is a batch of its own, with its negatives, batch statistics and key, and finds the state
    that the one before it left. Piece i is the rows i, i + pieces, i + 2 pieces, ... of the global
    batch, on any number of devices.
    """
    if pieces == 1:
        return gradient

    def mean(params, key, state, batch):
        def one(carry, given):
            state, total = carry
            number, piece = given
            (loss, aux), grads = gradient(params, jax.random.fold_in(key, number), state, piece)
            total = jax.tree.map(lambda t, g: t + g / pieces, total, grads)
            return (aux.state, total), (loss, aux._replace(state=()))

        cut = lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1)  # [pieces, n, ...]
        begin = state, parallel.vary(jax.tree.map(jnp.zeros_like, params))
        each = jnp.arange(pieces), jax.tree.map(cut, batch)
        (state, total), (loss, aux) = lax.scan(one, begin, each)
        h, z = (x.swapaxes(0, 1).reshape(-1, *x.shape[2:]) for x in (aux.h, aux.z))  # [b, v, ...]
        metrics = jax.tree.map(lambda x: x.mean(0), aux.metrics)
        return (loss.mean(), Aux(state, metrics, h, z)), total

    return mean
