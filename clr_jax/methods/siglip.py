"""SigLIP (Zhai et al., 2023; arXiv:2303.15343): of every image and text of the batch, whether they
belong together."""

import math

import jax.numpy as jnp

from clr_jax import networks, towers
from clr_jax.entry import Problem
from clr_jax.losses import contrastive
from clr_jax.method import Aux, Method, State


def siglip(
    encoder,
    text_encoder,
    *,
    dim=768,
    temperature=0.1,
    bias=-10.0,
    bn_groups=1,
    dtype=None,
) -> Method:
    """The views are an image and the tokens of its text; z are the embeddings of both, each encoder's
    features behind a linear projection without bias.

    dim: of the embeddings. temperature, bias: at the start; a pair's logit is its cosine by a scale
    of 1 / temperature, learned as its logarithm, plus a bias, learned too, which begins low because
    most pairs do not belong together. dtype: of the projections' computation. `bn_groups`: every
    method is given it; here it does nothing, for the projections have no batch norm.

    Scale and bias do not decay: a group with the pattern '(bias|scale)$' in the config has them. A
    pre-trained image tower that is frozen, by a group with '^encoder/', makes it SigLiT.
    """
    network = towers.towers('siglip', encoder, text_encoder, dim, dtype)
    if not temperature > 0:
        raise Problem(f'config.method.temperature={temperature}: must be above 0')

    def init(key, batch, pretrained=None):
        similarity = {'log_scale': math.log(1 / temperature), 'bias': bias}
        params, stats = towers.init(network, key, batch, pretrained, **similarity)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        images, tokens = batch['views']
        both, stats = networks.apply(network, params, state.stats, images, key=key, tokens=tokens)
        log_scale, bias = (params['similarity'][name] for name in ('log_scale', 'bias'))
        value = contrastive.sigmoid(both.image, both.text, log_scale, bias)
        z = jnp.stack([both.image, both.text], 1)  # [b, 2, e]
        return value, Aux(
            State(stats), {'scale': jnp.exp(log_scale), 'bias': bias}, both.h[:, None], z
        )

    return Method(init, loss, towers.features(network))
