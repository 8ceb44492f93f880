"""Functions of one variable, by tables that integers and decimals make; no mathematical library is called.

Python's `decimal` rounds exp and ln correctly by its specification, so tables are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from functools import lru_cache

import torch
from torch import Tensor

from obverse.exact.audit import trusted
from obverse.gaussian import normal_below

SOFTMAX_STEPS = 4096
"""Steps of the softmax table per nat."""
SOFTMAX_BITS = 16
"""The largest weight of a softmax is 2**16."""

_STEPS = 128  # points per unit of the interpolated tables
_DECIMAL = Context(prec=40)
_POINT = 52  # bits behind the binary point of table values


def _float(value: Decimal) -> float:
    """The nearest multiple of 2**-52."""
    return float(int((value * 2**_POINT).to_integral_value()) / 2**_POINT)


@lru_cache(maxsize=1)
def softmax_table() -> Tensor:
    """round(2**16 * exp(-k / 4096)) for k = 0, 1, ...; the last entry is 0. Float64."""
    with localcontext(_DECIMAL):
        ratio, value = (Decimal(-1) / SOFTMAX_STEPS).exp(), Decimal(2**SOFTMAX_BITS)
        entries = []
        while value >= Decimal("0.5"):
            entries.append(float(int(value.to_integral_value())))
            value *= ratio
    return torch.tensor([*entries, 0.0], dtype=torch.float64)


class Curve:
    """Linear interpolation between values at `reach * _STEPS` points either side of zero, or above it.

    Args:
        function: value at i / 128, from the integer i, as float.
        low, high: ends of the table, whole numbers; beyond them the value at the end holds.
    """

    def __init__(self, function: Callable[[int], float], low: int, high: int) -> None:
        values = [function(i) for i in range(low * _STEPS, high * _STEPS + 1)]
        self.low, self.high = float(low), float(high)
        self.values = torch.tensor(values, dtype=torch.float64)
        self.rises = torch.cat([self.values.diff(), torch.zeros(1, dtype=torch.float64)])

    def __call__(self, x: Tensor) -> Tensor:
        if self.values.device != x.device:
            self.values, self.rises = self.values.to(x.device), self.rises.to(x.device)
        place = x.clamp(self.low, self.high).sub_(self.low).mul_(_STEPS)
        below = place.floor()
        index = below.long()
        return self.values[index].add_(self.rises[index].mul_(place.sub_(below)))


@lru_cache(maxsize=1)
def _sigmoid_curve() -> Curve:
    reach = 40  # where it is 1 to the last bit
    with localcontext(_DECIMAL):
        ratio, power = (Decimal(-1) / _STEPS).exp(), Decimal(1)
        above = []
        for _ in range(reach * _STEPS + 1):
            above.append(_float(1 / (1 + power)))
            power *= ratio
    return Curve(lambda i: above[i] if i >= 0 else 1 - above[-i], -reach, reach)


@lru_cache(maxsize=1)
def _softplus_curve() -> Curve:
    """log(1 + exp(-x)) for x >= 0."""
    reach = 32
    with localcontext(_DECIMAL):
        ratio, power = (Decimal(-1) / _STEPS).exp(), Decimal(1)
        values = []
        for _ in range(reach * _STEPS + 1):
            values.append(_float((1 + power).ln()))
            power *= ratio
    return Curve(values.__getitem__, 0, reach)


@lru_cache(maxsize=1)
def _normal_curve() -> Curve:
    reach = 8  # where 1 is missed by three last bits

    def value(i: int) -> float:
        return normal_below(i, _STEPS, _POINT) / 2**_POINT if abs(i) < reach * _STEPS else float(i > 0)

    return Curve(value, -reach, reach)


@lru_cache(maxsize=1)
def _power_curve() -> Curve:
    """2**x from 0 to 1, at 128 points; the finest needed is made by squaring."""
    with localcontext(_DECIMAL):
        log = Decimal(2).ln()
        values = [_float((log * i / _STEPS).exp()) for i in range(_STEPS + 1)]
    return Curve(values.__getitem__, 0, 1)


@trusted
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), to about 1e-6."""
    return _sigmoid_curve()(x)


@trusted
def tanh(x: Tensor) -> Tensor:
    """By 2 sigmoid(2 x) - 1."""
    return sigmoid(x * 2) * 2 - 1


@trusted
def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), to about 2e-6."""
    return x.clamp(min=0) + _softplus_curve()(x.abs())


@trusted
def normal_cdf(x: Tensor) -> Tensor:
    """Probability of a standard normal variable below x, to about 2e-6."""
    return _normal_curve()(x)


@trusted
def silu(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    return sigmoid(x).mul_(x)


@trusted
def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution function (erf form)."""
    return normal_cdf(x).mul_(x)


@trusted
def gelu_tanh(x: Tensor) -> Tensor:
    """GELU's tanh form: x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x**3))."""
    cube = x * x * x
    return sigmoid((cube * _CUBIC + x) * _TWICE_ROOT).mul_(x)


_CUBIC = 0.044715
_TWICE_ROOT = 1.5957691216057308  # 2 sqrt(2 / pi)


@trusted
def exp(x: Tensor) -> Tensor:
    """exp(x) for x from -700 to 700, to about 4e-6 of its value."""
    turns = x.clamp(-700, 700) * _LOG2_E
    whole = turns.floor()
    power = ((whole.long() + 1023) << 52).view(torch.float64)
    return _power_curve()(turns - whole).mul_(power)


_LOG2_E = 1.4426950408889634
