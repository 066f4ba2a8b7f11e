"""LoRA (Hu et al., 2021; arXiv:2106.09685): an encoder adapted to labels by matrices of low rank
beside its frozen kernels."""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clr_jax import networks
from clr_jax.entry import Problem
from clr_jax.heads import classified
from clr_jax.losses.classification import cross_entropy
from clr_jax.method import Aux, Method, check_labels


class LoraState(NamedTuple):
    encoder: Any  # its parameters, frozen
    stats: Any  # its batch statistics, frozen


def lora(
    encoder,
    classes,
    *,
    rank=8,
    alpha=16.0,
    targets='(qkv|proj|fc1|fc2|conv[0-9]+|downsample_conv)/kernel$',
    label_smoothing=0.0,
    bn_groups=1,
) -> Method:
    """Each kernel W of the encoder whose path has the regular expression `targets` in it becomes
    W + alpha / rank * a b; only a, b and a linear classifier are trained.

    W is the matrix [in, out] of a dense layer, one for each layer of a stack, or [k k in, out] of a
    convolution. The encoder runs in evaluation mode, on running statistics and without dropout, in
    training too: so without a and b it is what it was. `bn_groups`: every method is given it; here
    it does nothing. What others see as the encoder has a b added to its kernels.
    """
    check_labels('lora', classes)
    if rank < 1:
        raise Problem(f'config.method.rank={rank}: must be at least 1')
    if not 0 <= label_smoothing < 1:
        raise Problem(f'config.method.label_smoothing={label_smoothing}: from 0 up, below 1')
    try:
        chosen = re.compile(targets)
    except re.error as error:
        raise Problem(f'config.method.targets={targets!r}: {error}') from error
    network = classified(encoder, classes)

    def init(key, batch, pretrained=None):
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        leaves = jax.tree.leaves_with_path(params['encoder'])
        kernels = {named(path): w for path, w in leaves}
        adapters = {}
        for number, (path, w) in enumerate(kernels.items()):
            if chosen.search(path):
                *stack, rows, columns = matrix(w.shape)
                draw = jax.random.fold_in(key, number)
                a = jax.random.uniform(draw, (*stack, rows, rank), w.dtype, -1, 1) / rows**0.5
                adapters[path] = {'a': a, 'b': jnp.zeros((*stack, rank, columns), w.dtype)}
        if not adapters:
            there = f'matches nothing in the encoder; it has {list(kernels)[:6]} ...'
            raise Problem(f'config.method.targets={targets!r} {there}')
        frozen = LoraState(params['encoder'], stats)
        return {'adapters': adapters, 'predictor': params['predictor']}, frozen

    def merge(params, state):
        def one(path, w):
            pair = params['adapters'].get(named(path))
            if pair is None:
                return w
            product = jnp.matmul(pair['a'], pair['b'], precision=jax.lax.Precision.HIGHEST)
            return w + alpha / rank * product.reshape(w.shape)

        merged = jax.tree.map_with_path(one, state.encoder)
        return {'encoder': merged, 'predictor': params['predictor']}

    def loss(params, state, batch, *, key, time):
        merged = merge(params, state)
        views = [networks.evaluate(network, merged, state.stats, x) for x in batch['views']]
        h, z, logits = networks.stack(views)  # [b, v, d], [b, v, d], [b, v, classes]
        value, top1 = cross_entropy(logits, batch['label'], label_smoothing)
        return value, Aux(state, {'top1': top1}, h, z)

    def features(params, state, batch):
        merged = merge(params, state)
        h, z, logits = networks.evaluate(network, merged, state.stats, batch['views'][0])
        return {'h': h, 'z': z, 'logits': logits}

    def variables(params, state):
        return {'params': merge(params, state), 'batch_stats': state.stats}

    return Method(init, loss, features, variables=variables)


def named(path) -> str:
    """'blocks/qkv/kernel' of the path to a leaf."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


def matrix(shape: tuple) -> tuple:
    """The shape of a kernel as a matrix [in, out], or as a stack of them [depth, in, out]."""
    stack = shape[:1] if len(shape) == 3 else ()
    return *stack, math.prod(shape[len(stack) : -1]), shape[-1]
