"""Arrays of numbers as bytes, in the same order on every machine."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from itertools import chain
from typing import Literal


def pack(numbers: array[int]) -> bytes:
    """The numbers as bytes, little endian."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def unpack(typecode: Literal["I", "Q"], raw: bytes) -> array[int]:
    """The numbers that `pack` was given. Raises `ValueError` if there is a part of one."""
    numbers = array(typecode)
    numbers.frombytes(raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def to_runs(numbers: array[int]) -> list[tuple[int, int]]:
    """The first of each run of consecutive numbers, and how many it has; the numbers must rise."""
    runs: list[tuple[int, int]] = []
    start = 0
    while start < len(numbers):
        shift = numbers[start] - start
        end = bisect_right(range(len(numbers)), shift, lo=start, key=lambda at: numbers[at] - at)
        runs.append((numbers[start], end - start))
        start = end
    return runs


def from_runs(runs: Iterable[tuple[int, int]]) -> array[int]:
    """The numbers that `to_runs` was given."""
    return array("Q", chain.from_iterable(range(first, first + count) for first, count in runs))
