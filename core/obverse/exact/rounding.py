"""Rounding to whole multiples of a power of two: what makes sums exact, whatever their order.

Float64 adds whole multiples of one unit without error as long as their magnitudes sum to at most 2**53 units. So a
reduction whose terms are rounded to a common unit has one result, on every machine.

Units are powers of two taken from the exponent bits of a largest magnitude: no logarithm is computed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ACTIVATION_LIMIT = 32514
"""Largest magnitude of a rounded activation: 2**15 / (1 + 2**-7), so that it splits into two signed bytes."""

_HEADROOM = 1 + 2.0**-7
_TINY = 2.0**-200
_EXPONENT = 0x7FF << 52


def power_of_two(largest: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    """2**(floor(log2(largest)) + shift) and its inverse.

    Args:
        largest: float64, 0 to 2**800; below 2**-200 it counts as 2**-200.
        shift: from -60 to 60.

    Returns:
        The power and its inverse, float64, each of the shape of `largest`.
    """
    bits = (largest + _TINY).view(torch.int64) & _EXPONENT
    power = (bits + (shift << 52)).view(torch.float64)
    inverse = ((2046 - shift << 52) - bits).view(torch.float64)
    return power, inverse


def largest_magnitude(x: Tensor, dims: int | tuple[int, ...] = -1) -> Tensor:
    """max |x| along axes that stay, with length 1; x float64.

    Raises:
        TypeError: another dtype.
    """
    if x.dtype != torch.float64:
        raise TypeError(f"exact layers take float64, not {x.dtype}; convert symbols and conditions with .double()")
    return torch.linalg.vector_norm(x, torch.inf, dims, keepdim=True)  # type: ignore[no-any-return]


def to_integers(x: Tensor, dims: int | tuple[int, ...] = -1) -> tuple[Tensor, Tensor]:
    """16-bit integers and their unit, one unit for everything along `dims`.

    Args:
        x: float64.
        dims: axes that share a unit.

    Returns:
        int16 of the shape of x, magnitudes up to `ACTIVATION_LIMIT`, and float64 powers of two; their product is x,
        rounded.
    """
    unit, inverse = power_of_two(largest_magnitude(x, dims) * _HEADROOM, -14)
    return (x * inverse).round_().to(torch.int16), unit


def snap(x: Tensor, bits: int, dims: int | tuple[int, ...] = -1) -> Tensor:
    """Round to multiples of a unit such that no magnitude exceeds 2**bits units, one unit along `dims`; float64.

    Adding 1.5 * 2**52 units, and taking them away again, leaves no room for fractions of one.
    """
    exponent = (largest_magnitude(x, dims) + _TINY).view(torch.int64) & _EXPONENT
    many = (exponent + ((53 - bits << 52) + (1 << 51))).view(torch.float64)
    return (x + many).sub_(many)


def snap_to(x: Tensor, unit: float, bits: int) -> Tensor:
    """Round to multiples of a fixed power of two, limited to 2**bits units; float64."""
    limit = 2.0**bits
    return (x * (1 / unit)).round_().clamp_(-limit, limit) * unit


def square_root(x: Tensor) -> Tensor:
    """The correctly rounded root of float64, as IEEE 754 has it; that of torch on CPUs (by MKL) is not always."""
    return torch.from_numpy(np.sqrt(x.numpy())) if x.device.type == "cpu" else x.sqrt()
