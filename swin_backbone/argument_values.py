"""Values of arguments: each checked and made plain, or refused in a message that names it.

Whatever stands for a number is taken for it: NumPy's scalars and torch's, where Python's are meant.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from .errors import ArgumentError

Choice = TypeVar('Choice')

# Beyond these no machine has the memory, and sizes overflow what torch counts elements with.
LARGEST_WIDTH = 2**20  # of tokens, in the last stage
LARGEST_SIDE = 2**12  # of a patch, in pixels
LARGEST_COUNT = 2**16  # of channels, tokens along a window, pixels of strides
LARGEST_DEPTH = 2**10  # blocks of a stage
# V1 has the index of a window's pairs of tokens, M⁴ numbers of 8 bytes, in each block: 2 GiB here.
LARGEST_WINDOW = 2**7


def shown(value: Any, length: int = 200) -> str:
    """A value as messages have it: its ``repr``, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes
        text = f'a huge {type(value).__name__}'
    return text if len(text) <= length else f'{text[:length]}…'


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal; False where that is no yes or no, as for arrays."""
    try:
        return bool(a == b)
    except (TypeError, ValueError, ArithmeticError, RuntimeError):  # whatever a type has to say
        return False


def integer(
    name: str, value: Any, least: int, most: int = LARGEST_COUNT, expected: str | None = None
) -> int:
    """A whole number from ``least`` to ``most``.

    Raises:
        ArgumentError: It is none; the message says ``expected``, or the two bounds.
    """
    number = _index(value)
    if number is None or not least <= number <= most:
        if expected is None:
            expected = 'a positive int' if least == 1 else f'an int from {least} on'
        above = number is not None and number > most
        bound = f', and no more than {most}' if above else ''
        raise ArgumentError(f'{name}={shown(value)} must be {expected}{bound}')
    return number


def integers(name: str, values: Any, least: int, most: int = LARGEST_COUNT) -> tuple[int, ...]:
    """A list or tuple of whole numbers from ``least`` to ``most``, one for each of several stages.

    Raises:
        ArgumentError: It is none.
    """
    given = sequence(name, values)
    return tuple(integer(f'{name}[{i}]', value, least, most) for i, value in enumerate(given))


def sequence(name: str, values: Any) -> Sequence[Any]:
    """A list, tuple or range.

    Raises:
        ArgumentError: It is none.
    """
    if not isinstance(values, list | tuple | range):
        raise ArgumentError(f'{name}={shown(values)} must be a list or tuple, for several stages')
    return values


def window_side(name: str, value: Any, expected: str | None = None) -> int:
    """The side of a square window in tokens, from an int or from a (height, width) of two equal.

    Raises:
        ArgumentError: It is neither, or beyond ``LARGEST_WINDOW``; a window that is not square is
            named as such.
    """
    if not isinstance(value, list | tuple) or len(value) != 2:
        return integer(name, value, 1, LARGEST_WINDOW, expected)
    height, width = (integer(name, side, 1, LARGEST_WINDOW, expected) for side in value)
    if height != width:
        raise ArgumentError(
            f'{name}={shown(value)}: windows must be square; give one int, or twice the same'
        )
    return height


def number(name: str, value: Any, least: float, most: float, expected: str) -> float:
    """A number from ``least`` to ``most``, which NaN is not.

    Raises:
        ArgumentError: It is none.
    """
    try:
        # float() reads text as well, which no argument here is.
        found = math.nan if isinstance(value, str | bytes | bytearray) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = math.nan
    if not least <= found <= most:
        raise ArgumentError(f'{name}={shown(value)} must be {expected}')
    return found


def rate(name: str, value: Any) -> float:
    """A probability.

    Raises:
        ArgumentError: It is none.
    """
    return number(name, value, 0, 1, 'a probability, 0 to 1')


def flag(name: str, value: Any) -> bool:
    """Whether a value counts as true.

    Raises:
        ArgumentError: It is neither true nor false, as an array of several values.
    """
    try:
        return bool(value)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f'{name}={shown(value)} must be True or False') from None


def choice(name: str, value: Any, choices: Iterable[Choice]) -> Choice:
    """The one of ``choices`` that a value equals.

    Raises:
        ArgumentError: It equals none; the message lists them.
    """
    choices = tuple(choices)
    for one in choices:
        if same(one, value):
            return one
    raise ArgumentError(f'{name}={shown(value)} must be one of {choices}')


def _index(value: Any) -> int | None:
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor without values
        return None
