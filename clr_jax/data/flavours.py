"""Operations on pixels, in a graph, in two flavours that share their names and settings and differ in what
comes out: `tf`, TensorFlow's, of SimCLR and BYOL, and `torch`, torchvision's and Pillow's, of most
other published codes.

| | tf | torch |
|---|---|---|
| crop | area and aspect as TensorFlow's sampler draws them, a least share of the image | area uniform, aspect log-uniform, ten tries, then the middle |
| resizing | without antialiasing | Pillow's: antialiased, rounded to whole levels after each axis |
| contrast | around each channel's mean | around the mean brightness |
| saturation | of the S in HSV | between the picture and its brightness |
| blur | a Gaussian a tenth of the side wide, black outside | Pillow's three box filters, the border repeated |

Colours are computed in float32 between 0 and 255 and rounded once, in the end, where Pillow rounds after
each operation. Brightness (a factor), hue, grayscale and solarisation are the same in both.
"""

from clr_jax.data.graph import tensorflow

FLAVOURS = ('tf', 'torch')
LUMA = (0.2989, 0.587, 0.114)
TRIES = 10  # of torchvision's crop


def sampled_box(view, shape, seed):
    """SimCLR's random crop of an image of `shape` [3]: the (begin, extent) of a slice, each [3].

    A pure function of its arguments, `seed` [2] int32 among them: TensorFlow's sampler of distorted
    boxes, at most 100 tries, else the whole image.
    """
    begin, extent, _ = tensorflow().raw_ops.StatelessSampleDistortedBoundingBox(
        image_size=shape,
        bounding_boxes=[[[0.0, 0.0, 1.0, 1.0]]],
        min_object_covered=view.min_object_covered,
        seed=seed,
        aspect_ratio_range=list(view.ratio),
        area_range=list(view.area),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, extent


def resized_box(view, shape, draws):
    """The random crop of torchvision's RandomResizedCrop: (begin, extent), each [..., 3] int32.

    draws: [..., 2 * TRIES + 2] float64 in [0, 1), the area and the aspect of each try, and the place of
    the first that fits. If none does, the largest central crop whose aspect is allowed.
    """
    tf = tensorflow()
    height, width = (tf.cast(shape[axis], tf.float64) for axis in (0, 1))
    area, aspect, place = tf.split(draws, [TRIES, TRIES, 2], -1)
    (least, most), (narrow, wide) = view.area, (tf.cast(x, tf.float64) for x in view.ratio)
    area = height * width * (least + (most - least) * area)  # [..., tries]
    aspect = tf.exp(tf.math.log(narrow) + tf.math.log(wide / narrow) * aspect)
    tries = tf.round(tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)], -1))
    whole = tf.stack([height, width])
    fits = tf.reduce_all((0 < tries) & (tries <= whole), -1)  # [..., tries]
    first = tf.argmax(fits, -1)
    found = tf.gather(tries, first, axis=-2, batch_dims=len(draws.shape) - 1)  # [..., 2]
    most_central = tf.minimum(whole, tf.round(tf.stack([width / narrow, height * wide])))
    fitted = tf.reduce_any(fits, -1, keepdims=True)
    extent = tf.where(fitted, found, most_central)
    begin = tf.floor(tf.where(fitted, place * (whole - extent + 1), (whole - extent) / 2))
    begin, extent = (tf.cast(x, tf.int32) for x in (begin, extent))
    channels = tf.ones_like(extent[..., :1])
    return tf.concat([begin, 0 * channels], -1), tf.concat([extent, -channels], -1)


def resize(x, shape, interpolation: str):
    """TensorFlow's resizing of [h, w, 3] to `shape` (height, width), without antialiasing: float32 in
    [0, 255]; of all, bicubic alone overshoots."""
    tf = tensorflow()
    x = tf.cast(tf.image.resize(x, shape, interpolation), tf.float32)
    return clipped(x) if interpolation == 'bicubic' else x


def antialiased(x, shape, interpolation: str):
    """Pillow's resizing of uint8 [h, w, 3] to `shape` (height, width): whole levels, as float32. First
    along the rows, then along the columns."""
    tf = tensorflow()
    for size in (shape[1], shape[0]):
        x = tf.transpose(x, [1, 0, 2])
        n, m = tf.shape(x)[0], tf.shape(x)[1]
        rows = tf.reshape(x, [n, 1, 3 * m])  # as in `filtered`
        rows = tf.image.resize(rows, (size, 1), interpolation, antialias=True)
        x = tf.reshape(tf.cast(clipped(rows) + 0.5, tf.uint8), [size, m, 3])
    return tf.cast(x, tf.float32)


def clipped(x):
    """In [0, 255]; TensorFlow's clip_by_value takes longer."""
    tf = tensorflow()
    return tf.minimum(tf.maximum(x, 0.0), 255.0)


def colours(view) -> dict:
    """The operations of a jitter, {name: function of [S, S, 3] in [0, 255] and a number}."""
    tf = tensorflow()
    torch = view.flavour == 'torch'
    brighter = (lambda x, shift: x + 255 * shift) if view.additive else (lambda x, f: x * f)
    return {
        'brightness': brighter,
        'contrast': contrast if torch else tf.image.adjust_contrast,
        'saturation': saturation if torch else tf.image.adjust_saturation,
        'hue': tf.image.adjust_hue,
    }


def contrast(x, factor):
    """torchvision's: around the mean brightness."""
    mean = tensorflow().reduce_mean(luma(x))
    return mean + factor * (x - mean)


def saturation(x, factor):
    """torchvision's: between the brightness of each pixel and the pixel, and beyond."""
    grey = luma(x)[..., None]
    return grey + factor * (x - grey)


def luma(x):
    """The brightness of each pixel. As a product of matrices its bits would depend on the processor."""
    red, green, blue = tensorflow().unstack(x, axis=2)  # [S, S] each
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def gaussian(x, sigma, radius: int):
    """Gaussian blur of [S, S, 3] by 2 * radius + 1 taps; outside it is black, as in SimCLR."""
    tf = tensorflow()
    reach = tf.minimum(float(radius), tf.math.ceil(5 * sigma))  # beyond are under 1e-6 of the sum
    taps = bell(sigma, reach)
    return both_axes(x, lambda x: filtered(x, taps, 'SAME'))


def mirrored(x, sigma, radius: int):
    """Gaussian blur of [S, S, 3] by 2 * radius + 1 taps, the picture mirrored at its borders, as
    torchvision and OpenCV have it."""
    tf = tensorflow()
    size, taps = x.shape[0], bell(sigma, float(radius))
    place = size - 1 - abs(size - 1 - abs(tf.range(-radius, size + radius)))
    return both_axes(x, lambda x: filtered(tf.gather(x, place), taps, 'VALID'))


def boxes(x, sigma, radius: int):
    """Pillow's GaussianBlur(sigma) of [S, S, 3]: three times a box filter, the border repeated, which
    has the variance of a Gaussian. radius: of the box for the largest sigma, rounded up."""
    tf = tensorflow()
    size, width = x.shape[0], box_radius(sigma)
    distance = tf.abs(tf.range(-radius, radius + 1.0))
    taps = tf.clip_by_value(width + 1 - distance, 0, 1) / (2 * width + 1)
    place = tf.clip_by_value(tf.range(-radius, size + radius), 0, size - 1)

    def thrice(x):
        for _ in range(3):
            x = filtered(tf.gather(x, place), taps, 'VALID')
        return x

    return both_axes(x, thrice)


def box_radius(sigma):
    """The radius, a fraction, of the box filter of which three in a row make Pillow's Gaussian blur of
    `sigma` (Gwosdek et al., 2011); of numbers and arrays of any library."""
    variance = sigma**2 / 3  # of one of them
    whole = ((12 * variance + 1) ** 0.5 - 1) // 2
    rest = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole + rest / (6 * (variance - (whole + 1) ** 2))


def bell(sigma, reach):
    """The 2 * reach + 1 taps of a Gaussian, of sum 1."""
    tf = tensorflow()
    taps = tf.exp(-(tf.range(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return taps / tf.reduce_sum(taps)


def both_axes(x, change):
    """[h, w, 3] changed by what changes a first axis, along the second and the first."""
    for _ in range(2):
        x = change(tensorflow().transpose(x, [1, 0, 2]))
    return x


def filtered(x, taps, padding: str):
    """[h, w, 3] filtered by `taps` along its first axis: rows of 3 w channels, of which TensorFlow takes
    as many at once as the processor can, but pixels of 3 one by one."""
    tf = tensorflow()
    channels = 3 * x.shape[1]
    kernel = tf.tile(taps[:, None, None, None], [1, 1, channels, 1])  # [k, 1, 3 w, 1]
    rows = tf.reshape(x, [1, -1, 1, channels])
    y = tf.nn.depthwise_conv2d(rows, kernel, [1, 1, 1, 1], padding)
    return tf.reshape(y, [-1, *x.shape[1:]])
