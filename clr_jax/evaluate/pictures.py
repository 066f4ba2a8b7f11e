"""What a run has learned to see: `python -m clr_jax.evaluate.pictures --workdir=runs/dino_imagenet`.

Writes `pictures/<name>_<step>.png` in the workdir for each thing that the method can show, a row of
pictures for each example, and prints the paths on stdout.
"""

import numpy as np
from absl import flags

from clr_jax import entry

SIDE, GAP = 64, 2  # pixels: small pictures are enlarged to the first at least


def define_flags():
    """The flags of this program; not at import, for others use its functions."""
    flags.DEFINE_string('workdir', None, 'The run to look at.')
    flags.DEFINE_integer('step', -1, 'The checkpoint; -1: the latest.')
    flags.DEFINE_integer('examples', 8, 'How many, from the first on.')
    flags.DEFINE_string('split', 'test', 'Of which: train | test.')
    flags.DEFINE_string(
        'data_dir', None, "Where the data is now, if not where the run's config says (tfds)."
    )
    entry.define_flags()


def main():
    """Flags, devices, pictures."""
    given = flags.FLAGS
    if given.workdir is None:
        raise entry.Problem('--workdir is missing: the folder of a run', entry.USAGE)
    entry.start_devices()
    which = {name: given[name].value for name in ('step', 'examples', 'split', 'data_dir')}
    draw(entry.absolute(given.workdir), **which)


def draw(workdir, *, step=-1, examples=8, split='test', data_dir=None) -> list[str]:
    """Write the pictures of the run in `workdir`; print and return their paths."""
    import jax
    from etils import epath

    from clr_jax import config as configs
    from clr_jax import parallel
    from clr_jax.data import pipeline, sources, views
    from clr_jax.data.augment import tensorflow
    from clr_jax.train import restore

    entry.known([split], ('train', 'test'), '--split')
    config = configs.saved(workdir)
    run, ts, step = restore(workdir, step)
    if run.method.pictures is None:
        what = f'config.method.name={config["method"]["name"]}'
        around = f'config.encoder.name={config["encoder"]["name"]}'
        raise entry.Problem(f'{workdir}: {what} with {around} has no pictures to show')
    config['data'] |= {'data_dir': data_dir} if data_dir else {}
    source = sources.load(config['data'], split)
    if not 1 <= examples <= source.size:
        raise entry.Problem(
            f'--examples={examples}: {source.name} has {source.size}, show 1 or more'
        )
    chosen = {'batch_size': examples, 'indices': np.arange(examples)}
    batch = next(pipeline.eval_batches(source, views.evaluated(config), **chosen))
    see = jax.jit(run.method.pictures, out_shardings=parallel.replicated(parallel.make_mesh()))
    seen = jax.device_get(see(ts.params, ts.state, batch, key=jax.random.key(config['seed'])))
    if jax.process_index():
        return []
    folder, paths = epath.Path(workdir) / 'pictures', []
    for name, pictures in seen.items():
        path = folder / f'{name}_{step}.png'
        with entry.writing(path):
            folder.mkdir(exist_ok=True)
            path.write_bytes(tensorflow().io.encode_png(grid(pictures)).numpy())
        print(path, flush=True)
        paths.append(str(path))
    return paths


def grid(pictures) -> np.ndarray:
    """Pictures [n, k, h, w, 3] in 0..1 -> uint8 [height, width, 3]: a row of k for each of the n,
    white gaps between them, each enlarged by a whole factor to at least 64 pixels a side."""
    n, k, h, w, _ = pictures.shape
    factor = -(-SIDE // min(h, w, SIDE))
    x = np.rint(255 * np.clip(pictures, 0, 1)).astype(np.uint8)
    x = x.repeat(factor, 2).repeat(factor, 3)  # [n, k, H, W, 3]
    gaps = ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0))
    x = np.pad(x, gaps, constant_values=255)
    x = x.transpose(0, 2, 1, 3, 4).reshape(n * x.shape[2], k * x.shape[3], 3)
    return x[:-GAP, :-GAP]


if __name__ == '__main__':
    define_flags()
    entry.run(main)
