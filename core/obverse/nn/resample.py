"""Resampling of latent grids, as sums of few terms in a fixed order."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import floor

import torch
from torch import Tensor

_CUBIC = Fraction(-3, 4)

Taps = tuple[tuple[tuple[int, float], ...], ...]
"""For every output: input positions and weights."""


def area(x: Tensor, height: int, width: int) -> Tensor:
    """Means over cells, as `torch.nn.functional.interpolate(mode="area")`.

    Args:
        x: [B, C, H, W] floating point.
        height, width: of the result.
    """
    return _along(_along(x, 3, _area_taps(x.shape[3], width)), 2, _area_taps(x.shape[2], height))


def bicubic(x: Tensor, height: int, width: int) -> Tensor:
    """Cubic convolution with a = -0.75, as `interpolate(mode="bicubic", align_corners=False)` without antialias."""
    return _along(_along(x, 3, _cubic_taps(x.shape[3], width)), 2, _cubic_taps(x.shape[2], height))


def _along(x: Tensor, axis: int, taps: Taps) -> Tensor:
    """Weighted sums along an axis, terms added in the order of the taps."""
    total = None
    for number in range(max(len(some) for some in taps)):
        places = [some[number][0] if number < len(some) else 0 for some in taps]
        weights = [some[number][1] if number < len(some) else 0.0 for some in taps]
        picked = x.index_select(axis, torch.tensor(places, device=x.device))
        weight = torch.tensor(weights, dtype=x.dtype, device=x.device)
        term = picked * (weight if axis == 3 else weight[:, None])
        total = term if total is None else total + term
    assert total is not None
    return total


@lru_cache(maxsize=64)
def _area_taps(size: int, wanted: int) -> Taps:
    cells = [(i * size // wanted, -(-(i + 1) * size // wanted)) for i in range(wanted)]
    return tuple(tuple((j, 1 / (stop - start)) for j in range(start, stop)) for start, stop in cells)


@lru_cache(maxsize=64)
def _cubic_taps(size: int, wanted: int) -> Taps:
    outputs = []
    for i in range(wanted):
        place = Fraction((2 * i + 1) * size, 2 * wanted) - Fraction(1, 2)
        first = floor(place)
        outputs.append(
            tuple((min(max(first + k, 0), size - 1), float(_cubic(abs(place - first - k)))) for k in (-1, 0, 1, 2))
        )
    return tuple(outputs)


def _cubic(x: Fraction) -> Fraction:
    """The cubic convolution kernel (Keys 1981)."""
    if x <= 1:
        return (_CUBIC + 2) * x**3 - (_CUBIC + 3) * x**2 + 1
    if x < 2:
        return _CUBIC * (x**3 - 5 * x**2 + 8 * x - 4)
    return Fraction(0)
