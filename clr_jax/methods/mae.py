"""MAE (He et al., 2021; arXiv:2111.06377): from a quarter of an image's patches, the rest; and the
cheaper damages that the same decoder can repair."""

from functools import partial

import jax.numpy as jnp

from clr_jax import networks, parallel
from clr_jax.encoders.vit import ViT
from clr_jax.entry import Problem, known
from clr_jax.method import Aux, Method, State, check_views
from clr_jax.networks import Network, standardize, wide
from clr_jax.patches import (
    DAMAGES,
    Autoencoder,
    Decoder,
    damaged,
    spared,
    to_image,
    to_patches,
)


def mae(
    encoder,
    *,
    damage='mask',
    ratio=0.75,
    noise=0.5,
    normalized=True,
    decoder_width=512,
    decoder_depth=8,
    decoder_heads=16,
    bn_groups=1,
    dtype=None,
) -> Method:
    """The encoder, a vit, sees what the damage leaves of an image; the loss is the mean squared error
    of the patches that it took, and of these alone.

    damage: 'mask' hides the `ratio` of the patches, and the encoder computes only those that are
    left; 'shuffle' lets as many change places among themselves; 'grayscale' (colourisation) and
    'noise' (denoising, of standard deviation `noise` for pixels in 0..1) leave no patch as it was.
    normalized: each patch of the target has mean 0 and (unbiased) variance 1. decoder_*: its width,
    depth and heads; dtype: of its computation. `bn_groups`: every method is given it; here it does
    nothing, for there is no batch norm.
    """
    if not isinstance(encoder, ViT):
        raise Problem('config.method.name=mae needs an encoder of patches: config.encoder.name=vit')
    known([damage], DAMAGES, 'config.method.damage')
    if not 0 < ratio < 1:
        raise Problem(f'config.method.ratio={ratio}: a share of the patches, above 0 and below 1')
    if decoder_width % 4 or decoder_width % decoder_heads:
        widths = f'not a multiple of 4 and of decoder_heads={decoder_heads}'
        raise Problem(f'config.method.decoder_width={decoder_width}: {widths}')
    patch, token = encoder.patch, encoder.pool == 'token'
    decoder = Decoder(decoder_width, decoder_depth, decoder_heads, patch, token, dtype)
    network = Autoencoder(encoder, decoder)
    alone = Network(encoder)
    cut = partial(to_patches, patch=patch)
    spoil = partial(damaged, damage, patch=patch, ratio=ratio, noise=noise)

    def target(x):
        """The patches of x [b, h, w, 3] as they are to be found, and their means and deviations."""
        patches = cut(standardize(wide(x), encoder.mean, encoder.std))  # [b, n, p p 3]
        if not normalized:
            return patches, 0, 1
        mean = patches.mean(-1, keepdims=True)
        std = jnp.sqrt(patches.var(-1, keepdims=True, ddof=1) + 1e-6)
        return (patches - mean) / std, mean, std

    def init(key, batch, pretrained=None):
        check_views(batch, 1)
        x = batch['views'][0]
        n = (x.shape[1] // patch) * (x.shape[2] // patch)
        if damage in ('mask', 'shuffle') and not 0 < spared(n, ratio) < n:
            few = f'leaves {spared(n, ratio)} of the {n} patches of an image'
            raise Problem(f'config.method.ratio={ratio} {few}')
        visible = jnp.zeros((len(x), spared(n, ratio)), int) if damage == 'mask' else None
        params, stats = networks.init(network, key, x, pretrained, visible=visible)
        return params, State(stats)

    def loss(params, state, batch, *, key, time):
        x = networks.view(batch['views'][0])  # [b, h, w, 3]
        left, visible, lost = spoil(x, key, parallel.positions(len(x)))
        (h, pixels), stats = networks.apply(
            network, params, state.stats, left, key=key, visible=visible
        )
        wanted, *_ = target(x)  # [b, n, p p 3]
        error = jnp.square(wide(pixels) - wanted).mean(-1)  # [b, n]
        value = (error * lost).sum() / lost.sum()  # of as many patches on every shard
        return value, Aux(State(stats), {}, h[:, None], h[:, None])

    def features(params, state, batch):
        return {'h': networks.evaluate(alone, params, state.stats, batch['views'][0]).h}

    def pictures(params, state, batch, *, key):
        """Each image, what is left of it, what the decoder makes of that (with the true means and
        deviations of the patches, if it learned normalised ones), and this where it was damaged."""
        x = networks.view(batch['views'][0])
        left, visible, lost = spoil(x, key, jnp.arange(len(x)))
        _, pixels = networks.evaluate(network, params, state.stats, left, visible=visible)
        _, mean, std = target(x)
        found = to_image(wide(pixels) * std + mean, x.shape)
        found = jnp.clip(found * jnp.asarray(encoder.std) + jnp.asarray(encoder.mean), 0, 1)
        lost = to_image(jnp.broadcast_to(lost[..., None], pixels.shape), x.shape)
        shown = x * (1 - lost) + 0.5 * lost if damage == 'mask' else jnp.clip(left, 0, 1)
        return {'reconstruction': jnp.stack([x, shown, found, x * (1 - lost) + found * lost], 1)}

    return Method(init, loss, features, pictures=pictures)
