"""Back-translation: other wordings of texts, by way of other languages (Sennrich et al., 2016,
arXiv:1511.06709; as augmentation: Xie et al., UDA, 2019, arXiv:1904.12848). The translator is any
program or function."""

import shlex
import subprocess
from collections.abc import Callable, Sequence

import numpy as np

from clr_jax.data import records
from clr_jax.data.source import digest
from clr_jax.entry import DATA, INPUT, Problem
from clr_jax.log import say


def back_translated(
    texts: Sequence[str],
    translator: str | Callable,
    *,
    language: str = 'en',
    languages: Sequence[str] = ('fr',),
    samples: int = 1,
) -> list[list[str]]:
    """For each text, how it comes back from each of `languages`, `samples` times each: [n][languages x
    samples]. A translator that samples gives another wording each time; UDA's does, at a temperature
    of 0.6 to 0.9.

    translator: a function (texts, source, target, sample) -> texts, or a command in which {source},
    {target} and {sample} stand for these: a line of standard input is a text, a line of its output
    the translation. What a command has said is kept under the user's cache directory. Raises Problem
    if it fails or leaves out a line.
    """
    if samples < 1 or not languages:
        raise Problem('back-translation needs at least one language and one sample')
    one_line = [' '.join(text.split()) for text in texts]
    found = []
    for other in languages:
        for sample in range(samples):
            if callable(translator):
                there = translator(one_line, language, other, sample)
                back = translator(there, other, language, sample)
            else:
                back = _kept(one_line, translator, language, other, sample)
            if len(back) != len(texts):
                number = f'{len(back)} translations of {len(texts)} texts'
                raise Problem(f'the translator gave {number}', DATA)
            found.append(back)
    return [list(wordings) for wordings in zip(*found, strict=True)]


def _kept(texts: list[str], command: str, language: str, other: str, sample: int) -> list[str]:
    """The texts by way of `other`, from the cache or by the command."""

    def make():
        say(f'translating {len(texts):,} texts to {other} and back, sample {sample + 1}')
        there = _translated(texts, command, language, other, sample)
        back = _translated(there, command, other, language, sample)
        return {'text': np.frombuffer('\n'.join(back).encode(), np.uint8)}

    also = digest(texts), command, language, other, sample
    return records.kept('translations', [], make, also)['text'].tobytes().decode().split('\n')


def _translated(texts: list[str], command: str, source: str, target: str, sample: int) -> list[str]:
    words = {'{source}': source, '{target}': target, '{sample}': str(sample)}
    call = shlex.split(command)
    for name, value in words.items():
        call = [word.replace(name, value) for word in call]
    try:
        done = subprocess.run(
            call, input=('\n'.join(texts) + '\n').encode(), capture_output=True, check=False
        )
    except OSError as error:
        raise Problem(f'the translator {call[0]} cannot be run: {error.strerror}', INPUT) from None
    if done.returncode:
        said = done.stderr.decode(errors='replace').strip().splitlines()[-1:]
        ended = f'ended with exit code {done.returncode}'
        raise Problem(f'the translator {call[0]} {ended}: {" ".join(said)}', DATA)
    lines = done.stdout.decode(errors='replace').splitlines()
    if len(lines) != len(texts):
        number = f'{len(lines)} lines for {len(texts)}'
        raise Problem(f'the translator {call[0]} gave {number}, from {source} to {target}', DATA)
    return [' '.join(line.split()) for line in lines]
