"""Examples that cannot be read: found as they are met, named, counted, and replaced by others."""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import jax
import numpy as np

from clr_jax import parallel
from clr_jax.data.graph import tensorflow
from clr_jax.data.records import reason
from clr_jax.entry import CONFIG, DATA, Problem
from clr_jax.log import say

NAMED = 3  # of them one by one; all are counted


class Damage:
    """What of a data set of `size` examples cannot be read.

    Up to floor(max_bad_fraction * size) of them are replaced (`Reader`); one more is a Problem.
    """

    def __init__(self, name: str, size: int, max_bad_fraction: float):
        if not 0 <= max_bad_fraction < 1:
            wrong = f'config.data.max_bad_fraction={max_bad_fraction}'
            raise Problem(f'{wrong}: at least 0 and below 1', CONFIG)
        self.name, self.size, self.fraction = name, size, max_bad_fraction
        self.most = int(max_bad_fraction * size + 1e-9)
        self.found: set[int] = set()  # a number for each of their names
        self.first: list[str] = []
        self.told = 0

    def add(self, where: str, why: str):
        """Count the example called `where`, once however often it is met."""
        key = int.from_bytes(hashlib.blake2b(where.encode(), digest_size=8).digest(), 'big')
        if not self.most:
            raise Problem(f'{where} cannot be read: {why}', DATA)
        if key not in self.found and len(self.first) < NAMED:
            self.first.append(where)
            many = jax.process_count() > 1
            process = f'process {jax.process_index()}: ' if many else ''
            print(f'{process}{where} is replaced: {why}', file=sys.stderr, flush=True)
        self.found.add(key)
        self.check()

    def check(self):
        """Raise the Problem of too many."""
        if len(self.found) > self.most:
            names = f', the first {", ".join(self.first)}' if self.first else ''
            limit = f'config.data.max_bad_fraction={self.fraction}'
            raise Problem(f'{self.said()}, more than {limit} allows{names}', DATA)

    def said(self) -> str:
        return f'{len(self.found):,} of {self.size:,} examples of {self.name} cannot be read'

    def count(self) -> int:
        """How many there are by now; of several processes, which all must call it, together."""
        if jax.process_count() > 1:
            ours = [*self.found]
            most = parallel.each_process([len(ours)]).max()
            if most:
                own = np.array(ours + [0] * (most - len(ours)), np.uint64)  # 0: none
                every = parallel.each_process(own.view(np.int32))  # [processes, 2 * most]
                self.found |= set(every.reshape(-1).view(np.uint64).tolist()) - {0}
            self.check()
        return len(self.found)


def counted(source) -> dict:
    """{'bad_examples': how many of a source cannot be read}; {}: none. All processes must call it."""
    count = source.damage.count() if source.damage else 0
    return {'bad_examples': count} if count else {}


def report(source):
    """Say how many cannot be read, if they are more than were told. All processes must call it."""
    it = source.damage
    if it and it.count() > it.told:
        it.told = len(it.found)
        say(it.said())


class Reader:
    """Which examples of `source` are read for which.

    One that cannot be read has the content (image, texts, label) of the next one that can, in the order
    of the source and around its end: a function of its own number, whatever was met before, so that
    the data stay the same after a resume and on any number of processes. Its number, its place in
    the order and its draws remain its own.

    Damage is in the content: what an image decoder or a checksum refuses. A file that is gone, or a
    bucket that does not answer, is a Problem at once.
    """

    def __init__(self, source, threads: int = 1):
        self.source, self.threads, self.lock = source, threads, Lock()
        self.instead: dict[int, int] = {}

    def known(self, numbers):
        """The numbers [b] int64 of the examples to be read for those with `numbers` [b], -1: any, as
        far as is known."""
        numbers = np.maximum(numbers, 0)
        if not self.instead:
            return numbers
        return np.array([self.instead.get(i, i) for i in numbers.tolist()], np.int64)

    def search(self, numbers):
        """The same for sure: each is read."""
        with self.lock:
            asked = np.unique(self.known(numbers)).tolist()
            with ThreadPoolExecutor(self.threads) as pool:
                for i, why in zip(asked, pool.map(self.why, asked), strict=True):
                    self.replace(i, why)
            return self.known(numbers)

    def replace(self, i: int, why: str | None):
        """Find what is read for the example `i` if there is a reason `why` it cannot be read."""
        met = []
        while why:
            where = self.source.where(i)
            if self.source.damage is None:
                raise Problem(f'{where} cannot be read: {why}', DATA)
            self.source.damage.add(where, why)
            met.append(i)
            i = (i + 1) % self.source.size
            if i in met:
                raise Problem(f'no example of {self.source.name} can be read', DATA)
            i = self.instead.get(i, i)
            why = self.why(i)
        self.instead |= dict.fromkeys(met, i)

    def why(self, i: int) -> str | None:
        """Why the example `i` cannot be read; None: it can."""
        errors = tensorflow().errors
        try:
            self.source.read(tensorflow().constant(i, 'int64'))
            return None
        except (errors.InvalidArgumentError, errors.DataLossError) as cause:
            return reason(cause)
        except errors.OpError as cause:
            raise Problem(f'{self.source.where(i)} cannot be read: {reason(cause)}', DATA) from None
