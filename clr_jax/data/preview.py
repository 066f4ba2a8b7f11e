"""What a config's views of images look like: `python -m clr_jax.data.preview --config=configs/simclr_cifar10.py`.

Writes a PNG with a row for each of the first examples that a run of the config sees: the image, as much
of it as a view is large, then its views. Prints what was drawn for each view, in words, and the path.
"""

import numpy as np
from absl import flags

from clr_jax import entry

FLAGS = flags.FLAGS


def define_flags():
    """The flags of this program; not at import, for others use its functions."""
    entry.define_config()
    flags.DEFINE_integer('examples', 4, 'How many rows.')
    flags.DEFINE_string('output', 'preview.png', 'The file to write.')
    entry.define_flags()


def main():
    """Flags, views, the file."""
    from etils import epath

    from clr_jax.data.augment import tensorflow
    from clr_jax.evaluate.pictures import grid

    if FLAGS.config is None:
        hint = '--config is missing, e.g. --config=configs/simclr_digits.py'
        raise entry.Problem(hint, entry.USAGE)
    pictures, words = preview(FLAGS.config.to_dict(), FLAGS.examples)
    path = epath.Path(entry.absolute(FLAGS.output))
    with entry.writing(f'--output={path}'):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tensorflow().io.encode_png(grid(pictures / 255)).numpy())
    print(*words, path, sep='\n', flush=True)


def preview(config: dict, examples: int) -> tuple[np.ndarray, list[str]]:
    """-> ([n, 1 + views, S, S, 3] uint8: the first examples of the config's first epoch and their views,
    in the corner of squares of the largest one's size; what was drawn for each)."""
    from clr_jax.data import augment, pipeline, sources, subsets, views
    from clr_jax.data.damage import Reader

    tf = augment.tensorflow()
    source = subsets.subset(sources.load(config['data'], 'train'), **config['subset'])
    groups = [views.make(section, f'config.views.{n}') for n, section in config['views'].items()]
    each = [view for view in groups for _ in range(view.copies)]
    shown = [(k, view) for k, view in enumerate(each) if isinstance(view, augment.View)]
    if not shown:
        raise entry.Problem('config.views has no images to show')
    if not 1 <= examples <= source.size:
        raise entry.Problem(
            f'--examples={examples}: {source.name} has {source.size}, show 1 or more'
        )
    order, keys = pipeline.ordered(source, config['seed'], 0, np.arange(examples))
    drawn = [augment.sample(v, keys, k) for k, v in shown]
    side = max(view.size for _, view in shown)
    pictures, words = [], []
    read = Reader(source).search(order)
    for row, number in enumerate(order):
        image = source.read(tf.constant(read[row]))['image']
        pictures.append([augment.canvas(image, side)])
        for (k, view), parameters in zip(shown, drawn, strict=True):
            own = {name: value[row] for name, value in parameters.items()}
            made = augment.apply(view, image, {n: tf.constant(x) for n, x in own.items()})
            pictures[-1].append(augment.canvas(made, side))
            said = described(view, image.shape, own) or 'as it is'
            words.append(f'example {number}, view {k}: {said}')
    return np.array(pictures), words


def described(view, shape, drawn: dict) -> str:
    """A row of `augment.sample` in words, in the order in which its operations are applied."""
    from clr_jax.data import augment, policies

    said = []
    if 'crop' in drawn:
        begin, extent = (x.numpy() for x in augment.crop_box(view, shape, drawn['crop']))
        size = f'{extent[0]} x {extent[1]} of {shape[0]} x {shape[1]}'
        said.append(f'rows and columns {size} from ({begin[0]}, {begin[1]})')
    said += [f'turned by {90 * drawn["rotate"]} degrees'] if drawn.get('rotate') else []
    said += ['flipped'] if drawn.get('flip') else []
    if 'policy' in drawn:
        names = ['', *policies.used(augment.policy(view))]
        numbers = drawn['policy'] * drawn.get('applied', 1)
        pairs = zip(numbers, drawn['argument'], strict=True)
        said += [f'{names[number]} {value:g}' for number, value in pairs if number]
    said += [f'cut out around {tuple(map(int, drawn["cutout"]))}'] if 'cutout' in drawn else []
    if drawn.get('jitter'):
        names = list(augment.strengths(view))
        for name in (names[k] for k in drawn['order']):
            shift = name == 'hue' or (name == 'brightness' and view.additive)
            said.append(f'{name} {"" if shift else "x "}{drawn[name]:{"+" if shift else ""}.2f}')
    said += ['grey'] if drawn.get('grayscale') else []
    said += [f'blurred by {drawn["sigma"]:.2f} pixels'] if drawn.get('blur') else []
    said += ['solarized'] if drawn.get('solarize') else []
    return ', '.join(said)


if __name__ == '__main__':
    define_flags()
    entry.run(main)
