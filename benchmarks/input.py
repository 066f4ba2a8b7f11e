"""Images per second and core of the input pipeline, stage by stage, beside others, in one interleaved run.

    python benchmarks/input.py [--rounds=5] [--images=64]

Two views of 224 pixels by SimCLR's settings, of JPEG files like ImageNet's (500 x 375, 375 x 500 and
500 x 333) that are cut from the photographs of scikit-learn and, where it is installed, scikit-image.
Ours is the library's own code, `folder` and `pipeline.train_batch`, on one thread. Beside it stand a
plain tf.data pipeline, written here with TensorFlow's operations, and of these libraries what is
installed: torchvision, albumentations and grain (with OpenCV).

All take turns in one process. Printed are images (not views) per second of CPU time, the median of the
rounds, and the ratio to the plain pipeline of the same round, with blur where the contender has it.
"""

import argparse
import importlib
import os
import statistics
import tempfile
import time
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from clr_jax.data import pipeline, records, sources
from clr_jax.data.augment import View, tensorflow
from clr_jax.entry import keep_memory

SHAPES = ((375, 500), (375, 500), (375, 500), (500, 375), (333, 500))  # of five files
SIZE, RADIUS = 224, 11
BLURRED, PLAIN = 'plain tf.data', 'plain tf.data without blur'


def main():
    """Make the files, let the contenders take turns, print the table."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--images', type=int, default=64, help='of a contender in a round')
    options = parser.parse_args()
    keep_memory()  # as every program of this library does
    peers = installed()
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), max(2 * options.images, 100))
        size = sum(os.path.getsize(path) for path in paths) / len(paths)
        turns = contenders(folder, paths, options.images)
        for peer in peers:
            turns |= peer(paths, options.images)
        spent: dict = {name: [] for name in turns}
        for turn in turns.values():
            turn()  # graphs are traced, files read
        for _ in range(options.rounds):
            for name, turn in turns.items():
                begun = time.process_time()
                turn()
                spent[name].append((time.process_time() - begun) / options.images)
    print(f'{len(paths)} JPEG files of {size / 1000:.0f} kB on average; {options.rounds} rounds\n')
    print(table(spent))


def table(spent: dict) -> str:
    """The seconds of each round by contender, as Markdown."""
    lines = ['| | images/s | lowest, highest | to the plain one |', '|---|---|---|---|']
    for name, values in spent.items():
        plain = spent[PLAIN if 'blur' in name or 'decod' in name else BLURRED]
        ratio = statistics.median(b / a for a, b in zip(values, plain, strict=True))
        speed, low, high = (1 / f(values) for f in (statistics.median, max, min))
        lines.append(f'| {name} | {speed:.0f} | {low:.0f}, {high:.0f} | {ratio:.2f} |')
    return '\n'.join(lines)


def contenders(folder: str, paths: list, n: int) -> dict:
    """{name: a function that makes the views of n images}."""
    found = {PLAIN: plain(paths, n, blur=False), BLURRED: plain(paths, n, blur=True)}
    found['decoding alone'] = decoding(paths, n)
    make = partial(ours, folder, n)
    found['decoding to a canvas of 512'] = make(View(), 512)
    for flavour in ('tf', 'torch'):
        view = View(flavour=flavour)
        linear = view._replace(interpolation='bilinear')
        found[f'{flavour}: decoding and crops, bilinear'] = make(linear, 0)
        found[f'{flavour}: decoding and crops, bicubic'] = make(view, 0)
        found[f'{flavour}: all without blur'] = make(view._replace(blur=0.0), None)
        found[f'{flavour}: all'] = make(view, None)
    return found


def installed() -> list:
    """The peers that can be imported. They come before TensorFlow, after which PyTorch crashes."""
    os.environ['NO_ALBUMENTATIONS_UPDATE'] = '1'  # nor ask the network for one
    found = []
    for peer, needs in ((torchvision, 'torch'), (albumentations, 'cv2'), (grain, 'cv2')):
        try:
            for name in (needs, peer.__name__):
                importlib.import_module(name)
            found.append(peer)
        except ImportError as error:
            print(f'without {peer.__name__}: {error}')
    return found


def ours(folder: str, n: int, view: View, canvas: int | None):
    """This library, on one thread; canvas: as of `pipeline.train_batch`."""
    source = sources.folder('train', path=folder, test_fraction=1e-9)
    make = pipeline.train_batch(source, [view], seed=0, batch_size=n, threads=1, canvas=canvas)
    step = iter(range(10**9))
    return lambda: make(next(step))


def plain(paths: list, n: int, blur: bool):
    """TensorFlow's operations as they come: decoded once, float32 from the beginning."""
    tf = tensorflow()

    def view(image):
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            *(tf.shape(image), tf.constant([[[0.0, 0.0, 1.0, 1.0]]])),
            min_object_covered=0.1,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        x = tf.image.resize(tf.slice(image, begin, size), [SIZE, SIZE], 'bicubic')
        x = tf.image.random_flip_left_right(tf.ensure_shape(x, [SIZE, SIZE, 3]))
        x = sometimes(0.8, jitter, x)
        x = sometimes(0.2, lambda x: tf.tile(tf.image.rgb_to_grayscale(x), [1, 1, 3]), x)
        x = sometimes(0.5, gaussian, x) if blur else x
        return tf.clip_by_value(x, 0.0, 1.0)

    def sometimes(probability, change, x):
        return tf.cond(tf.random.uniform([]) < probability, lambda: change(x), lambda: x)

    def jitter(x):
        operations = (
            lambda x: x * tf.random.uniform([], 0.2, 1.8),
            lambda x: tf.image.random_contrast(x, 0.2, 1.8),
            lambda x: tf.image.random_saturation(x, 0.2, 1.8),
            lambda x: tf.image.random_hue(x, 0.2),
        )
        order = tf.random.shuffle(tf.range(4))
        for k in range(4):
            branches = [partial(each, x) for each in operations]
            x = tf.clip_by_value(tf.switch_case(order[k], branches), 0.0, 1.0)
        return x

    def gaussian(x):
        sigma = tf.random.uniform([], 0.1, 2.0)
        taps = tf.exp(-(tf.range(-RADIUS, RADIUS + 1.0) ** 2) / (2 * sigma**2))
        taps = tf.tile((taps / tf.reduce_sum(taps))[:, None, None, None], [1, 1, 3, 1])
        x = tf.nn.depthwise_conv2d(x[None], taps, [1, 1, 1, 1], 'SAME')
        return tf.nn.depthwise_conv2d(x, tf.transpose(taps, [1, 0, 2, 3]), [1] * 4, 'SAME')[0]

    def example(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        image = tf.image.convert_image_dtype(image, tf.float32)
        return view(image), view(image)

    return stepping(paths, example, n)


def decoding(paths: list, n: int):
    """Reading and decoding of this library, and nothing else."""
    read = lambda path: tensorflow().shape(records.decode(tensorflow().io.read_file(path)))
    return stepping(paths, read, n)


def stepping(paths: list, example, n: int):
    """A function that makes a batch of the next n files by `example`, in a tf.data pipeline on one thread."""
    tf = tensorflow()
    options, files = tf.data.Options(), taking(paths, n)
    options.threading.private_threadpool_size = options.threading.max_intra_op_parallelism = 1

    @tf.function(autograph=False)
    def made(some):
        data = tf.data.Dataset.from_tensor_slices(some).with_options(options)
        return data.map(example).batch(n, drop_remainder=True).get_single_element()

    return lambda: made(tf.constant(next(files)))


def torchvision(paths: list, n: int) -> dict:
    """Its transforms v2, of uint8 tensors, and its decoder."""
    import torch
    from torchvision.io import decode_jpeg, read_file
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    crop, flip = v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()
    colour = v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8)
    blur = v2.RandomApply([v2.GaussianBlur(2 * RADIUS + 1, (0.1, 2.0))], 0.5)
    whole = [crop, flip, colour, v2.RandomGrayscale(0.2)]
    made = {'torchvision: decoding and crops': [crop], 'torchvision: all without blur': whole}
    made['torchvision: all'] = [*whole, blur]
    load = lambda path: decode_jpeg(read_file(path))
    keep = lambda views: torch.stack(views)
    return {name: turning(paths, n, load, v2.Compose(each), keep) for name, each in made.items()}


def albumentations(paths: list, n: int) -> dict:
    """Its transforms, with OpenCV, of uint8 arrays."""
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)
    whole = [
        A.RandomResizedCrop((SIZE, SIZE), (0.08, 1.0)),
        A.HorizontalFlip(p=0.5),
        A.ColorJitter((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2), p=0.8),
        A.ToGray(p=0.2),
    ]
    blur = A.GaussianBlur((2 * RADIUS + 1, 2 * RADIUS + 1), (0.1, 2.0), p=0.5)
    made = {'albumentations: decoding and crops': whole[:1]}
    made |= {'albumentations: all without blur': whole, 'albumentations: all': [*whole, blur]}

    def views(transforms):
        change = A.Compose(transforms)
        return turning(paths, n, opened, lambda x: change(image=x)['image'], np.stack)

    return {name: views(each) for name, each in made.items()}


def grain(paths: list, n: int) -> dict:
    """Its loader around OpenCV's decoding and crops, without antialiasing."""
    import cv2
    import grain as library

    cv2.setNumThreads(0)

    def crops(path, random):
        image, made = opened(path), []
        for _ in range(2):
            area = np.prod(image.shape[:2]) * random.uniform(0.08, 1.0)
            aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
            size = np.sqrt([area / aspect, area * aspect]).astype(int)
            size = np.minimum(size, image.shape[:2])
            top, left = random.integers(0, image.shape[:2] - size + 1)
            part = image[top : top + size[0], left : left + size[1]]
            made.append(cv2.resize(part, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))
        return np.stack(made)

    data = library.MapDataset.source(paths).seed(0).shuffle().repeat().random_map(crops)
    options = library.ReadOptions(num_threads=0)
    stream = iter(data.batch(n).to_iter_dataset(options))
    return {'grain with OpenCV: decoding and crops, bicubic': lambda: next(stream)}


def opened(path: str):
    """uint8 [h, w, 3] by OpenCV."""
    import cv2

    return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)


def turning(paths: list, n: int, load, view, keep):
    """A function that makes two views of each of the next n files, one after the other."""
    files = taking(paths, n)

    def turn():
        images = [load(path) for path in next(files)]
        return keep([view(image) for image in images for _ in range(2)])

    return turn


def taking(paths: list, n: int):
    """Lists of n of the files, round after round."""
    for k in count(0, n):
        yield [paths[i % len(paths)] for i in range(k, k + n)]


def write(folder: Path, n: int) -> list:
    """So many JPEG files below the folder: their paths."""
    tf, random, pictures = tensorflow(), np.random.default_rng(0), photographs()
    paths = [str(folder / f'{k:04}.jpg') for k in range(n)]
    for k, path in enumerate(paths):
        picture, (height, width) = pictures[k % len(pictures)], SHAPES[k % len(SHAPES)]
        most = min(picture.shape[0] / height, picture.shape[1] / width)  # of the scale of a cut
        h, w = (int(side * most * random.uniform(0.85, 1.0)) for side in (height, width))
        top, left = (
            random.integers(a - b + 1) for a, b in zip(picture.shape, (h, w), strict=False)
        )
        part = picture[top : top + h, left : left + w, :: 1 if k % 2 else -1]
        x = tf.image.resize(part, [height, width], antialias=True)
        x += random.normal(0, 6, (height, width, 1))  # the grain of a photograph not yet shrunk
        x = tf.cast(tf.clip_by_value(x + 0.5, 0, 255), tf.uint8)
        tf.io.write_file(path, tf.io.encode_jpeg(x, quality=94))
    return paths


def photographs() -> list:
    """uint8 [h, w, 3] each."""
    from sklearn.datasets import load_sample_images

    found = [*load_sample_images().images]
    try:
        from skimage import data
    except ImportError:
        print('without the photographs of scikit-image')
        return found
    return found + [getattr(data, name)() for name in ('astronaut', 'coffee', 'chelsea', 'rocket')]


if __name__ == '__main__':
    main()
