"""A prepared TFDS data set in a bucket, with what reading from there at random needs:
`python -m clr_jax.data.bucket --dataset=imagenet2012 --data_dir=/data/tfds --to=gs://my-bucket/tfds`.

Then `--config.data.data_dir=gs://my-bucket/tfds`. The same command goes on with a copy that was interrupted.
"""

import io
import os

import numpy as np
from absl import flags

from clr_jax import entry


def define_flags():
    """The flags of this program; not at import, for others use its functions."""
    flags.DEFINE_string('dataset', None, "The data set, as in a config's config.data.dataset.")
    flags.DEFINE_string('data_dir', None, "Where it is prepared; None: TFDS's own default.")
    flags.DEFINE_string('to', None, 'Where to copy it: the data_dir from then on.')
    entry.define_flags()


def main():
    """Flags, copy."""
    given = flags.FLAGS
    for name in ('dataset', 'to'):
        if not given[name].value:
            raise entry.Problem(f'--{name} is missing', entry.USAGE)
    copy(given.dataset, given.data_dir, given.to)


def copy(dataset: str, data_dir: str | None, to: str):
    """Copy the files of a prepared data set below `to`, a folder or a bucket, and beside each file of
    records where its records begin. What makes it known, its description, comes last."""
    from clr_jax.data import images, records
    from clr_jax.data.augment import tensorflow
    from clr_jax.log import say

    gfile = tensorflow().io.gfile
    builder = images.prepared(dataset, data_dir)
    if builder.info.file_format.value != 'tfrecord':
        what = f'{dataset} is stored as {builder.info.file_format.value}'
        raise entry.Problem(f'{what}: only tfrecord can be read from a bucket', entry.INPUT)
    folder = f'{to.rstrip("/")}/{builder.info.full_name}'
    files = sorted(builder.data_path.iterdir(), key=lambda p: (p.suffix == '.json', p.name))
    with entry.writing(f'--to={to}'):
        gfile.makedirs(folder)
        for number, file in enumerate(files, 1):
            target, size = f'{folder}/{file.name}', os.path.getsize(file)
            if gfile.exists(target) and gfile.stat(target).length == size:
                continue
            if '.tfrecord' in file.name:
                index = io.BytesIO()
                np.save(index, np.append(records.offsets(str(file)), size))
                with gfile.GFile(target + records.INDEX, 'wb') as written:
                    written.write(index.getvalue())
            gfile.copy(str(file), target, overwrite=True)
            say(f'{number}/{len(files)} {target}')


if __name__ == '__main__':
    define_flags()
    entry.run(main)
