"""Where stacks of frames come from: recorded episodes, or (for smoke runs) moving digits."""

from pathlib import Path

import numpy as np

from clr_jax.data import images, index
from clr_jax.data.augment import tensorflow
from clr_jax.data.source import Source, digest, files_below, fraction
from clr_jax.entry import DATA, Problem


def replay(split: str, *, path: str = '', stack: int = 3, test_fraction: float = 0.1) -> Source:
    """Recorded episodes: a directory with an .npz file each, with 'frames' uint8 [t, h, w, c] and,
    if it is known, 'state' [t, k]. An example is `stack` frames in a row, the oldest first, [h, w, stack * c]; whole episodes, by the
    hashes of their names, are the test split."""
    root = Path(path) if path else Path()
    files = [name for name, _ in files_below(root, ('.npz',), 'episodes')]
    held = fraction(test_fraction) * 2**64
    files = [name for name in files if (int(digest(name), 16) < held) == (split == 'test')]
    if not files:
        raise Problem(f'{root}: no episode to {split}: change config.data.test_fraction', DATA)
    episodes: list = []
    states: list = []
    for name in files:
        try:
            with np.load(root / name) as stored:
                frames = stored['frames']
                if 'state' in stored:
                    states.append(stored['state'])
        except (OSError, ValueError, KeyError) as error:
            raise Problem(f'{root / name} has no array "frames": {error}', DATA) from None
        if frames.dtype != np.uint8 or frames.ndim != 4:
            what = f'{frames.dtype} {list(frames.shape)}'
            raise Problem(f'{root / name}: frames are {what}, not uint8 [t, h, w, c]', DATA)
        episodes.append(frames)
    if states and [len(s) for s in states] != [len(e) for e in episodes]:
        raise Problem(f'{root}: not every frame of every episode has a state', DATA)
    source = stacked(f'{root} ({split})', episodes, stack)
    last = [state[stack - 1 :] for state in states]  # of a stack, that of its last frame
    return source._replace(targets=(lambda: np.concatenate(last)) if last else None)


def moving_digits(split: str, *, stack: int = 3, test_fraction: float = 0.2) -> Source:
    """scikit-learn's digits wandering over a dark field, an episode of eight frames each, with the
    digit as label: smoke data, on which nothing is to be reported."""
    source = images.digits(split, test_fraction=test_fraction)
    assert source.images is not None
    count, length, side = min(source.size, 400), 8, 20
    keys = index.key('moving', np.arange(count))
    place = index.uniform(keys, 'place', 2) * (side - 8)  # [n, 2]
    speed = 4 * index.uniform(keys, 'speed', 2) - 2
    frames = np.zeros((count, length, side, side, 3), np.uint8)
    for t in range(length):
        folded = (place + t * speed) % (2 * (side - 8))
        corner = np.minimum(folded, 2 * (side - 8) - folded).round().astype(int)  # off the walls
        for k, (y, x) in enumerate(corner):
            frames[k, t, y : y + 8, x : x + 8] = source.images[k]
    labels = np.asarray(source.labels())[:count]
    return stacked(f'moving {source.name}', list(frames), stack, labels, source.classes)


def stacked(name: str, episodes: list, stack: int, labels=None, classes=None) -> Source:
    """Episodes of frames uint8 [t, h, w, c] in memory -> a source of `stack` frames in a row."""
    tf = tensorflow()
    if stack < 1 or min(map(len, episodes)) < stack:
        raise Problem(
            f'{name}: episodes of {min(map(len, episodes))} frames, config.data.stack={stack}'
        )
    begin = np.cumsum([0, *(len(e) for e in episodes)])
    first = np.concatenate(
        [np.arange(a, b - stack + 1) for a, b in zip(begin, begin[1:], strict=False)]
    )
    of = np.searchsorted(begin, first, 'right') - 1  # the episode of an example
    numbers = np.full(len(first), -1, np.int32) if labels is None else labels[of].astype(np.int32)
    frames, starts, held = (
        tf.constant(np.concatenate(episodes)),
        tf.constant(first),
        tf.constant(numbers),
    )

    def read(i):
        x = frames[starts[i] : starts[i] + stack]  # [stack, h, w, c]
        h, w, c = x.shape[1:]
        x = tf.reshape(tf.transpose(x, [1, 2, 0, 3]), [h, w, stack * c])
        return {'frames': x, 'label': held[i]}

    return Source(
        name=name,
        size=len(first),
        classes=classes,
        read=read,
        fingerprint=digest((stack, [e.shape for e in episodes], [e.tobytes() for e in episodes])),
        where=lambda i: f'example {i} of {name}',
        labels=lambda: numbers,
    )
