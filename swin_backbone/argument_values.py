"""Checks of argument values; they return plain Python values or raise an error that names it.

NumPy and torch scalars are accepted as numbers.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from .errors import ArgumentError

Choice = TypeVar('Choice')

# Larger models fit into no machine, and their element counts overflow.
LARGEST_WIDTH = 2**20  # of tokens, in the last stage
LARGEST_SIDE = 2**12  # of a patch, in pixels
LARGEST_COUNT = 2**16  # of channels, tokens along a window, pixels of strides
LARGEST_DEPTH = 2**10  # blocks of a stage
# Each V1 block has an index of token pairs, M⁴ numbers of 8 bytes: 2 GiB at this size.
LARGEST_WINDOW = 2**7


def shown(value: Any, length: int = 200) -> str:
    """A value for messages: its ``repr``, shortened."""
    try:
        text = repr(value)
    except ValueError:  # an int with too many digits to print
        text = f'a huge {type(value).__name__}'
    return text if len(text) <= length else f'{text[:length]}…'


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal; False if the comparison is ambiguous, as for arrays."""
    try:
        return bool(a == b)
    except (TypeError, ValueError, ArithmeticError, RuntimeError):  # types raise what they like
        return False


def integer(
    name: str, value: Any, least: int, most: int = LARGEST_COUNT, expected: str | None = None
) -> int:
    """An integer from ``least`` to ``most``.

    Raises:
        ArgumentError: Not such a number; the message says ``expected``, or the bounds.
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
    """A list or tuple of integers from ``least`` to ``most``, one for each stage.

    Raises:
        ArgumentError: Not such a sequence.
    """
    given = sequence(name, values)
    return tuple(integer(f'{name}[{i}]', value, least, most) for i, value in enumerate(given))


def sequence(name: str, values: Any) -> Sequence[Any]:
    """A list, tuple or range.

    Raises:
        ArgumentError: Not a sequence.
    """
    if not isinstance(values, list | tuple | range):
        raise ArgumentError(f'{name}={shown(values)} must be a list or tuple, for several stages')
    return values


def window_side(name: str, value: Any, expected: str | None = None) -> int:
    """The side of a square window in tokens, from an int or an equal (height, width).

    Raises:
        ArgumentError: Neither of these, not square, or larger than ``LARGEST_WINDOW``.
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
    """A number from ``least`` to ``most``; NaN is invalid.

    Raises:
        ArgumentError: Not such a number.
    """
    try:
        # float() would also parse text.
        found = math.nan if isinstance(value, str | bytes | bytearray) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = math.nan
    if not least <= found <= most:
        raise ArgumentError(f'{name}={shown(value)} must be {expected}')
    return found


def rate(name: str, value: Any) -> float:
    """A probability.

    Raises:
        ArgumentError: Not a number from 0 to 1.
    """
    return number(name, value, 0, 1, 'a probability, 0 to 1')


def flag(name: str, value: Any) -> bool:
    """The truth value.

    Raises:
        ArgumentError: It is ambiguous, as for an array of several values.
    """
    try:
        return bool(value)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f'{name}={shown(value)} must be True or False') from None


def choice(name: str, value: Any, choices: Iterable[Choice]) -> Choice:
    """The one of ``choices`` that equals ``value``.

    Raises:
        ArgumentError: None does; the message lists them.
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
