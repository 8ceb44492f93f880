"""Cosines and sines of rotary positions, by integers (arXiv:2104.09864)."""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from functools import lru_cache

import torch
from torch import Tensor

_POINT = 112  # bits behind the binary point while multiplying
_KEPT = 48
_ONE = 1 << _POINT


@lru_cache(maxsize=16)
def rotary_frequencies(count: int, base: float) -> tuple[int, ...]:
    """base**(-i / count) for i below count, times 2**112."""
    with localcontext(Context(prec=60)):
        log = Decimal(base).ln()
        return tuple(int((-log * i / count).exp() * _ONE) for i in range(count))


@lru_cache(maxsize=16)
def rotary_table(length: int, count: int, base: float = 10000.0) -> Tensor:
    """Cosine and sine of p * base**(-i / count), [length, count, 2] float64, to 2**-48.

    Args:
        length: positions p from 0.
        count: frequencies.
        base: ratio of the highest to the lowest frequency, nearly.
    """
    return angle_table(length, rotary_frequencies(count, base))


@lru_cache(maxsize=16)
def angle_table(length: int, frequencies: tuple[int, ...]) -> Tensor:
    """Cosine and sine of p * f, [length, frequencies, 2] float64, to 2**-48.

    Args:
        length: positions p from 0.
        frequencies: f from 0 to 1 in radians, times 2**112.
    """
    table = torch.empty(length, len(frequencies), 2, dtype=torch.float64)
    for i, frequency in enumerate(frequencies):
        cosine, sine = _cosine_and_sine(frequency)
        x, y = _ONE, 0
        column = []
        for _ in range(length):
            column.append((_kept(x), _kept(y)))
            x, y = (x * cosine - y * sine) >> _POINT, (x * sine + y * cosine) >> _POINT
        table[:, i] = torch.tensor(column, dtype=torch.float64)
    return table


def _kept(value: int) -> float:
    return ((value + (1 << _POINT - _KEPT - 1)) >> _POINT - _KEPT) / (1 << _KEPT)


def _cosine_and_sine(angle: int) -> tuple[int, int]:
    """Of an angle from 0 to 1, by their series in fixed point."""
    sums, term, n = [0, 0], _ONE, 0
    while term:
        sums[n % 2] += -term if n % 4 >= 2 else term
        n += 1
        term = (term * angle >> _POINT) // n
    return sums[0], sums[1]
