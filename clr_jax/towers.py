"""Two towers, of images and of texts, whose projections meet in one space (Radford et al., 2021;
arXiv:2103.00020)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from clr_jax import networks
from clr_jax.entry import Problem
from clr_jax.heads import Projection
from clr_jax.networks import normalize


class Embeddings(NamedTuple):
    """What two towers say of images and their texts."""

    h: jax.Array  # [n, d] features of the images
    image: jax.Array  # [n, e] unit rows
    text: jax.Array  # [n, e] unit rows


class Towers(nn.Module):
    """(images, tokens) -> `Embeddings`."""

    encoder: nn.Module
    projector: nn.Module
    text_encoder: nn.Module
    text_projector: nn.Module

    def __call__(self, x, rows=None, *, tokens):
        h, image = self.of_image(x, rows)
        return Embeddings(h, image, self.of_text(tokens, rows))

    def of_image(self, x, rows=None):
        """Images [n, s, s, 3] -> features [n, d], unit embeddings [n, e]."""
        h = self.encoder(x, rows)
        return h, normalize(self.projector(h, rows))

    def of_text(self, tokens, rows=None):
        """Tokens [n, t] -> unit embeddings [n, e]."""
        return normalize(self.text_projector(self.text_encoder(tokens, rows), rows))


def towers(name: str, encoder, text_encoder, dim: int, dtype: Any) -> Towers:
    """The towers of the method `name`, each with a projection to `dim` dimensions."""
    if text_encoder is None:
        missing = 'needs a text encoder: set config.text_encoder.name, to text for example'
        raise Problem(f'config.method.name={name} {missing}')
    if dim < 1:
        raise Problem(f'config.method.dim={dim}: at least 1')
    return Towers(encoder, Projection(dim, dtype), text_encoder, Projection(dim, dtype))


def init(network: Towers, key, batch, pretrained, **similarity: float):
    """-> (params, batch statistics) of the towers and of how their similarity is measured, scalars
    that are learned and begin as given; the parts that `pretrained` has are its."""
    check_pair(batch)
    x, tokens = batch['views']
    params, stats = networks.init(network, key, x, pretrained, tokens=jnp.zeros_like(tokens))
    scalars = {name: jnp.asarray(value, jnp.float32) for name, value in similarity.items()}
    return {'similarity': scalars} | params, stats


def features(network: Towers):
    """The `features` of a method with two towers: h and z of the images, text of the tokens, of each
    that there is among the views."""

    def evaluated(params, state, batch):
        found = {}
        for view in batch['views']:
            evaluate = (network, params, state.stats, view)
            if view.ndim == 2:
                found['text'] = networks.evaluate(*evaluate, method='of_text')
            else:
                found['h'], found['z'] = networks.evaluate(*evaluate, method='of_image')
        return found

    return evaluated


def check_pair(batch):
    """Refuse views that are not an image and the tokens of its text."""
    made = [view.ndim for view in batch['views']]
    if made != [4, 2]:
        shapes = [view.shape[1:] for view in batch['views']]
        raise Problem(f'the method takes an image and its text; the data make views of {shapes}')
