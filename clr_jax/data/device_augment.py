"""Views of images made on the devices, in the step: what `augment.apply` makes of a row of parameters on
the host, for a batch of rows and without a branch.

The host sends crops, or whole images on a canvas and the place of each crop, and beside them the
parameters that `augment.sample` drew: by example, not by device. Of the same crop both places make
the same; only the host rounds it to whole levels then. A picture is three planes [b, S, S] in 0..1,
red, green and blue: an operation on channels is then one on the elements of three arrays.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from clr_jax.data import augment, flavours, index, policies
from clr_jax.data.augment import View
from clr_jax.entry import CONFIG, Problem
from clr_jax.method import Method

KERNELS = {  # of a distance in pixels
    'bilinear': lambda t: jnp.maximum(1 - t, 0),
    'bicubic': lambda t: jnp.where(
        t < 1, (1.5 * t - 2.5) * t * t + 1, jnp.where(t < 2, ((2.5 - t / 2) * t - 4) * t + 2, 0)
    ),
}
# the draws of what the host makes: a policy, and what comes before it
POLICY = ('crop', 'rotate', 'flip', 'policy', 'applied', 'argument', 'centre', 'cutout')


def check(device: bool, canvas: int, views: list):
    """Refuse a config.augment that these views do not allow."""
    if canvas < 0 or (canvas and not device):
        raise Problem(f'config.augment.canvas={canvas}: 0, or with device=True pixels', CONFIG)
    images = [view for view in views if isinstance(view, View)]
    if device and not images:
        raise Problem('config.augment.device: config.views has no images', CONFIG)
    for view in images if canvas else ():
        if view.policy or view.interpolation not in KERNELS:
            able = 'devices crop bilinear or bicubic, and without a policy'
            raise Problem(f'config.augment.canvas={canvas}: {able}; set it to 0', CONFIG)


def split(view, parameters: dict) -> tuple:
    """What `sample` drew -> (what the host needs, the rest packed for the devices: float32 [b, k], or
    None)."""
    if not isinstance(view, View):
        return parameters, None
    rest = [parameters[name].reshape(len(parameters[name]), -1) for name in _rest(view, parameters)]
    host = {name: x for name, x in parameters.items() if name not in _rest(view, parameters)}
    return host, np.concatenate(rest, 1).astype(np.float32) if rest else None


def unpacked(view: View, packed) -> dict:
    """What `split` has packed, by name, [b, ...] each in its own type."""
    like = augment.sample(view, index.key(np.arange(1)), 0)
    result, begin = {}, 0
    for name in _rest(view, like):
        end = begin + like[name].size
        part = packed[:, begin:end].reshape(-1, *like[name].shape[1:])
        result[name], begin = part.astype(like[name].dtype), end
    return result


def _rest(view: View, parameters: dict) -> list:
    host = POLICY if view.policy else ('crop',)
    return [name for name in parameters if name not in host]


def augmented(method: Method, groups: list, others: list) -> Method:
    """The method on batches whose views the host has only prepared. groups, others: those of the batch,
    and of its unlabelled examples."""

    def loss(params, state, batch, *, key, time):
        batch = made(batch, groups)
        if 'unlabelled' in batch:
            batch |= {'unlabelled': made(batch['unlabelled'], others)}
        return method.loss(params, state, batch, key=key, time=time)

    return method._replace(loss=loss)


def made(batch: dict, groups: list) -> dict:
    """The batch with images float32 [b, S, S, 3] in 0..1 where it has crops (uint8 [b, S, S, 3]) and
    parameters (`drawn`), or the boxes [b, 4] of crops on a `canvas` (uint8 [b, C, C, 3])."""
    each = [view for view in groups for _ in range(view.copies)]

    def one(view, x, packed):
        if not isinstance(view, View):
            return x
        if 'canvas' in batch:
            x = cropped(view, batch['canvas'], x)
        else:
            x = tuple(x[..., k].astype(jnp.float32) / 255 for k in range(3))
        return apply(view, x, unpacked(view, packed))

    views = tuple(map(one, each, batch['views'], batch['drawn']))
    rest = {name: x for name, x in batch.items() if name not in ('canvas', 'drawn')}
    return rest | {'views': views}


def together(planes: tuple):
    """[b, S, S] of each channel -> [b, S, S, 3]. For CPUs written one by one: XLA would fuse a stack with
    what comes before it, and compute that again for every element."""

    def written(*planes):
        b, *sides = planes[0].shape
        x = jnp.zeros((b, len(planes), *sides), planes[0].dtype)
        for k, plane in enumerate(planes):
            x = lax.dynamic_update_slice_in_dim(x, plane[:, None], k, 1)
        return jnp.moveaxis(x, 1, -1)

    stacked = lambda *planes: jnp.stack(planes, -1)
    return lax.platform_dependent(*planes, cpu=written, default=stacked)


def cropped(view: View, canvas, box):
    """The crops of uint8 [b, C, C, 3] in float boxes [b, 4] (top, left, height, width), resized: planes."""
    torch = view.flavour == 'torch'
    whole = lambda x: jnp.floor(jnp.clip(x, 0, 255) + 0.5) if torch else x  # as Pillow rounds
    rows, columns = (
        weights(box[:, k], box[:, k + 2], view.size, canvas.shape[1], view.interpolation, torch)
        for k in (0, 1)
    )

    def one(x):
        x = whole(product('bjw,bhw->bhj', columns, x.astype(jnp.float32)))
        return jnp.clip(whole(product('bih,bhj->bij', rows, x)) / 255, 0, 1)

    return tuple(one(canvas[..., k]) for k in range(3))


def product(of: str, a, b):
    """An einsum in float32; on TPUs in three passes of bfloat16, to 2^-16 or so."""
    return jnp.einsum(of, a, b, precision=lax.Precision.HIGH)


def weights(begin, length, size: int, side: int, interpolation: str, antialias: bool):
    """[b, size, side]: the shares of `side` pixels in those of their stretch from `begin` [b] on,
    `length` [b] long, resized; what lies outside the stretch has none."""
    begin, length = begin[:, None, None], length[:, None, None]
    scale = length / size
    centre = (jnp.arange(size) + 0.5)[:, None] * scale  # [b, size, 1]
    place = jnp.arange(side) + 0.5 - begin  # [b, 1, side]
    distance = abs(place - centre) / (jnp.maximum(scale, 1) if antialias else 1)
    share = jnp.where((0 < place) & (place < length), KERNELS[interpolation](distance), 0)
    return share / share.sum(-1, keepdims=True)


def apply(view: View, x: tuple, parameters: dict):
    """A batch of views, planes -> [b, S, S, 3], by rows [b, ...] of `augment.sample` but for the crops."""
    p = {name: value[:, None, None] for name, value in parameters.items() if value.ndim == 1}
    each = lambda change: tuple(map(change, x))
    if 'rotate' in p:
        x = each(lambda x: jnp.where(p['rotate'] >= 2, x[:, ::-1, ::-1], x))
        x = each(lambda x: jnp.where(p['rotate'] % 2 == 1, x.swapaxes(1, 2)[:, ::-1], x))
    late = 'blur' in p and 'cutout' not in parameters  # then the blur's matrix flips
    if 'flip' in p and not late:
        x = each(lambda x: jnp.where(p['flip'], x[..., ::-1], x))
    if 'cutout' in parameters:
        place = jnp.arange(view.size) - parameters['cutout'][..., None] + view.cutout // 2
        within = (0 <= place) & (place < view.cutout)  # [b, 2, S]
        square = within[:, 0, :, None] & within[:, 1, None, :]
        x = each(lambda x: jnp.where(square, policies.FILL / 255, x))
    if 'jitter' in p:
        x = jittered(view, x, p, parameters['order'])
    if 'grayscale' in p:
        grey = luma(x)
        x = each(lambda x: jnp.where(p['grayscale'], grey, x))
    if 'blur' in p:
        x = lax.optimization_barrier(x)  # else each product computes all three planes again
        taps = blur_matrix(view, p['sigma'])
        taps = jnp.where(p['blur'], taps, jnp.eye(view.size))  # [b, S, S]
        across = jnp.where(p['flip'], taps[:, ::-1], taps) if 'flip' in p and late else taps
        x = each(lambda x: product('bij,bkj->bki', across, product('bij,bjk->bik', taps, x)))
    y = together(x)  # [b, S, S, 3]
    if 'solarize' in p:  # after that, or TPUs pass through memory once more
        y = jnp.where(p['solarize'][..., None], jnp.minimum(y, 1 - y), y)
    return y


def jittered(view: View, x: tuple, p: dict, order) -> tuple:
    """The colour operations in the order of each row, [b, n] of their numbers: twice, first up to the
    contrast for the mean around which it is. Each time what precedes the hue, the hue, and the rest:
    of the four operations hue costs most, and the others are of one form."""
    names = list(augment.strengths(view))
    last = len(names)
    slot = {name: (order == k).argmax(1)[:, None, None] for k, name in enumerate(names)}
    hue, contrast = (slot.get(name, last) for name in ('hue', 'contrast'))

    def chain(until, means=None):
        y = x
        others = [name for name in names if name != 'hue' and (means or name != 'contrast')]
        chosen = lambda s, active: {name: active & (slot[name] == s) for name in others}
        for s in range(last):
            y = blended(view, y, chosen(s, p['jitter'] & (s < until) & (s < hue)), p, means)
        if 'hue' in names:
            y = turned(y, jnp.where(p['jitter'] & (hue < until), p['hue'], 0))
            for s in range(1, last):
                y = blended(view, y, chosen(s, p['jitter'] & (s < until) & (s > hue)), p, means)
        return y

    if 'contrast' not in names:
        return chain(last)
    before = chain(contrast)
    before = (luma(before),) * 3 if view.flavour == 'torch' else before
    return chain(last, [plane.mean((1, 2), keepdims=True) for plane in before])  # [b, 1, 1]


def blended(view: View, x: tuple, chosen: dict, p: dict, means) -> tuple:
    """The one operation of each row that is `chosen` ([b, 1, 1] by name), or none: other + factor * (x -
    other), clipped, is brightness, contrast (around `means` of the planes) and saturation alike."""
    factor: Any = 1.0
    others: list = [0.0] * 3
    shift: Any = 0.0
    if 'brightness' in chosen:
        value = jnp.where(chosen['brightness'], p['brightness'], 0.0 if view.additive else 1.0)
        shift, factor = (value, factor) if view.additive else (shift, value)
    if 'contrast' in chosen:
        factor = jnp.where(chosen['contrast'], p['contrast'], factor)
        others = [jnp.where(chosen['contrast'], mean, 0.0) for mean in means]
    if 'saturation' in chosen:
        grey, most = luma(x), p['saturation']
        if view.flavour == 'tf':  # the S in HSV, at most 1, of the same V
            grey, least = extremes(x)
            most = jnp.minimum(most, grey / jnp.maximum(grey - least, 1e-12))
        factor = jnp.where(chosen['saturation'], most, factor)
        others = [jnp.where(chosen['saturation'], grey, other) for other in others]
    pairs = zip(x, others, strict=True)
    return tuple(jnp.clip(other + factor * (x - other) + shift, 0, 1) for x, other in pairs)


def turned(x: tuple, shift) -> tuple:
    """Hues shifted by `shift` [b, 1, 1] turns, value and saturation kept: without the six cases of HSV, a
    channel is value - chroma * clip(min(k, 4 - k), 0, 1), k in sixths of a turn."""
    red, green, blue = x
    value, least = extremes(x)
    chroma = value - least
    scale = jnp.where(chroma > 0, 1 / jnp.where(chroma > 0, chroma, 1), 0)
    # never whether one equals the greatest: it may have been computed twice, with other roundings
    hue = jnp.where(green >= blue, 2 + (blue - red) * scale, 4 + (red - green) * scale)
    hue = jnp.where((red >= green) & (red >= blue), (green - blue) * scale, hue) + 6 * shift
    sixths = [hue + n - 6 * jnp.floor((hue + n) / 6) for n in (5, 3, 1)]
    return tuple(value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1) for k in sixths)


def extremes(x: tuple) -> tuple:
    """The greatest and the least channel of each pixel, [b, S, S] each."""
    red, green, blue = x
    return tuple(both(both(red, green), blue) for both in (jnp.maximum, jnp.minimum))


def luma(x: tuple):
    """The brightness, [b, S, S]."""
    return sum(weight * plane for weight, plane in zip(flavours.LUMA, x, strict=True))


def blur_matrix(view: View, sigma):
    """[b, S, S]: what the blur by `sigma` [b, 1, 1] makes of a column of pixels, as a matrix."""
    i, j = jnp.arange(view.size)[:, None], jnp.arange(view.size)
    end, radius = view.size - 1, augment.radius(view)
    torch = view.flavour == 'torch'
    if torch and not view.kernel:  # Pillow's boxes, the pixel at the border repeated
        width = flavours.box_radius(sigma)
        box = lambda distance: jnp.clip(width + 1 - distance, 0, 1) / (2 * width + 1)
        taps = box(abs(i - j))
        for beyond in range(1, radius + 1):
            taps += jnp.where(j == 0, box(i + beyond), 0) + jnp.where(
                j == end, box(end - i + beyond), 0
            )
        return product('bij,bjk->bik', product('bij,bjk->bik', taps, taps), taps)
    bell = lambda distance: jnp.exp(-(distance**2) / (2 * sigma**2))
    total = bell(jnp.arange(-radius, radius + 1)).sum(-1, keepdims=True)
    tap = lambda distance: jnp.where(distance <= radius, bell(distance), 0) / total
    taps = tap(abs(i - j))
    if torch:  # mirrored
        taps += jnp.where(j > 0, tap(i + j), 0) + jnp.where(j < end, tap(2 * end - i - j), 0)
    return taps
