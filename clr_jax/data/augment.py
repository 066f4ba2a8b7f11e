"""Views of images: `sample` draws a view's parameters in NumPy, `apply` makes of them and an image one
picture, in a graph on the host. The operations are those of SimCLR (Chen et al., 2020;
arXiv:2002.05709), in one of two flavours.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from clr_jax.data import flavours, index, policies, population
from clr_jax.data.graph import tensorflow
from clr_jax.entry import CONFIG, Problem, nearest

DRAWS = (
    *('crop', 'rotate', 'flip', 'jitter', 'order', 'brightness', 'contrast', 'saturation'),
    *('hue', 'grayscale', 'blur', 'sigma', 'solarize'),
    *('policy', 'count', 'applied', 'argument', 'centre', 'cutout'),
)
METHODS = ('bilinear', 'bicubic', 'area', 'nearest')


class View(NamedTuple):
    """How one group of views is made; the defaults are SimCLR's for ImageNet.

    Probabilities are per image; an operation of probability or strength zero is absent from the graph.
    """

    copies: int = 2  # views of each example
    size: int = 224  # pixels per side
    flavour: str = 'tf'  # what the operations below mean exactly: TensorFlow's, or 'torch'
    area: tuple = (0.08, 1.0)  # share of the image a crop covers; (1, 1): the whole image, no crop
    ratio: tuple = (3 / 4, 4 / 3)  # width / height of the crop
    # of the flavour tf: the crop's least share of the image, whatever `area` says
    min_object_covered: float = 0.1
    interpolation: str = 'bicubic'  # without antialiasing, or in the flavour torch with it
    rotate: float = 0.0  # probability of a turn by 90, 180 or 270 degrees
    flip: float = 0.5  # probability
    policy: str = ''  # of augmentation, one of policies.POLICIES, or 'pba'; '': none
    policy_operations: int = 2  # of randaugment, one after the other
    policy_magnitude: float = 10.0  # of randaugment, a level of 0 to 30
    schedule: Any = ''  # of pba: a file, or what it holds (`population`)
    schedule_epochs: int = 0  # over which that is spread; 0: as many as it has
    cutout: int = 0  # pixels per side of a square made grey, around any pixel; 0: none
    jitter: float = 0.8  # probability of the four below, in random order
    brightness: float = 0.8  # factor in [1 - d, 1 + d]
    additive: bool = False  # brightness is a shift in [-d, d] instead, where the brightest is 1
    contrast: float = 0.8  # factor in [1 - d, 1 + d]
    saturation: float = 0.8  # factor in [1 - d, 1 + d]
    hue: float = 0.2  # shift in [-d, d] turns
    grayscale: float = 0.2  # probability
    blur: float = 0.5  # probability
    sigma: tuple = (0.1, 2.0)  # of the blur, in pixels
    kernel: int = (
        0  # pixels, odd: a Gaussian of so many taps, mirrored in the flavour torch; 0: its own
    )
    solarize: float = 0.0  # probability of inverting the brighter half, the last operation
    shared: tuple = ()  # draws (names in DRAWS) that all views of an example have in common


class Central(NamedTuple):
    """The view of an image in which it is evaluated."""

    size: int  # pixels per side
    crop: float = 0.875  # side of the central square, as a share of the image's short side
    flavour: str = 'tf'
    interpolation: str = 'bicubic'


def check(view: View) -> View:
    """The view itself, or the Problem with its values."""
    numbers = {
        'a probability, in [0, 1]': (
            ('rotate', 'flip', 'jitter', 'grayscale', 'blur', 'solarize'),
            0,
            1,
        ),
        'a strength, at least 0': (('brightness', 'contrast', 'saturation'), 0, np.inf),
        'in turns, in [0, 0.5]': (('hue',), 0, 0.5),
        'a share of the image, in [0, 1]': (('min_object_covered',), 0, 1),
        'a number above 0': (('copies', 'size', 'policy_operations'), 1, np.inf),
        'a level, in [0, 30]': (('policy_magnitude',), 0, 30),
        'in pixels, at least 0': (('cutout', 'kernel'), 0, np.inf),
        'in epochs, at least 0': (('schedule_epochs',), 0, np.inf),
    }
    for what, (names, low, high) in numbers.items():
        for name in names:
            if not low <= getattr(view, name) <= high:
                raise Problem(f'{name}={getattr(view, name)} of a view is {what}', CONFIG)
    for name, limit in (('area', 1), ('ratio', np.inf), ('sigma', np.inf)):
        low, high = getattr(view, name)
        if not 0 < low <= high <= limit:
            raise Problem(f'{name}={(low, high)} of a view is a range 0 < low <= high', CONFIG)
    if view.kernel and not view.kernel % 2:
        raise Problem(f'kernel={view.kernel} of a view is odd, or 0', CONFIG)
    methods = METHODS[:2] if view.flavour == 'torch' else METHODS
    words: list[tuple] = [(view.flavour, flavours.FLAVOURS), (view.interpolation, methods)]
    words += [(name, DRAWS) for name in view.shared]
    words += [(view.policy, (*policies.POLICIES, 'pba'))] if view.policy else []
    for word, known in words:
        if word not in known:
            raise Problem(f'"{word}" in the settings of a view: {nearest(word, known)}', CONFIG)
    if bool(view.schedule) != (view.policy == 'pba'):
        raise Problem("policy='pba' of a view and a schedule: set both, or neither", CONFIG)
    if view.schedule:
        population.check(view.schedule, 'the schedule of a view')
    return view


def strengths(view: View) -> dict:
    """The colour operations in use and their strengths."""
    names = ('brightness', 'contrast', 'saturation', 'hue') if view.jitter else ()
    return {name: getattr(view, name) for name in names if getattr(view, name)}


def radius(view: View) -> int:
    """Of the blur's kernel, 2 * radius + 1 wide. In the flavour tf 11 at 224 pixels, 0 (no blur) below
    20; in torch that of one of Pillow's box filters at the largest sigma."""
    if not view.blur:
        return 0
    if view.kernel:
        return view.kernel // 2
    boxes = view.flavour == 'torch'
    return math.ceil(flavours.box_radius(view.sigma[1])) if boxes else view.size // 10 // 2


def policy(view: View) -> policies.Policy:
    if view.policy == 'pba':
        return population.policy(view.schedule)
    return policies.policy(view.policy, view.policy_operations, view.policy_magnitude)


def at(view: View, epoch: int) -> View:
    """The view as it is in an epoch: of a schedule of policies it has that epoch's."""
    if not view.schedule:
        return view
    return view._replace(schedule=population.at(view.schedule, epoch, view.schedule_epochs))


def sample(view: View, keys, number: int) -> dict:
    """The parameters of view `number` of the examples with `keys` [b] uint64: arrays [b, ...].

    Each is a draw of its own name: to add or leave out one changes no other.
    """
    own = index.fold(keys, number)

    def draw(name, n=None):
        return index.uniform(keys if name in view.shared else own, name, n)

    def between(name, low, high):
        return (low + (high - low) * draw(name)).astype(np.float32)

    result = {}
    if view.area[0] < 1:
        # the box itself depends on the image's shape; of tf a seed [b, 2], of torch draws [b, 22]
        torch = view.flavour == 'torch'
        crop = draw('crop', 2 * flavours.TRIES + 2 if torch else 2)
        result['crop'] = crop if torch else (crop * 2**31).astype(np.int32)
    if view.rotate:
        share = draw('rotate') / view.rotate  # below 1: turned
        result['rotate'] = np.where(share < 1, 1 + np.floor(3 * share), 0).astype(np.int32)  # [b]
    if view.flip:
        result['flip'] = draw('flip') < view.flip
    if view.policy:
        kind = population if view.policy == 'pba' else policies
        result |= kind.sample(policy(view), view.size, draw)
    if view.cutout:
        result['cutout'] = np.floor(draw('cutout', 2) * view.size).astype(np.int32)  # [b, 2]
    if colours := strengths(view):
        result['jitter'] = draw('jitter') < view.jitter
        result['order'] = draw('order', len(colours)).argsort(axis=1).astype(np.int32)  # [b, 4]
        for name, d in colours.items():
            shift = name == 'hue' or (name == 'brightness' and view.additive)
            result[name] = between(name, *((-d, d) if shift else (max(0, 1 - d), 1 + d)))
    if view.grayscale:
        result['grayscale'] = draw('grayscale') < view.grayscale
    if radius(view):
        result['blur'] = draw('blur') < view.blur
        result['sigma'] = between('sigma', *view.sigma)
    if view.solarize:
        result['solarize'] = draw('solarize') < view.solarize
    return result


def apply(view: View, image, parameters: dict):
    """A view of `image` (uint8 [h, w, 3]) by a row of `sample` -> uint8 [size, size, 3]."""
    x = changed(view, cropped(view, image, parameters), parameters)
    return tensorflow().cast(x + 0.5, 'uint8')


def cropped(view: View, image, parameters: dict):
    """The crop, resized: uint8 [h, w, 3] -> float32 [size, size, 3] in [0, 255]."""
    tf = tensorflow()
    if 'crop' in parameters:
        image = tf.slice(image, *crop_box(view, tf.shape(image), parameters['crop']))
    resize = flavours.antialiased if view.flavour == 'torch' else flavours.resize
    x = resize(image, (view.size, view.size), view.interpolation)
    return tf.ensure_shape(x, [view.size, view.size, 3])


def canvas(image, side: int):
    """The whole image in the corner of a black square, for devices to crop: uint8 [h, w, 3] -> uint8
    [side, side, 3]. One larger than that is shrunk to fit, antialiased."""
    tf = tensorflow()
    shape = fitted(tf.shape(image)[:2], side)
    shrunk = lambda: flavours.antialiased(image, (shape[0], shape[1]), 'bilinear')
    fits = tf.reduce_max(tf.shape(image)) <= side
    image = tf.cond(fits, lambda: image, lambda: tf.cast(shrunk(), tf.uint8))  # [h, w, 3]
    height, width, _ = tf.unstack(tf.shape(image))
    image = tf.concat(
        [image, tf.zeros([height, side - width, 3], tf.uint8)], 1
    )  # quicker than tf.pad
    image = tf.concat([image, tf.zeros([side - height, side, 3], tf.uint8)], 0)
    return tf.ensure_shape(image, [side, side, 3])


def fitted(shape, side: int):
    """The shape [2] of an image on a canvas."""
    tf = tensorflow()
    scale = tf.minimum(side / tf.reduce_max(shape), 1.0)
    return tf.maximum(tf.cast(tf.round(scale * tf.cast(shape, tf.float64)), tf.int32), 1)


def placed(view: View, image, parameters: dict, side: int):
    """The crop's place on the canvas: float32 [4], top, left, height and width in its pixels."""
    tf = tensorflow()
    shape = tf.shape(image)
    begin, extent = tf.zeros([3], tf.int32), shape
    if 'crop' in parameters:
        begin, extent = crop_box(view, shape, parameters['crop'])
    box = tf.stack([begin[:2], extent[:2]])
    return tf.cast(tf.reshape(box * fitted(shape[:2], side) / shape[:2], [4]), tf.float32)


def crop_box(view: View, shape, drawn):
    """The (begin, extent) of a slice of an image of `shape` [3], each [3], by `drawn` of `sample`."""
    box = flavours.resized_box if view.flavour == 'torch' else flavours.sampled_box
    return box(view, shape, drawn)


def changed(view: View, x, parameters: dict):
    """All operations after the crop: float32 [S, S, 3] in [0, 255] -> the same."""
    tf = tensorflow()
    if 'rotate' in parameters:
        x = tf.image.rot90(x, parameters['rotate'])
    if 'flip' in parameters:
        x = tf.cond(parameters['flip'], lambda: tf.reverse(x, [1]), lambda: x)
    if 'policy' in parameters:
        made = policies.apply(policy(view), tf.cast(x + 0.5, tf.uint8), parameters)
        x = tf.cast(tf.ensure_shape(made, x.shape), tf.float32)
    if 'cutout' in parameters:
        x = policies.cutout(x, view.cutout, parameters['cutout'])
    if 'jitter' in parameters:
        x = tf.cond(parameters['jitter'], lambda: jitter(view, x, parameters), lambda: x)
    if 'grayscale' in parameters:
        grey = lambda: tf.tile(flavours.luma(x)[..., None], [1, 1, 3])
        x = tf.cond(parameters['grayscale'], grey, lambda: x)
    if 'blur' in parameters:
        sigma, reach = parameters['sigma'], radius(view)
        torch = flavours.mirrored if view.kernel else flavours.boxes
        blur = torch if view.flavour == 'torch' else flavours.gaussian
        x = tf.cond(parameters['blur'], lambda: blur(x, sigma, reach), lambda: x)
    if 'solarize' in parameters:
        x = tf.cond(parameters['solarize'], lambda: tf.minimum(x, 255 - x), lambda: x)
    return x


def jitter(view: View, x, parameters: dict):
    """The colour operations in the order of `parameters`, each clipped to the range of pixels."""
    tf = tensorflow()
    operations, names = flavours.colours(view), list(strengths(view))
    for k in range(len(names)):
        branches = [lambda x=x, name=name: operations[name](x, parameters[name]) for name in names]
        x = flavours.clipped(tf.switch_case(parameters['order'][k], branches))
    return x


def central(view: View, size: int, crop: float) -> Central:
    """The view in which the images are evaluated that are trained on in `view`."""
    torch = view.flavour == 'torch'
    return Central(size, crop, 'torch', view.interpolation) if torch else Central(size, crop)


def evaluation(image, view: Central):
    """The central square, resized: uint8 [h, w, 3] -> uint8 [size, size, 3]. The flavour torch resizes
    first and cuts then, as torchvision's Resize and CenterCrop do."""
    tf = tensorflow()
    shape, size = tf.shape(image)[:2], view.size
    short = tf.reduce_min(shape)
    if view.flavour == 'torch':
        whole = shape * round(size / view.crop) // short
        x = flavours.antialiased(image, (whole[0], whole[1]), view.interpolation)
        begin = tf.cast(tf.round((whole - size) / 2), tf.int32)
        x = tf.slice(x, tf.concat([begin, [0]], 0), [size, size, 3])
        return tf.cast(x, tf.uint8)
    side = tf.cast(tf.round(view.crop * tf.cast(short, tf.float32)), tf.int32)
    begin = (shape - side + 1) // 2
    image = tf.slice(image, tf.concat([begin, [0]], 0), tf.stack([side, side, 3]))  # [s, s, 3]
    x = flavours.resize(image, [size, size], view.interpolation)
    return tf.cast(tf.ensure_shape(x, [size, size, 3]) + 0.5, tf.uint8)


def blank(view: View, examples: int):
    return np.zeros((examples, view.size, view.size, 3), np.uint8)
