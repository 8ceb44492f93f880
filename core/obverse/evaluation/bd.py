"""Bjøntegaard deltas: how two rate-distortion curves differ on average.

G. Bjøntegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001. Rates are compared as
logarithms, over the qualities that both curves have; qualities over the rates that both have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from obverse.errors import ObverseError, PluginError
from obverse.evaluation.curves import Curve

if TYPE_CHECKING:
    from numpy.typing import NDArray

Method = Literal["cubic", "pchip", "akima"]

POINTS: Mapping[Method, int] = {"cubic": 4, "pchip": 2, "akima": 2}
"""Interpolations, and how many points each needs. Cubic is one polynomial through (or, of five points and more, near)
all points, as in VCEG-M33; PCHIP is that of JVET's sheets; Akima's oscillates least."""


class NotComparableError(ObverseError, ValueError):
    """Two curves have nothing in common, or too few points."""


@dataclass(frozen=True)
class Delta:
    """A difference between two curves.

    Attributes:
        value: of the test, against the anchor: percent of the rate, or units of the metric's axis.
        low, high: the interval that was averaged over.
        overlap: its length, as a share of the interval that both curves together cover.
    """

    value: float
    low: float
    high: float
    overlap: float


def bd_rate(anchor: Curve, test: Curve, method: Method = "pchip") -> Delta:
    """Mean difference of rates at equal quality, in percent; negative: the test needs fewer bits.

    Raises:
        NotComparableError: the curves share no quality, or have too few points for the method.
        PluginError: `scipy` is not installed.
    """
    mean = _mean_difference(_by_quality(anchor), _by_quality(test), method, "quality", (anchor.codec, test.codec))
    return Delta((10**mean.value - 1) * 100, mean.low, mean.high, mean.overlap)


def bd_quality(anchor: Curve, test: Curve, method: Method = "pchip") -> Delta:
    """Mean difference of quality at equal rate, in units of the axis (BD-PSNR in dB); the interval is in log10 bpp.

    Raises:
        NotComparableError: the curves share no rate, or have too few points for the method.
        PluginError: `scipy` is not installed.
    """
    return _mean_difference(_by_rate(anchor), _by_rate(test), method, "rate", (anchor.codec, test.codec))


def problems(curve: Curve) -> list[str]:
    """Where a curve does not go one way, each in one line: there, deltas say little."""
    points = sorted(_different(curve))
    if not points:
        return [f"{curve.codec}: no point has a rate above 0"]
    falls = curve.axis.direction == "lower" if curve.axis.direction else points[-1][1] < points[0][1]
    return [
        f"{curve.codec}: {curve.axis.metric} goes from {value:.4g} to {next_value:.4g} between {bpp:.4g} and "
        f"{next_bpp:.4g} bpp, against the direction of the curve"
        for (bpp, value), (next_bpp, next_value) in pairwise(points)
        if value == next_value or (next_value < value) != falls
    ]


def _different(curve: Curve) -> list[tuple[float, float]]:
    """Rates and values; settings that give the same file are one point."""
    return list(dict.fromkeys((point.bpp, point.value) for point in curve.points if point.bpp > 0))


def _by_quality(curve: Curve) -> NDArray[np.float64]:
    return np.array([(value, math.log10(bpp)) for bpp, value in _different(curve)]).reshape(-1, 2)


def _by_rate(curve: Curve) -> NDArray[np.float64]:
    return np.array([(math.log10(bpp), value) for bpp, value in _different(curve)]).reshape(-1, 2)


def _mean_difference(
    anchor: NDArray[np.float64],
    test: NDArray[np.float64],
    method: Method,
    what: str,
    names: tuple[str, str],
) -> Delta:
    """Mean of test - anchor over the abscissae that both have; arrays [points, 2] of abscissa and ordinate."""
    for name, points in zip(names, (anchor, test), strict=True):
        if len(points) < POINTS[method]:
            raise NotComparableError(f"{method} needs at least {POINTS[method]} points, and {name} has {len(points)}")
        if len(np.unique(points[:, 0])) < len(points):
            raise NotComparableError(f"{name} has two points of the same {what}")
    (first, last), (other_first, other_last) = ((points[:, 0].min(), points[:, 0].max()) for points in (anchor, test))
    low, high = max(first, other_first), min(last, other_last)
    if low >= high:
        raise NotComparableError(
            f"{names[0]} and {names[1]} share no {what}: {_span(first, last, what)} and "
            f"{_span(other_first, other_last, what)}"
        )
    share = (high - low) / (max(last, other_last) - min(first, other_first))
    areas = [_integral(points[np.argsort(points[:, 0])], method)(low, high) for points in (anchor, test)]
    return Delta(float(areas[1] - areas[0]) / float(high - low), float(low), float(high), float(share))


def _span(low: float, high: float, what: str) -> str:
    return f"{10**low:.4g} to {10**high:.4g} bpp" if what == "rate" else f"{low:.4g} to {high:.4g}"


def _integral(points: NDArray[np.float64], method: Method) -> Callable[[float, float], float]:
    """The definite integral of the interpolating function, of points [points, 2] in the order of their abscissae."""
    x, y = points.T
    if method == "cubic":
        antiderivative = np.polynomial.Polynomial.fit(x, y, 3).integ()
        return lambda low, high: float(antiderivative(high) - antiderivative(low))
    try:
        from scipy.interpolate import Akima1DInterpolator, PchipInterpolator
    except ImportError:
        raise PluginError(f"{method} needs scipy: pip install 'obverse[eval]' (cubic does without)") from None
    interpolator = (PchipInterpolator if method == "pchip" else Akima1DInterpolator)(x, y)
    return lambda low, high: float(interpolator.integrate(low, high))
