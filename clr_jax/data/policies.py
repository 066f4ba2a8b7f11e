"""Policies of augmentation, as part of an image's views: RandAugment (Cubuk et al., 2019; arXiv:1909.13719),
UDA's variant of it (Xie et al., 2019; arXiv:1904.12848) and AutoAugment's findings (Cubuk et al., 2018;
arXiv:1805.09501).

An operation has a level of 0 to 10, and each published code its own meaning of levels. They disagree
most about Posterize and Solarize: in the official code for CIFAR a higher level changes more, in the
ImageNet paper's table and in the TPU code it changes less (at a level of 2 or less the latter
posterizes to black). `Levels` says which, as ranges from level 0 to level 10.

The operations are Pillow's, bit for bit. Where published codes differ from each other or from Pillow:
what comes from outside the picture is grey (128) at once, where the code for CIFAR makes it the data's
mean in the end; Contrast is around the picture's mean brightness, which the TPU code miscounts.
Translations and Cutout are the published pixels at the size they were published for, and scale with
the view.

Schedules of policies (PBA) are in `population.py`.

Not offered: the 95 sub-policies of AutoAugment's code for CIFAR-10 and its longer list for SVHN (here:
the 25 of the paper, each), the policies found on COCO, random magnitudes (timm's `mstd`).
"""

from functools import cache, partial
from typing import NamedTuple

import numpy as np

from clr_jax.data.graph import tensorflow

FILL = 128  # what is outside the picture
SIGNED = ('Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY')  # either way, equally likely


class Levels(NamedTuple):
    """What the levels of an operation mean. Ranges are from level 0 to level 10."""

    posterize: tuple  # bits kept of each channel
    solarize: tuple  # threshold, from which on values are inverted
    translate: float  # pixels, at level 10
    cutout: float  # side in pixels, at level 10
    size: int  # pixels per side of the picture for which these pixels are given


CIFAR = Levels((4, 0), (256, 0), translate=10, cutout=20, size=32)  # higher: stronger
TPU = Levels((0, 4), (0, 256), translate=250, cutout=200, size=224)  # higher: weaker
PAPER = TPU._replace(posterize=(4, 8))  # higher: weaker


class Policy(NamedTuple):
    """`draws` times, one of `choices` is drawn and applied: a sequence of (operation, probability,
    level)."""

    choices: tuple
    draws: int
    levels: Levels


# In the order of the TPU code.
ALL = (
    *('AutoContrast', 'Equalize', 'Invert', 'Rotate', 'Posterize', 'Solarize', 'Color', 'Contrast'),
    *('Brightness', 'Sharpness', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Cutout'),
    'SolarizeAdd',
)

# The paper's policy for ImageNet: 20 sub-policies, of which five stand there twice.
IMAGENET = (
    (('Posterize', 0.4, 8), ('Rotate', 0.6, 9)),
    (('Solarize', 0.6, 5), ('AutoContrast', 0.6, 5)),
    (('Equalize', 0.8, 8), ('Equalize', 0.6, 3)),
    (('Posterize', 0.6, 7), ('Posterize', 0.6, 6)),
    (('Equalize', 0.4, 7), ('Solarize', 0.2, 4)),
    (('Equalize', 0.4, 4), ('Rotate', 0.8, 8)),
    (('Solarize', 0.6, 3), ('Equalize', 0.6, 7)),
    (('Posterize', 0.8, 5), ('Equalize', 1.0, 2)),
    (('Rotate', 0.2, 3), ('Solarize', 0.6, 8)),
    (('Equalize', 0.6, 8), ('Posterize', 0.4, 6)),
    (('Rotate', 0.8, 8), ('Color', 0.4, 0)),
    (('Rotate', 0.4, 9), ('Equalize', 0.6, 2)),
    (('Equalize', 0.0, 7), ('Equalize', 0.8, 8)),
    (('Invert', 0.6, 4), ('Equalize', 1.0, 8)),
    (('Color', 0.6, 4), ('Contrast', 1.0, 8)),
    (('Rotate', 0.8, 8), ('Color', 1.0, 2)),
    (('Color', 0.8, 8), ('Solarize', 0.8, 7)),
    (('Sharpness', 0.4, 7), ('Invert', 0.6, 8)),
    (('ShearX', 0.6, 5), ('Equalize', 1.0, 9)),
    (('Color', 0.4, 0), ('Equalize', 0.6, 3)),
    (('Equalize', 0.4, 7), ('Solarize', 0.2, 4)),
    (('Solarize', 0.6, 5), ('AutoContrast', 0.6, 5)),
    (('Invert', 0.6, 4), ('Equalize', 1.0, 8)),
    (('Color', 0.6, 4), ('Contrast', 1.0, 8)),
    (('Equalize', 0.8, 8), ('Equalize', 0.6, 3)),
)

# `v0` of the TPU code, EfficientNet's. Its one translation, by 225 pixels, leaves nothing of a picture.
V0 = (
    (('Equalize', 0.8, 1), ('ShearY', 0.8, 4)),
    (('Color', 0.4, 9), ('Equalize', 0.6, 3)),
    (('Color', 0.4, 1), ('Rotate', 0.6, 8)),
    (('Solarize', 0.8, 3), ('Equalize', 0.4, 7)),
    (('Solarize', 0.4, 2), ('Solarize', 0.6, 2)),
    (('Color', 0.2, 0), ('Equalize', 0.8, 8)),
    (('Equalize', 0.4, 8), ('SolarizeAdd', 0.8, 3)),
    (('ShearX', 0.2, 9), ('Rotate', 0.6, 8)),
    (('Color', 0.6, 1), ('Equalize', 1.0, 2)),
    (('Invert', 0.4, 9), ('Rotate', 0.6, 0)),
    (('Equalize', 1.0, 9), ('ShearY', 0.6, 3)),
    (('Color', 0.4, 7), ('Equalize', 0.6, 0)),
    (('Posterize', 0.4, 6), ('AutoContrast', 0.4, 7)),
    (('Solarize', 0.6, 8), ('Color', 0.6, 9)),
    (('Solarize', 0.2, 4), ('Rotate', 0.8, 9)),
    (('Rotate', 1.0, 7), ('TranslateY', 0.8, 9)),
    (('ShearX', 0.0, 0), ('Solarize', 0.8, 4)),
    (('ShearY', 0.8, 0), ('Color', 0.6, 4)),
    (('Color', 1.0, 0), ('Rotate', 0.6, 2)),
    (('Equalize', 0.8, 4), ('Equalize', 0.0, 8)),
    (('Equalize', 1.0, 4), ('AutoContrast', 0.6, 2)),
    (('ShearY', 0.4, 7), ('SolarizeAdd', 0.6, 7)),
    (('Posterize', 0.8, 2), ('Solarize', 0.6, 10)),
    (('Solarize', 0.6, 8), ('Equalize', 0.6, 1)),
    (('Color', 0.8, 6), ('Rotate', 0.4, 5)),
)

# The paper's policy for CIFAR-10.
CIFAR10 = (
    (('Invert', 0.1, 7), ('Contrast', 0.2, 6)),
    (('Rotate', 0.7, 2), ('TranslateX', 0.3, 9)),
    (('Sharpness', 0.8, 1), ('Sharpness', 0.9, 3)),
    (('ShearY', 0.5, 8), ('TranslateY', 0.7, 9)),
    (('AutoContrast', 0.5, 8), ('Equalize', 0.9, 2)),
    (('ShearY', 0.2, 7), ('Posterize', 0.3, 7)),
    (('Color', 0.4, 3), ('Brightness', 0.6, 7)),
    (('Sharpness', 0.3, 9), ('Brightness', 0.7, 9)),
    (('Equalize', 0.6, 5), ('Equalize', 0.5, 1)),
    (('Contrast', 0.6, 7), ('Sharpness', 0.6, 5)),
    (('Color', 0.7, 7), ('TranslateX', 0.5, 8)),
    (('Equalize', 0.3, 7), ('AutoContrast', 0.4, 8)),
    (('TranslateY', 0.4, 3), ('Sharpness', 0.2, 6)),
    (('Brightness', 0.9, 6), ('Color', 0.2, 8)),
    (('Solarize', 0.5, 2), ('Invert', 0.0, 3)),
    (('Equalize', 0.2, 0), ('AutoContrast', 0.6, 0)),
    (('Equalize', 0.2, 8), ('Equalize', 0.6, 4)),
    (('Color', 0.9, 9), ('Equalize', 0.6, 6)),
    (('AutoContrast', 0.8, 4), ('Solarize', 0.2, 8)),
    (('Brightness', 0.1, 3), ('Color', 0.7, 0)),
    (('Solarize', 0.4, 5), ('AutoContrast', 0.9, 3)),
    (('TranslateY', 0.9, 9), ('TranslateY', 0.7, 9)),
    (('AutoContrast', 0.9, 2), ('Solarize', 0.8, 3)),
    (('Equalize', 0.8, 8), ('Invert', 0.1, 3)),
    (('TranslateY', 0.7, 9), ('AutoContrast', 0.9, 1)),
)

# The paper's policy for SVHN.
SVHN = (
    (('ShearX', 0.9, 4), ('Invert', 0.2, 3)),
    (('ShearY', 0.9, 8), ('Invert', 0.7, 5)),
    (('Equalize', 0.6, 5), ('Solarize', 0.6, 6)),
    (('Invert', 0.9, 3), ('Equalize', 0.6, 3)),
    (('Equalize', 0.6, 1), ('Rotate', 0.9, 3)),
    (('ShearX', 0.9, 4), ('AutoContrast', 0.8, 3)),
    (('ShearY', 0.9, 8), ('Invert', 0.4, 5)),
    (('ShearY', 0.9, 5), ('Solarize', 0.2, 6)),
    (('Invert', 0.9, 6), ('AutoContrast', 0.8, 1)),
    (('Equalize', 0.6, 3), ('Rotate', 0.9, 3)),
    (('ShearX', 0.9, 4), ('Solarize', 0.3, 3)),
    (('ShearY', 0.8, 8), ('Invert', 0.7, 4)),
    (('Equalize', 0.9, 5), ('TranslateY', 0.6, 6)),
    (('Invert', 0.9, 4), ('Equalize', 0.6, 7)),
    (('Contrast', 0.3, 3), ('Rotate', 0.8, 4)),
    (('Invert', 0.8, 5), ('TranslateY', 0.0, 2)),
    (('ShearY', 0.7, 6), ('Solarize', 0.4, 8)),
    (('Invert', 0.6, 4), ('Rotate', 0.8, 4)),
    (('ShearY', 0.3, 7), ('TranslateX', 0.9, 3)),
    (('ShearX', 0.1, 6), ('Invert', 0.6, 5)),
    (('Solarize', 0.7, 2), ('TranslateY', 0.6, 7)),
    (('ShearY', 0.8, 4), ('Invert', 0.8, 8)),
    (('ShearX', 0.7, 9), ('TranslateY', 0.8, 3)),
    (('ShearY', 0.8, 5), ('AutoContrast', 0.7, 3)),
    (('ShearX', 0.7, 2), ('Invert', 0.1, 5)),
)

# UDA's fixed grid: any two cells. Followed by Cutout (`View.cutout`: 16 for CIFAR).
GRID = tuple(
    ((name, 0.5, level),) for name in ALL if name != 'SolarizeAdd' for level in range(1, 10)
)

POLICIES = {
    'autoaugment': Policy(IMAGENET, 1, PAPER),
    'autoaugment_tpu': Policy(V0, 1, TPU),
    'autoaugment_cifar10': Policy(CIFAR10, 1, CIFAR),
    'autoaugment_svhn': Policy(SVHN, 1, CIFAR),
    'uda': Policy(GRID, 2, CIFAR),
    # with the view's number of operations and magnitude
    'randaugment': Policy(ALL, 2, TPU._replace(translate=100, cutout=80)),
}


def policy(name: str, operations: int, magnitude: float) -> Policy:
    """The policy called `name`. RandAugment is so many operations of one magnitude, any of the sixteen
    with probability one, as in the TPU code; of the other policies the two numbers are no part."""
    found = POLICIES[name]
    if name != 'randaugment':
        return found
    choices = tuple(((operation, 1.0, magnitude),) for operation in ALL)
    return found._replace(choices=choices, draws=operations)


def used(policy: Policy) -> list:
    """The operations of a policy, as `sample` numbers them from 1 on; 0 is none."""
    return sorted({name for choice in policy.choices for name, *_ in choice})


def argument(name: str, level: float, levels: Levels, size: int) -> float:
    """What a level means to an operation, in its own units, in a picture of `size` pixels per side."""
    share = level / 10

    def within(low, high, start, end):
        return min(max(low, start + int((end - start) * level / 10)), high)

    if name == 'Rotate':
        return 30 * share  # degrees
    if name in ('ShearX', 'ShearY'):
        return 0.3 * share
    if name in ('TranslateX', 'TranslateY'):
        return int(levels.translate * size * level / (10 * levels.size))  # pixels
    if name == 'Cutout':
        return int(levels.cutout * size * level / (10 * levels.size))  # pixels per side
    if name in ('Color', 'Contrast', 'Brightness', 'Sharpness'):
        return 1.8 * share + 0.1  # 1: as it is
    if name == 'Posterize':
        return within(0, 8, *levels.posterize)  # bits
    if name == 'Solarize':
        return within(0, 256, *levels.solarize)
    return int(110 * level / 10) if name == 'SolarizeAdd' else 0.0


def sample(policy: Policy, size: int, draw) -> dict:
    """The parameters of a policy in a view of `size` pixels per side: arrays [b, slots, ...] from named
    draws, `draw(name, n)` -> [b, n] in [0, 1).

    policy: the number of the operation. applied: whether it is. argument: signed, in its own units.
    centre: of Cutout, in pixels.
    """
    choices = table(policy, size)
    slots = policy.draws * choices.shape[1]
    which = np.floor(draw('policy', policy.draws) * len(choices)).astype(int)  # [b, draws]
    number, probability, size_of, signed = np.moveaxis(choices[which].reshape(-1, slots, 4), 2, 0)
    result = {'policy': number.astype(np.int32)}  # [b, slots]
    if (choices[..., 1] < 1).any():
        result['applied'] = draw('applied', slots) < probability
    result['argument'] = directed(size_of, signed, draw)
    if 'Cutout' in used(policy):
        result['centre'] = centres(slots, size, draw)
    return result


def table(policy: Policy, size: int) -> np.ndarray:
    """[choices, operations of each, 4]: number, probability, argument, and whether that goes either
    way."""
    numbers = used(policy)
    row = lambda name, probability, level: (
        1 + numbers.index(name),
        probability,
        argument(name, level, policy.levels, size),
        name in SIGNED,
    )
    return np.array([[row(*each) for each in choice] for choice in policy.choices])


def directed(size_of, signed, draw):
    """Arguments [b, slots] float32 with a sign, where they have one."""
    sign = np.where((signed > 0) & (draw('argument', size_of.shape[1]) < 0.5), -1, 1)
    return (sign * size_of).astype(np.float32)


def centres(slots: int, size: int, draw):
    """Of Cutout, [b, slots, 2] int32."""
    return np.floor(draw('centre', 2 * slots) * size).astype(np.int32).reshape(-1, slots, 2)


def apply(policy: Policy, image, parameters: dict):
    """The operations that a row of `sample` describes, one after the other: uint8 [h, w, 3] -> the
    same."""
    tf = tensorflow()
    number = parameters['policy']  # [slots]
    if 'applied' in parameters:
        number = tf.where(parameters['applied'], number, 0)
    slot = one_of(*used(policy))
    for k in range(number.shape[0]):
        centre = parameters['centre'][k] if 'centre' in parameters else None
        image = slot(number[k], image, parameters['argument'][k], centre)
    return image


@cache
def one_of(*names):
    """The function that applies one of the operations `names` by its number, traced once for all slots
    and views."""
    tf = tensorflow()

    @tf.function(autograph=False)
    def slot(number, image, value, centre):
        each = [partial(operation, name, image, value, centre) for name in names]
        return tf.switch_case(number, [partial(tf.identity, image), *each])

    return slot


def operation(name: str, image, value, centre=None):
    """One operation on uint8 [h, w, 3], with `value` (float32) as `argument` says, and `centre` [2] int32
    of Cutout."""
    tf = tensorflow()
    if name == 'Cutout':
        return cutout(image, tf.cast(value, tf.int32), centre)
    if name in ('Color', 'Contrast', 'Brightness', 'Sharpness'):
        return blend(degenerate(name, image), image, value)
    if name in SIGNED:
        return affine(image, matrix(name, image, tf.cast(value, tf.float64)))
    return lookup(image, curves(name, image, tf.cast(value, tf.int32)))


def curves(name: str, image, value):
    """The operations that change a value whatever its place, as tables [3, 256] (or [1, 256], of all
    channels) int32."""
    tf = tensorflow()
    x = tf.range(256)[None]
    if name == 'AutoContrast':
        return autocontrast(x, image)
    if name == 'Equalize':
        return equalize(x, image)
    if name == 'Invert':
        return 255 - x
    if name == 'Posterize':
        return x - x % tf.bitwise.left_shift(1, 8 - value)
    if name == 'Solarize':
        return tf.where(x < value, x, 255 - x)
    return tf.where(x < 128, tf.minimum(x + value, 255), x)  # SolarizeAdd


def lookup(image, table):
    """The values that `table` [3 or 1, 256] int32 has for those of an image."""
    tf = tensorflow()
    row = 256 * tf.range(3) if table.shape[0] == 3 else 0
    return tf.gather(tf.cast(tf.reshape(table, [-1]), tf.uint8), tf.cast(image, tf.int32) + row)


def autocontrast(x, image):
    """From the channel's least to its greatest value."""
    tf = tensorflow()
    low, high = (
        tf.cast(reduce(image, [0, 1])[:, None], tf.float64)
        for reduce in (tf.reduce_min, tf.reduce_max)
    )
    scale = 255 / tf.maximum(high - low, 1)
    stretched = tf.clip_by_value(tf.cast(x, tf.float64) * scale - low * scale, 0, 255)
    return tf.where(high > low, tf.cast(stretched, tf.int32), x)


def equalize(x, image):
    """Each value as often as any other, as nearly as a table can."""
    tf = tensorflow()
    values = tf.reshape(tf.cast(image, tf.int32) + 256 * tf.range(3), [-1])
    counts = tf.raw_ops.DenseBincount(input=values, size=768, weights=tf.constant([], tf.int32))
    counts = tf.reshape(counts, [3, 256])
    present = tf.where(counts > 0, x, 0)
    last = tf.gather(counts, tf.reduce_max(present, 1), batch_dims=1)[:, None]  # [3, 1]
    step = (tf.reduce_sum(counts, 1, keepdims=True) - last) // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    flat = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    return tf.where(step > 0, flat, x)


def degenerate(name: str, image):
    """The image without what the operation strengthens, int32 [h, w, 3] or what broadcasts to it."""
    tf = tensorflow()
    x = tf.cast(image, tf.int32)
    if name == 'Brightness':
        return tf.constant(0)
    if name == 'Sharpness':
        return smooth(x)
    luma = 19595 * x[..., 0] + 38470 * x[..., 1] + 7471 * x[..., 2] + 32768
    luma = tf.bitwise.right_shift(luma, 16)  # [h, w]
    if name == 'Color':
        return luma[..., None]
    pixels = tf.size(luma)
    return (2 * tf.reduce_sum(luma) + pixels) // (2 * pixels)  # Contrast: the mean, rounded


def smooth(x):
    """Each pixel a mean of its neighbourhood, in which it counts five times; the border as it is."""
    tf = tensorflow()
    rows = x[:-2] + x[1:-1] + x[2:]
    around = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    inner = (2 * (around + 4 * x[1:-1, 1:-1]) + 13) // 26  # rounded, of thirteen
    inner = tf.concat([x[1:-1, :1], inner, x[1:-1, -1:]], 1)
    return tf.concat([x[:1], inner, x[-1:]], 0)


def blend(zero, one, factor):
    """Between `zero` (factor 0) and `one` (factor 1), or beyond."""
    tf = tensorflow()
    zero, one = (tf.cast(x, tf.float32) for x in (zero, one))
    return tf.cast(tf.clip_by_value(zero + factor * (one - zero), 0, 255), tf.uint8)


def matrix(name: str, image, value):
    """The six numbers that lead from a place (x, y) in the result to one in the image."""
    tf = tensorflow()
    still, none = tf.ones([], tf.float64), tf.zeros([], tf.float64)
    if name == 'Rotate':  # anticlockwise, around the middle
        cos, sin = (function(-value * np.pi / 180) for function in (tf.cos, tf.sin))
        middle = tf.cast(tf.shape(image)[:2], tf.float64) / 2
        x, y = middle[1], middle[0]
        return cos, sin, -cos * x - sin * y + x, -sin, cos, sin * x - cos * y + y
    return {
        'ShearX': (still, value, none, none, still, none),
        'ShearY': (still, none, none, value, still, none),
        'TranslateX': (still, none, value, none, still, none),
        'TranslateY': (still, none, none, none, still, value),
    }[name]


def affine(image, numbers):
    """The nearest pixels, in Pillow's fixed-point numbers of 16 bits after the point."""
    tf = tensorflow()

    def fixed(number):
        return tf.cast(tf.floor(number * 65536 + 0.5), tf.int32)

    height, width = tf.shape(image)[0], tf.shape(image)[1]
    row, column = tf.range(height)[:, None], tf.range(width)
    a, b, c, d, e, f = numbers
    x = fixed(a) * column + fixed(b) * row + fixed(c + a / 2 + b / 2)  # [h, w]
    y = fixed(d) * column + fixed(e) * row + fixed(f + d / 2 + e / 2)
    x, y = tf.bitwise.right_shift(x, 16), tf.bitwise.right_shift(y, 16)
    inside = (0 <= x) & (x < width) & (0 <= y) & (y < height)
    place = tf.where(inside, y * width + x, 0)
    moved = tf.gather(tf.reshape(image, [-1, 3]), place)
    return tf.where(inside[..., None], moved, tf.constant(FILL, tf.uint8))


def cutout(image, side, centre):
    """A grey square around `centre` [2], as far as it is in the image [h, w, 3] (uint8 or float32)."""
    tf = tensorflow()

    def covered(axis):
        begin = centre[axis] - side // 2
        place = tf.range(tf.shape(image)[axis])
        return (begin <= place) & (place < begin + side)

    square = covered(0)[:, None] & covered(1)
    return tf.where(square[..., None], tf.constant(FILL, image.dtype), image)
