"""Whole numbers from the user: which heads, layers, units or rows, and how many of something.

Python's and numpy's integers do, and so do numpy's and torch's arrays of none or one axis. Booleans never do: True is not head 1, and a mask would be taken for
the numbers 0 and 1. Negative numbers count from the last, as in Python, wherever it is known how many there are.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np

Indices = SupportsIndex | Iterable[SupportsIndex]


def is_int(value: object) -> bool:
    """Whether this is one whole number; an array without axes counts as one."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__") or getattr(value, "ndim", 0) != 0 or _is_bool(value):
        return False
    try:
        operator.index(value)
    except TypeError:  # an array of floats has the method too
        return False
    return True


def refuse_mask(values: object, what: str) -> None:
    """ValueError for booleans where numbers are expected."""
    items = values if isinstance(values, list | tuple) else ()
    if _is_bool(values) or isinstance(values, bool) or any(isinstance(item, bool) or _is_bool(item) for item in items):
        raise ValueError(f"{what}: masks of booleans are not taken; give the numbers, np.flatnonzero(mask)")


def as_ints(values: Indices, what: str = "numbers") -> tuple[int, ...]:
    """One number or several, as a tuple; ValueError, which says `what` they are for, for anything else."""
    if is_int(values):
        return (_in_range(operator.index(values), what),)  # type: ignore[arg-type]
    refuse_mask(values, what)
    if isinstance(values, str) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        raise ValueError(f"{what} is {values!r}; give a whole number or a list of them")
    numbers = []
    for value in values:
        if not is_int(value):
            raise ValueError(f"{what}: {value!r} is not a whole number")
        numbers.append(_in_range(operator.index(value), what))
    return tuple(numbers)


def whole(value: Any, what: str, low: int = 0, high: int = 2**32 - 1) -> int:
    """A single number from `low` to `high`; ValueError, which names it and what is allowed, for anything else."""
    if not is_int(value):
        raise ValueError(f"{what} is {value!r}; it must be a whole number")
    number = operator.index(value)
    if not low <= number <= high:
        raise ValueError(f"{what} is {number}; " + (f"it must be at least {low}" if number < low else f"it must be at most {high}"))
    return number


def two(value: Any, what: str) -> tuple[int, int]:
    """A number that counts twice, or a pair of numbers: how many of the largest, and how many at random."""
    if is_int(value):
        return whole(value, what), whole(value, what)
    pair = as_ints(value, what)
    if len(pair) != 2:
        raise ValueError(f"{what} is {value!r}; give a number, or a pair (of the largest, at random)")
    return whole(pair[0], what), whole(pair[1], what)


def from_start(numbers: Sequence[int], what: str, size: int | None, of: str = "") -> tuple[int, ...]:
    """The same numbers with negative ones counted from the last of `size`; ValueError when they lie before the first, or `size` is not known.

    Numbers past the end stay: the server knows how many there are, and says so.
    """
    found = []
    for number in numbers:
        if number < 0 and size is None:
            raise ValueError(f"{what}: {number} would count from the last one, but how many there are is not known here{of}; give numbers from 0")
        if number < 0 and number + (size or 0) < 0:
            raise ValueError(f"{what}: {number} is out of range; there are {size}{of}: 0 to {(size or 0) - 1}, or -{size} to -1")
        found.append(number + (size or 0) if number < 0 else number)
    return tuple(found)


def _in_range(number: int, what: str) -> int:
    if not -(2**31) <= number < 2**31:
        raise ValueError(f"{what}: {number} is out of range")
    return number


def _is_bool(value: object) -> bool:
    """Whether this is an array, or a numpy or torch number, of booleans."""
    return str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
