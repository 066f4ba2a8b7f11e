"""The largest batch that fits."""

from collections.abc import Callable


def largest(fits: Callable[[int], bool], unit: int, start: int, most: int) -> int:
    """The largest multiple of `unit`, at most `most`, that fits, if all smaller ones do; 0: none.

    Asks first for `start`, then for at most twice what is known to fit, and halves what is left."""
    low, high = 0, most // unit + 1
    guess = min(max(start // unit, 1), high - 1)
    while high - low > 1:
        if fits(guess * unit):
            low = guess
        else:
            high = guess
        guess = (low + high) // 2
        guess = min(guess, 2 * low) if low else guess
    return low * unit
