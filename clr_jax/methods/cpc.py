"""Contrastive Predictive Coding (van den Oord et al., 2018; arXiv:1807.03748) of recordings and of
images as grids of patches; v2 (Henaff et al., 2019; arXiv:1905.09272) predicts in four directions,
from patches of one colour."""

import jax
import jax.numpy as jnp
import numpy as np

from clr_jax import networks, parallel
from clr_jax.encoders.wave import Wave
from clr_jax.entry import Problem, known
from clr_jax.heads import MLP
from clr_jax.losses.contrastive import mutual_information_bound, predictive_coding
from clr_jax.method import Aux, Method, State, check_views
from clr_jax.predictive import GRU, PixelCNN, Predictive


def cpc(
    encoder,
    *,
    context='gru',
    context_width=256,
    context_depth=1,
    steps=12,
    skip=0,
    directions=1,
    negatives=0,
    projector=(),
    scale=1.0,
    patch=64,
    stride=32,
    drop_colours=0.0,
    bn_groups=1,
    dtype=None,
) -> Method:
    """The encoder says h of each moment of a recording (config.encoder.name=wave) or of each patch of
    an image (any encoder of images). A context c is what follows from h so far; W_k c is to tell the
    position k rows further from others of the global batch, by exp(h' W_k c).

    context: 'gru', along time or down each column of patches, or 'pixelcnn', down the rows, of
    `context_width` and `context_depth`. Features are the mean of c by a gru, and that of h with a
    pixelcnn. steps, skip: k from skip + 1 to skip + steps. directions: 1, downwards, or 4, each with
    a context and W_k of its own. negatives: so many drawn for each example and k; 0: all positions
    of the batch. projector: widths, to predict a projection of h in its place. scale: of W_k c.
    patch, stride: of images, in pixels. drop_colours: the share of patches that lose two colours in
    training. dtype: of contexts and projector. `bn_groups`: every method is given it; here only the
    encoder may have batch norm.
    """
    known([context], ('gru', 'pixelcnn'), 'config.method.context')
    if directions not in (1, 4):
        raise Problem(f'config.method.directions={directions}: 1, downwards, or 4')
    if steps < 1 or skip < 0:
        raise Problem(f'config.method.steps={steps}, skip={skip}: at least 1 step, 0 skipped')
    make = {'gru': GRU, 'pixelcnn': PixelCNN}[context]
    contexts = tuple(make(context_width, context_depth, dtype) for _ in range(directions))
    # a bias of what is predicted would be the same for all candidates
    head = MLP(tuple(projector), None, True, None, kernel_std=0.0, dtype=dtype)
    targets = head if projector else None
    network = Predictive(encoder, targets, contexts, steps, patch, stride, drop_colours)
    ahead = np.arange(skip + 1, skip + steps + 1)

    def init(key, batch, pretrained=None):
        check_views(batch, 1)
        x = batch['views'][0]
        if (x.ndim == 2) != isinstance(encoder, Wave):
            raise Problem(
                'config.encoder.name: cpc needs a wave for recordings, no wave for images'
            )
        if x.ndim == 2 and directions > 1:
            raise Problem(f'config.method.directions={directions}: a recording has 1')
        if x.ndim > 2 and x.shape[1] < patch:
            raise Problem(f'config.method.patch={patch}: larger than views of {x.shape[1]} pixels')
        params, stats = networks.init(network, key, x, pretrained)
        rows = jax.eval_shape(lambda x: networks.evaluate(network, params, stats, x).h, x).shape[1]
        if rows <= ahead[-1]:
            few = f'looks {ahead[-1]} rows ahead, and a view has {rows}'
            raise Problem(f'config.method.steps={steps}, skip={skip}: {few}')
        return params, State(stats)

    def summary(positions):
        """Features [n, d]."""
        of = positions.c.mean(1) if context == 'gru' else positions.h
        return of.mean((1, 2))

    def loss(params, state, batch, *, key, time):
        found, stats = networks.apply(network, params, state.stats, batch['views'][0], key=key)
        b, t, w, d = found.z.shape
        number = np.arange(t * w).reshape(t, w)
        places = np.stack([np.rot90(number, r) for r in range(directions)])
        z, weights = found.z.reshape(b, t * w, d), scale * found.weights
        drawn = {'negatives': negatives, 'key': jax.random.fold_in(key, 1)}
        value = predictive_coding(z, found.c, weights, places, ahead, **drawn)
        candidates = 1 + negatives if negatives else b * t * w * parallel.size()
        metrics = {
            'information': mutual_information_bound(value, candidates),
            'information_ceiling': jnp.log(candidates),
        }
        # the two views of health: a row in the middle as the first step predicts it, and as it is
        row = (t - ahead[0]) // 2
        prediction = found.c[:, 0, row] @ weights[0, 0]  # [b, w, d]
        pair = jnp.stack([prediction, found.z[:, row + ahead[0]]], 1).reshape(b, 2, w * d)
        return value, Aux(State(stats), metrics, summary(found)[:, None], pair)

    def features(params, state, batch):
        return {'h': summary(networks.evaluate(network, params, state.stats, batch['views'][0]))}

    return Method(init, loss, features)
