"""Batches of views, each a pure function of (seed, step): from any step on, on any number of processes."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clr_jax.data import augment, device_augment, index, text, views
from clr_jax.data.augment import tensorflow
from clr_jax.data.damage import Reader
from clr_jax.data.records import reason
from clr_jax.entry import CONFIG, DATA, Problem


def train_batches(source, groups, *, start=0, **settings):
    """Endless training batches from step `start` on, each what `train_batch` makes by these settings."""
    return _ahead(train_batch(source, groups, **settings), range(start, 2**62))


def train_batch(source, groups, *, seed, batch_size, rows=None, threads=None, canvas=None):
    """-> make(step): the training batch of any step.

    `groups` are groups of views (of `views.KINDS`). `batch_size` is the global one, of which this process
    makes the rows [first, last) = `rows` (None: all). An epoch is size // batch_size steps; what
    remains is left out, other examples each epoch. canvas: None, or where devices make the views of
    images: 0, of crops, or of whole images on a square of so many pixels a side.

    It is {'views': tuple of arrays [b, ...], 'label': int32 [b] (-1: none), 'index': int32 [b]}; the
    views are numbered group after group: images uint8 [b, S, S, 3], tokens int32 [b, length],
    recordings int16 [b, samples], frames uint8 [b, S, S, channels]. For devices there are besides what
    they are to draw, and with it the canvas that the views are then places on: what
    `device_augment.made` takes. For an example that cannot be read another is (`damage.Reader`).
    """
    steps = source.size // batch_size
    if not steps:
        few = f'{source.name} has {source.size} examples'
        raise Problem(f'config.batch_size={batch_size} is too large: {few}', CONFIG)
    each = [views.of(view).check(view) for view in groups for _ in range(view.copies)]
    images = any(isinstance(view, augment.View) for view in each)
    place = np.arange(*(rows or (0, batch_size)))

    def plan(step):
        epoch, position = divmod(step, steps)
        indices, keys = ordered(source, seed, epoch, position * batch_size + place)
        now = [views.at(view, epoch) for view in each]
        drawn = tuple(views.of(v).sample(v, keys, k) for k, v in enumerate(now))
        if canvas is None:
            return indices, drawn
        host, device = zip(*map(device_augment.split, each, drawn), strict=True)
        return indices, host, device

    def show(view, read, parameters):
        if canvas and isinstance(view, augment.View):
            return augment.placed(view, read['image'], parameters, canvas)
        return views.show(view, read, parameters)

    def example(i, parameters):
        read = source.read(i)
        pairs = zip(each, parameters, strict=True)
        made = tuple(show(view, read, p) for view, p in pairs)
        whole = {'canvas': augment.canvas(read['image'], canvas)} if canvas and images else {}
        return {'views': made, 'label': read['label']} | whole

    return _maker(source, each, plan, example, threads)


def ordered(source, seed, epoch, place):
    """The examples [b] at these places [b] of an epoch, and the keys [b] of what is drawn for them: of
    (seed, epoch, example), and of the time where one comes again in the epoch."""
    key = index.key(seed, epoch)
    if source.order is None:
        indices = index.permutation(place, source.size, key)
        return indices, index.fold(key, indices)
    indices, turns = source.order(place, key)
    keys = index.fold(key, indices)
    return indices, np.where(turns, index.fold(keys, turns), keys)


def eval_batches(source, shown, *, batch_size, rows=None, indices=None, threads=None):
    """Each example (or each of `indices`) once, in order, in the views `shown` (`views.evaluated`).

    Batches as in training; the last is filled up with rows of index -1 and label -1.
    """
    indices = np.arange(source.size) if indices is None else np.asarray(indices)
    indices = np.append(indices, np.full(-len(indices) % batch_size, -1))
    first, last = rows or (0, batch_size)
    batches = indices.reshape(-1, batch_size)[:, first:last]

    def plan(step):
        return (batches[step],)

    def example(i):
        read = source.read(i)
        made = tuple(views.show(view, read, {}) for view in shown)
        return {'views': made, 'label': read['label']}

    return _ahead(_maker(source, shown, plan, example, threads), range(len(batches)))


def _maker(source, shown, plan, example, threads):
    """-> make(step), a batch: `example` of each row of `plan(step)`, (numbers, parameters of the host, and
    of devices, as far as there are), whose views are those `shown`."""
    tf = tensorflow()
    threads = threads or os.cpu_count()
    options = tf.data.Options()
    options.threading.max_intra_op_parallelism = 1

    @tf.function(autograph=False)
    def compute(*rows):
        data = tf.data.Dataset.from_tensor_slices(rows).with_options(options)
        data = data.map(example, num_parallel_calls=threads, deterministic=True)
        return data.batch(rows[0].shape[0], drop_remainder=True).get_single_element()

    reader = Reader(source, threads)
    ends = [text.finisher(v, source) if isinstance(v, text.Text) else None for v in shown]

    def make(step):
        numbers, *planned = plan(step)
        known = reader.known(numbers)
        try:
            batch = compute(known, *planned[:1])
        except tf.errors.OpError as error:
            if ((found := reader.search(numbers)) == known).all():
                raise Problem(f'{source.name} cannot be read: {reason(error)}', DATA) from error
            batch = compute(found, *planned[:1])
        drawn = planned[0] if planned else ({},) * len(shown)
        made = (
            end(x.numpy(), parameters) if end else np.asarray(memoryview(x))  # no copy
            for end, x, parameters in zip(ends, batch['views'], drawn, strict=True)
        )
        rest = {key: np.asarray(memoryview(x)) for key, x in batch.items() if key != 'views'}
        rest['label'] = np.where(numbers < 0, np.int32(-1), rest['label'])
        rest['index'] = numbers.astype(np.int32)
        return {'views': tuple(made)} | rest | ({'drawn': planned[1]} if planned[1:] else {})

    return make


def _ahead(make, steps):
    """The batch of each of `steps`. Two are in the making ahead of the one in use, each in one call from a
    Python thread, which a program that ends waits for: a callback from TensorFlow into Python under way
    then would hang it (`records` reads tar files and ArrayRecord by such)."""
    workers = ThreadPoolExecutor(2)
    ahead: deque = deque()
    for step in steps:
        ahead.append(workers.submit(make, step))
        if len(ahead) > 2:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()
