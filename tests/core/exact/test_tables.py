"""Functions by tables: against references in float64 and, where mpmath is installed, in high precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from obverse.exact import tables
from obverse.exact.attention import _table
from obverse.exact.tables import SOFTMAX_BITS, SOFTMAX_STEPS, softmax_table
from obverse.nn.rotary import rotary_table

Function = Callable[[Tensor], Tensor]

STEP = 1 / 128
FLOAT64 = 1e-14
FINE = torch.linspace(-1, 1, 9_999, dtype=torch.float64)
GRID = torch.cat([torch.linspace(-50, 50, 100_001, dtype=torch.float64), FINE]).sort()[0]

# The largest second derivatives; linear interpolation is off by at most a STEP**2 / 8 of them.
BENDS = {"sigmoid": 0.09623, "softplus": 0.25, "normal": 0.24198}
EXP_BEND = 2 * math.log(2) ** 2  # of 2**x, for x below 1


def error(name: str) -> float:
    return BENDS[name] * STEP**2 / 8 + FLOAT64


def gelu_tanh(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


class TestReferences:
    @pytest.mark.parametrize(
        ("function", "reference", "bound"),
        [
            (tables.sigmoid, torch.sigmoid, error("sigmoid")),
            (tables.tanh, torch.tanh, 2 * error("sigmoid")),
            (tables.softplus, torch.nn.functional.softplus, error("softplus") + math.exp(-20)),  # torch: x beyond 20
            (tables.normal_cdf, torch.special.ndtr, error("normal")),
        ],
    )
    def test_interpolated(self, function: Function, reference: Function, bound: float) -> None:
        assert ((function(GRID) - reference(GRID)).abs() <= bound).all()

    @pytest.mark.parametrize(
        ("function", "reference", "curve"),
        [
            (tables.silu, torch.nn.functional.silu, "sigmoid"),
            (tables.gelu, torch.nn.functional.gelu, "normal"),
            (tables.gelu_tanh, gelu_tanh, "sigmoid"),
        ],
    )
    def test_times_x(self, function: Function, reference: Function, curve: str) -> None:
        assert ((function(GRID) - reference(GRID)).abs() <= error(curve) * GRID.abs()).all()

    def test_exp(self) -> None:
        x = torch.linspace(-700, 700, 100_001, dtype=torch.float64)
        wanted = x.exp()
        assert ((tables.exp(x) - wanted).abs() <= (EXP_BEND * STEP**2 / 8 + 1e-12) * wanted).all()

    @pytest.mark.parametrize("function", [tables.sigmoid, tables.tanh, tables.softplus, tables.normal_cdf, tables.exp])
    def test_monotone(self, function: Function) -> None:
        borders = torch.arange(-4200, 4201, dtype=torch.float64) / 128
        x = torch.cat([GRID, borders, *(borders.nextafter(borders + side) for side in (-1, 1))]).sort()[0]
        assert (function(x).diff() >= 0).all()

    def test_values_in_the_middle(self) -> None:
        zero = torch.zeros(1, dtype=torch.float64)
        assert tables.sigmoid(zero).item() == tables.normal_cdf(zero).item() == 0.5
        assert tables.tanh(zero).item() == tables.silu(zero).item() == tables.gelu(zero).item() == 0
        assert tables.exp(zero).item() == 1

    @pytest.mark.parametrize("function", [tables.sigmoid, tables.normal_cdf])
    def test_both_sides_sum_to_one(self, function: Function) -> None:
        points = torch.arange(-9000, 9001, dtype=torch.float64) / 128
        assert torch.equal(function(points) + function(-points), torch.ones_like(points))


HUGE = torch.tensor([1e3, 1e30, 1e100], dtype=torch.float64)


class TestMagnitudes:
    """Beyond its table a curve stays at its end, which is at most 2**-46 from the limit."""

    @pytest.mark.parametrize("function", [tables.silu, tables.gelu, tables.gelu_tanh, tables.softplus])
    def test_large_ones_stay(self, function: Function) -> None:
        assert ((function(HUGE) - HUGE).abs() <= 2.0**-46 * HUGE).all()

    @pytest.mark.parametrize("function", [tables.silu, tables.gelu, tables.gelu_tanh])
    def test_large_negative_ones_vanish(self, function: Function) -> None:
        found = function(-HUGE)
        assert ((found <= 0) & (found >= -(2.0**-46) * HUGE)).all()

    @pytest.mark.parametrize(
        ("function", "low", "high"),
        [(tables.sigmoid, 0, 1), (tables.normal_cdf, 0, 1), (tables.tanh, -1, 1)],
    )
    def test_limits(self, function: Function, low: int, high: int) -> None:
        for sign, limit in ((-1, low), (1, high)):
            assert ((function(sign * HUGE) - limit).abs() <= 2.0**-45).all()
        assert ((function(-HUGE) >= low) & (function(HUGE) <= high)).all()

    def test_softplus_vanishes(self) -> None:
        found = tables.softplus(-HUGE)
        assert ((found >= 0) & (found <= 2.0**-46)).all()

    def test_exp_stops_at_700(self) -> None:
        x = torch.tensor([700.0, 701.0, 1e30, -700.0, -701.0, -1e30], dtype=torch.float64)
        high, *highs, low, second, third = tables.exp(x).tolist()
        assert set(highs) == {high}
        assert low == second == third > 0

    @pytest.mark.parametrize("tiny", [1e-30, -1e-30, 5e-324])
    def test_tiny_ones(self, tiny: float) -> None:
        x = torch.tensor([tiny], dtype=torch.float64)
        assert tables.sigmoid(x).item() == tables.normal_cdf(x).item() == 0.5
        assert tables.silu(x).item() == tables.gelu(x).item() == tables.gelu_tanh(x).item() == tiny / 2
        assert tables.exp(x).item() == 1


class TestPrecision:
    @pytest.fixture
    def mp(self):  # type: ignore[no-untyped-def]
        mpmath = pytest.importorskip("mpmath")
        with mpmath.workdps(50):
            yield mpmath.mp

    def test_softmax_table_is_rounded_correctly(self, mp) -> None:  # type: ignore[no-untyped-def]
        table = softmax_table().tolist()
        for k in (*range(0, len(table), 7), *range(len(table) - 200, len(table))):
            assert table[k] == int(mp.nint(2**SOFTMAX_BITS * mp.exp(-mp.mpf(k) / SOFTMAX_STEPS)))

    def test_softmax_table_ends_with_its_first_zero(self) -> None:
        table = softmax_table()
        assert (table[0].item(), table[-2].item(), table[-1].item()) == (2**SOFTMAX_BITS, 1, 0)
        assert (table.diff() <= 0).all()
        assert torch.equal(_table(torch.device("cpu")), table)

    @pytest.mark.parametrize(("length", "count"), [(300, 3), (40, 16)])
    def test_rotary_table(self, length: int, count: int, mp) -> None:  # type: ignore[no-untyped-def]
        table = rotary_table(length, count).tolist()
        for p in range(length):
            for i in range(count):
                angle = p * mp.mpf(10000) ** (-mp.mpf(i) / count)
                for found, exact in zip(table[p][i], (mp.cos(angle), mp.sin(angle)), strict=True):
                    assert abs(mp.mpf(found) - exact) <= mp.mpf(2) ** -49 * (1 + mp.mpf(2) ** -40)

    @pytest.mark.parametrize(("name", "reach"), [("sigmoid", 40), ("softplus", 32), ("normal_cdf", 8)])
    def test_points_of_the_tables(self, name: str, reach: int, mp) -> None:  # type: ignore[no-untyped-def]
        exact = {
            "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
            "softplus": lambda x: mp.log(1 + mp.exp(x)),
            "normal_cdf": mp.ncdf,
        }[name]
        points = range(-reach * 128 + 1, reach * 128, 3)
        found = getattr(tables, name)(torch.tensor([i / 128 for i in points], dtype=torch.float64)).tolist()
        largest = 40 if name == "softplus" else 1
        for i, value in zip(points, found, strict=True):
            assert abs(mp.mpf(value) - exact(mp.mpf(i) / 128)) <= mp.mpf(2) ** -52 * largest
