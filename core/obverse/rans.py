"""The entropy coder of CompressAI, to read what it wrote: 64-bit rANS with 16-bit tables (arXiv:1311.2540)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from obverse.errors import CorruptError

PRECISION = 16
_LOWER = 1 << 31  # the state never ends a step below this
_DIGIT_BITS = 4
_MAX_DIGITS = 8  # of a value outside of its table: 32 bits


@dataclass(frozen=True)
class RansTable:
    """Cumulative frequencies of one table.

    Attributes:
        offset: integer that the first entry stands for.
        cumulative: S + 1 integers from 0 to 2**16 that rise strictly; the last entry stands for all other integers.
    """

    offset: int
    cumulative: tuple[int, ...]

    @classmethod
    def of(cls, cumulative: Iterable[int], offset: int) -> RansTable:
        """Checked: tables come from files.

        Raises:
            CorruptError: the numbers do not rise from 0 to 2**16.
        """
        rising = tuple(int(value) for value in cumulative)
        steps_up = all(a < b for a, b in pairwise(rising))
        if len(rising) < 3 or rising[0] != 0 or rising[-1] != 1 << PRECISION or not steps_up:
            raise CorruptError(f"a table of CompressAI must rise from 0 to {1 << PRECISION}, this one does not")
        return cls(int(offset), rising)


class RansDecoder:
    """Reads one string, little-endian words of 32 bits. What is decoded is bounded by what is asked for.

    Args:
        data: the string.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) < 8 or len(data) % 4:
            raise CorruptError(f"a string of CompressAI has whole words of 4 bytes, at least two; this has {len(data)}")
        self._words: list[int] = np.frombuffer(data, "<u4").tolist()
        self._state: int = self._words[0] | self._words[1] << 32
        self._next = 2

    def decode(self, tables: Sequence[RansTable], indices: Sequence[int]) -> list[int]:
        """One integer for every index of a table.

        Raises:
            CorruptError: the string ends before, or holds an impossible value.
        """
        return [self._value(tables[index]) for index in indices]

    def finish(self) -> None:
        """Raise `CorruptError` unless everything was read."""
        if self._next != len(self._words) or self._state != _LOWER:
            raise CorruptError("a string of CompressAI holds more symbols than the picture has, or is damaged")

    def _value(self, table: RansTable) -> int:
        cumulative = table.cumulative
        low = self._state & (1 << PRECISION) - 1
        symbol = bisect_right(cumulative, low) - 1
        start = cumulative[symbol]
        self._renew((cumulative[symbol + 1] - start) * (self._state >> PRECISION) + low - start)
        beyond = len(cumulative) - 2
        if symbol != beyond:
            return symbol + table.offset
        raw = self._raw()
        return (-(raw >> 1) - 1 if raw & 1 else (raw >> 1) + beyond) + table.offset

    def _raw(self) -> int:
        """A value outside of its table: the number of its digits, then the digits, lowest first."""
        count = digit = self._digit()
        while digit == (1 << _DIGIT_BITS) - 1 and count <= _MAX_DIGITS:
            digit = self._digit()
            count += digit
        if count > _MAX_DIGITS:
            raise CorruptError("a string of CompressAI holds a value of more than 32 bits")
        return sum(self._digit() << _DIGIT_BITS * place for place in range(count))

    def _digit(self) -> int:
        digit = self._state & (1 << _DIGIT_BITS) - 1
        self._renew(self._state >> _DIGIT_BITS)
        return digit

    def _renew(self, state: int) -> None:
        if state < _LOWER:
            if self._next == len(self._words):
                raise CorruptError("a string of CompressAI ends too early")
            state = state << 32 | self._words[self._next]
            self._next += 1
        self._state = state
