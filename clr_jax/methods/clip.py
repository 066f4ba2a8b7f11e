"""CLIP (Radford et al., 2021; arXiv:2103.00020): an image tells its text from the others of the batch,
and a text its image."""

import math

import jax.numpy as jnp

from clr_jax import networks, parallel, towers
from clr_jax.entry import Problem
from clr_jax.losses import contrastive
from clr_jax.losses.contrastive import mutual_information_bound
from clr_jax.method import Aux, Method, State


def clip(
    encoder,
    text_encoder,
    *,
    dim=512,
    temperature=0.07,
    max_scale=100.0,
    bn_groups=1,
    dtype=None,
) -> Method:
    """The views are an image and the tokens of its text; z are the embeddings of both, each encoder's
    features behind a linear projection without bias (figure 3).

    dim: of the embeddings. temperature: at the start; the scale of the cosines, 1 / temperature, is
    learned as its logarithm and kept between 1 and max_scale after every step. dtype: of the
    projections' computation. `bn_groups`: every method is given it; here it does nothing, for the
    projections have no batch norm.

    Only kernels decay: a group with the pattern '(bias|scale)$' in the config has the scale too. A
    pre-trained image tower that is frozen, by a group with '^encoder/', makes it LiT (Zhai et al.,
    2021; arXiv:2111.07991); its batch statistics, if it has any, still follow the data.
    """
    network = towers.towers('clip', encoder, text_encoder, dim, dtype)
    if not max_scale > 1:
        raise Problem(f'config.method.max_scale={max_scale}: must be above 1')
    if not 1 / max_scale <= temperature <= 1:
        within = f'from 1 / max_scale={1 / max_scale:g} to 1'
        raise Problem(f'config.method.temperature={temperature}: {within}')

    def init(key, batch, pretrained=None):
        similarity = {'log_scale': math.log(1 / temperature)}
        params, stats = towers.init(network, key, batch, pretrained, **similarity)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        images, tokens = batch['views']
        both, stats = networks.apply(network, params, state.stats, images, key=key, tokens=tokens)
        log_scale = params['similarity']['log_scale']
        value = contrastive.clip(both.image, both.text, log_scale)
        candidates = len(tokens) * parallel.size()
        information = mutual_information_bound(value, candidates)
        metrics = {'scale': jnp.exp(log_scale), 'information': information}
        metrics['information_ceiling'] = jnp.log(candidates)
        z = jnp.stack([both.image, both.text], 1)  # [b, 2, e]
        return value, Aux(State(stats), metrics, both.h[:, None], z)

    def update(params, state, *, key, time):
        log_scale = jnp.clip(params['similarity']['log_scale'], 0, math.log(max_scale))
        return params | {'similarity': {'log_scale': log_scale}}, state

    return Method(init, loss, towers.features(network), update)
