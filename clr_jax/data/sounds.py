"""Where recordings come from: your own folder, spoken digits, or (for smoke runs) tones."""

import os
from pathlib import Path

import numpy as np

from clr_jax.data import index
from clr_jax.data.augment import tensorflow
from clr_jax.data.source import Source, digest, files_below, fraction, printable, subfolders
from clr_jax.entry import DATA, INPUT, Problem, known


def recordings(
    split: str, *, path: str = '', test_path: str = '', test_fraction: float = 0.1
) -> Source:
    """Your own recordings: a directory with WAV files of 16 bits at any depth, all of one rate, whose
    channels are averaged. Subfolders, if there are two or more, are classes. The test split is
    `test_path`, or else the share of the files that the hashes of their names single out."""
    root = Path(test_path if test_path and split == 'test' else path)
    files = _files(root if path else Path())
    labels = sorted(subfolders(_files(Path(path)) if test_path else files))
    if not test_path:
        held = fraction(test_fraction) * 2**64
        files = [f for f in files if (int(digest(f[0]), 16) < held) == (split == 'test')]
    number = {label: k for k, label in enumerate(labels)}
    return _waves(split, root, files, labels, [number.get(f.split('/')[0], -1) for f, _ in files])


def spoken_digits(split: str, *, path: str = '', label: str = 'digit') -> Source:
    """The Free Spoken Digit Dataset: recordings/{digit}_{speaker}_{number}.wav, 8 kHz, of which the
    first five of each digit and speaker are its test split. label: digit | speaker."""
    known([label], ('digit', 'speaker'), 'config.data.label')
    root = Path(path) / 'recordings' if path else Path()
    files = _files(root)
    named = [Path(f).stem.split('_') for f, _ in files]
    if any(len(words) != 3 or not words[2].isdigit() for words in named):
        raise Problem(f'{root}: the files are not named digit_speaker_number.wav', INPUT)
    classes = sorted({words[label == 'speaker'] for words in named})
    chosen = [k for k, words in enumerate(named) if (int(words[2]) < 5) == (split == 'test')]
    numbers = [classes.index(named[k][label == 'speaker']) for k in chosen]
    return _waves(split, root, [files[k] for k in chosen], classes, numbers)


def tones(split: str, *, test_fraction: float = 0.2) -> Source:
    """A thousand synthesised tones of ten pitches, each with overtones and a little noise: smoke data,
    on which nothing is to be reported."""
    n, samples, rate = 1000, 4000, 8000
    draw = lambda name, count=None: index.uniform(index.key('tones', np.arange(n)), name, count)
    pitch = np.arange(n) % 10
    time = np.arange(samples) / rate
    frequency = 110 * 2 ** (pitch / 5) * (1 + 0.02 * (draw('tuning') - 0.5))  # [n], in Hz
    phase = 2 * np.pi * (frequency[:, None] * time + draw('phase')[:, None])  # [n, samples]
    overtones = draw('overtones', 3)
    wave = np.sin(phase) + sum(
        overtones[:, k, None] * np.sin((k + 2) * phase) / (k + 2) for k in range(3)
    )
    swell = np.sin(np.pi * time / time[-1]) ** (0.2 + draw('attack')[:, None])
    wave = 0.2 * swell * wave + 0.01 * (draw('noise', samples) - 0.5)
    waves = (wave * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
    held = np.arange(n) < n * fraction(test_fraction)
    chosen = np.flatnonzero(held == (split == 'test'))
    tf = tensorflow()
    stored, labels = tf.constant(waves[chosen]), tf.constant(pitch[chosen], tf.int32)
    return Source(
        name=f'tones ({split})',
        size=len(chosen),
        classes=10,
        read=lambda i: {'recording': stored[i], 'label': labels[i]},
        fingerprint=digest(waves[chosen].tobytes()),
        where=lambda i: f'tone {i}',
        labels=labels.numpy,
        rate=lambda: rate,
    )


def _files(root: Path) -> list:
    return files_below(root, ('.wav',), 'recordings')


def _waves(split: str, root: Path, files: list, classes: list, numbers: list) -> Source:
    """A source of the WAV files `files` [(path relative to `root`, bytes)] with class numbers, -1:
    none."""
    tf = tensorflow()
    if not files:
        raise Problem(f'{root}: no recording to {split}', DATA)
    places = [os.path.join(root, name) for name, _ in files]
    paths = tf.constant([os.fsencode(place) for place in places])
    labels = tf.constant(numbers, tf.int32)

    def read(i):
        sound, _ = tf.audio.decode_wav(tf.io.read_file(paths[i]))  # [n, channels], in -1..1
        wave = tf.round(tf.reduce_mean(sound, 1) * 2**15)
        wave = tf.cast(tf.clip_by_value(wave, -(2**15), 2**15 - 1), tf.int16)
        return {'recording': wave, 'label': labels[i]}

    return Source(
        name=f'{printable(root)} ({split})',
        size=len(files),
        classes=len(classes) or None,
        read=read,
        fingerprint=digest((classes, files, numbers)),
        where=lambda i: printable(places[i]),
        labels=labels.numpy,
        names=lambda: [name for name, _ in files],
        rate=lambda: int(tf.audio.decode_wav(tf.io.read_file(paths[0]))[1]),
        class_names=tuple(classes) or None,
    )
