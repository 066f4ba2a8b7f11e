"""Info-Sentence BERT (IS-BERT; Zhang et al., 2020; arXiv:2009.12061): a sentence is the mean of what is
around its tokens, and each of these tells it from the other sentences of the batch."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from clr_jax import networks
from clr_jax.encoders.bert import BERT
from clr_jax.entry import Problem
from clr_jax.heads import torch_uniform
from clr_jax.losses.information import jensen_shannon
from clr_jax.method import Aux, Method, State, check_views
from clr_jax.networks import Conv, wide


class Sentences(NamedTuple):
    """What the network says of sentences of t tokens."""

    h: jax.Array  # [n, d]
    local: jax.Array  # [n, t, d], of each token and those around it
    seen: jax.Array  # [n, t], which tokens there are


class Grams(nn.Module):
    """Tokens int32 [n, t] -> `Sentences`: convolutions over an encoder's tokens."""

    encoder: BERT
    windows: tuple[int, ...]
    filters: int
    dtype: Any

    @nn.compact
    def __call__(self, x, rows=None):
        _, tokens, seen = self.encoder.states(x, rows)  # [n, t, e], [n, t]
        there = seen[..., None]
        tokens = jnp.where(there, tokens, 0)  # padding is nothing to its neighbours
        conv = partial(Conv, self.filters, bias=True, kernel_init=torch_uniform, dtype=self.dtype)
        grams = [conv(k, name=f'window{k}')(tokens) for k in self.windows]
        local = wide(nn.relu(jnp.concatenate(grams, -1)))  # [n, t, d]
        h = jnp.where(there, local, 0).sum(1) / jnp.maximum(there.sum(1), 1)
        return Sentences(h, local, seen)


def isbert(encoder, *, windows=(1, 3, 5), filters=256, bn_groups=1, dtype=None) -> Method:
    """The view is a sentence. Local features of its tokens are convolutions of several `windows`, with
    `filters` channels each and ReLU, side by side; h is their mean over the tokens (section 3.1).
    The information between both is maximised by the Jensen-Shannon estimator, with all tokens of the
    global batch (section 3.2); the discriminator is the dot product.

    `bn_groups`: every method is given it; here it does nothing, for there is no batch norm. dtype: of
    the convolutions' computation.
    """
    windows = tuple(windows)
    if not isinstance(encoder, BERT):
        raise Problem('config.encoder.name: isbert needs the tokens of a bert')
    if not windows or min(*windows, filters) < 1 or len(set(windows)) < len(windows):
        sizes = f'{windows}, filters={filters}'
        raise Problem(f'config.method.windows={sizes}: at least 1, each window once')
    network = Grams(encoder, windows, filters, dtype)

    def init(key, batch, pretrained=None):
        check_views(batch, 1)
        params, stats = networks.init(network, key, batch['views'][0], pretrained)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        found, stats = networks.apply(network, params, state.stats, batch['views'][0], key=key)
        value = jensen_shannon(found.local, found.h, found.seen)
        metrics = {'divergence': jnp.log(2) - value / 2}  # at most log 2
        return value, Aux(State(stats), metrics, found.h[:, None], found.h[:, None])

    def features(params, state, batch):
        return {'h': networks.evaluate(network, params, state.stats, batch['views'][0]).h}

    return Method(init, loss, features)
