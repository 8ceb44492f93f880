"""Bjøntegaard deltas: published values, what cannot be compared, and what is doubtful."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from obverse.errors import PluginError
from obverse.evaluation.axes import axis
from obverse.evaluation.bd import Method, NotComparableError, bd_quality, bd_rate, problems
from obverse.evaluation.curves import Curve, Point

# VTM and cheng2020-anchor on Kodak, PSNR of RGB, from CompressAI's result files.
VTM = [
    (0.0482, 26.145), (0.1125, 28.493), (0.2458, 31.200), (0.4905, 34.262),
    (0.8748, 37.420), (1.4308, 40.424), (2.3246, 43.506), (3.6326, 46.592),
]  # fmt: skip
CHENG = [(0.1196, 28.582), (0.1838, 29.969), (0.2710, 31.343), (0.4174, 33.390), (0.5945, 35.119), (0.8057, 36.704)]

# Of the package bjontegaard, 1.3.0.
EXPECTED: list[tuple[Method, float, float]] = [
    ("cubic", 3.8025541616808267, -0.19124922442428272),
    ("pchip", 3.7000751140516375, -0.1565855888422912),
    ("akima", 3.608023904057589, -0.15199994465963662),
]


def curve(points: Sequence[tuple[float, float]], name: str = "codec", metric: str = "psnr-rgb") -> Curve:
    return Curve(name, axis(metric), [Point(*point) for point in points])


@pytest.mark.parametrize(("method", "rate", "quality"), EXPECTED)
def test_published_curves(method: Method, rate: float, quality: float) -> None:
    if method != "cubic":
        pytest.importorskip("scipy")
    assert bd_rate(curve(VTM), curve(CHENG), method).value == pytest.approx(rate, rel=1e-9)
    assert bd_quality(curve(VTM), curve(CHENG), method).value == pytest.approx(quality, rel=1e-9)
    assert bd_rate(curve(VTM[::-1]), curve(CHENG[::-1]), method).value == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("method", ["pchip", "akima"])
def test_two_points_are_a_line(method: Method) -> None:
    pytest.importorskip("scipy")
    anchor, test = curve(VTM[1:3]), curve(CHENG[:2])
    assert bd_rate(anchor, test, method).value == pytest.approx(5.140138082525536, rel=1e-9)
    assert bd_quality(anchor, test, method).value == pytest.approx(-0.17360739422379262, rel=1e-9)


def test_half_the_rate() -> None:
    halved = curve([(bpp / 2, psnr) for bpp, psnr in VTM])
    delta = bd_rate(curve(VTM), halved, "cubic")
    assert (delta.value, delta.overlap) == pytest.approx((-50, 1))
    worse = curve([(bpp, psnr - 1.5) for bpp, psnr in VTM])
    assert bd_quality(curve(VTM), worse, "cubic").value == pytest.approx(-1.5)


def test_overlap_is_a_share_of_both_curves() -> None:
    delta = bd_rate(curve(VTM), curve(CHENG), "cubic")
    assert (delta.low, delta.high) == (28.582, 36.704)
    assert delta.overlap == pytest.approx((36.704 - 28.582) / (46.592 - 26.145))


def test_metrics_where_less_is_better() -> None:
    pytest.importorskip("scipy")
    anchor = curve([(0.1, 0.5), (0.2, 0.4), (0.4, 0.3)], metric="lpips-alex")
    test = curve([(0.05, 0.5), (0.1, 0.4), (0.2, 0.3)], metric="lpips-alex")
    assert bd_rate(anchor, test).value == pytest.approx(-50)
    assert bd_quality(anchor, test).value == pytest.approx(-0.1)
    assert problems(anchor) == []


def test_equal_files_are_one_point() -> None:
    pytest.importorskip("scipy")
    repeated = curve([VTM[0], *VTM])
    assert bd_rate(repeated, curve(CHENG)).value == pytest.approx(3.7000751140516375, rel=1e-9)
    assert problems(repeated) == []


@pytest.mark.parametrize(
    ("anchor", "test", "method", "message"),
    [
        (VTM, [(0.1, 20.0), (0.2, 22.0)], "pchip", "share no quality: 26.14 to 46.59 and 20 to 22"),
        (VTM, [(0.1, 20.0), (0.2, 26.145)], "pchip", "share no quality"),
        (VTM, CHENG[:1], "pchip", "pchip needs at least 2 points, and test has 1"),
        (VTM[:3], CHENG, "cubic", "cubic needs at least 4 points, and anchor has 3"),
        ([], CHENG, "pchip", "anchor has 0"),
        (VTM, [(0.1, 30.0), (0.2, 30.0), (0.3, 31.0)], "pchip", "test has two points of the same quality"),
    ],
)
def test_what_cannot_be_compared(
    anchor: list[tuple[float, float]], test: list[tuple[float, float]], method: Method, message: str
) -> None:
    with pytest.raises(NotComparableError, match=message):
        bd_rate(curve(anchor, "anchor"), curve(test, "test"), method)


def test_rates_that_do_not_meet() -> None:
    low = curve([(0.01, 27.0), (0.02, 30.0)], "low")
    with pytest.raises(NotComparableError, match=r"share no rate: 0\.0482 to 3\.633 bpp and 0\.01 to 0\.02 bpp"):
        bd_quality(curve(VTM, "vtm"), low)


def test_curves_that_turn_back() -> None:
    (line,) = problems(curve([(0.1, 28.0), (0.2, 30.0), (0.3, 29.5), (0.4, 31.0)], "odd"))
    assert line.startswith("odd: psnr-rgb goes from 30 to 29.5 between 0.2 and 0.3 bpp")
    assert len(problems(curve([(0.1, 5.0), (0.2, 6.0)], metric="niqe"))) == 1
    assert problems(curve([(0.0, 1.0)], metric="beauty")) == ["codec: no point has a rate above 0"]


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.interpolate", None)
    with pytest.raises(PluginError, match=r"pchip needs scipy: pip install 'obverse\[eval\]'"):
        bd_rate(curve(VTM), curve(CHENG), "pchip")
    assert bd_rate(curve(VTM), curve(CHENG), "cubic").value == pytest.approx(3.803, abs=5e-4)
