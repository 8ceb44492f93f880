"""Units are powers of two, and integers stay within their bits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from obverse.exact import backends
from obverse.exact.matrix import WEIGHT_LIMIT, Matrix
from obverse.exact.rounding import ACTIVATION_LIMIT, power_of_two, snap, snap_to, to_integers

TINY = 2.0**-200
EDGE = 32768 / (1 + 2.0**-7)  # where the unit of activations doubles, in units

values = st.floats(-(2.0**700), 2.0**700, allow_subnormal=True)
near_powers = st.builds(
    lambda exponent, steps, sign, factor: sign * math.ldexp(factor, exponent) * (1 + steps * 2.0**-52),
    st.integers(-300, 700),
    st.integers(-3, 3),
    st.sampled_from((-1, 1)),
    st.sampled_from((1.0, EDGE)),
)
rows = st.lists(values | near_powers, min_size=1, max_size=6).map(lambda row: torch.tensor(row, dtype=torch.float64))


def row(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


class TestPowerOfTwo:
    @pytest.mark.parametrize("shift", [-60, -14, -12, 0, 1, 60])
    def test_exponents_from_below_to_above_every_power(self, shift: int) -> None:
        powers = torch.tensor([2.0**exponent for exponent in range(-260, 801)], dtype=torch.float64)
        largest = torch.cat([powers.nextafter(row(0.0)), powers, powers.nextafter(row(torch.inf)), powers * 1.5])
        power, inverse = power_of_two(largest, shift)
        exponents = [math.frexp(value + TINY)[1] - 1 for value in largest.tolist()]
        assert power.tolist() == [math.ldexp(1.0, exponent + shift) for exponent in exponents]
        assert inverse.tolist() == [math.ldexp(1.0, -exponent - shift) for exponent in exponents]

    def test_zero_counts_as_tiny(self) -> None:
        assert power_of_two(row(0.0), 0)[0].item() == TINY

    def test_shape_stays(self) -> None:
        power, inverse = power_of_two(torch.ones(3, 1, 2, dtype=torch.float64), 0)
        assert power.shape == inverse.shape == (3, 1, 2)


class TestToIntegers:
    @given(rows)
    def test_magnitudes_stay_within_the_limit(self, x: Tensor) -> None:
        integers, _ = to_integers(x)
        assert integers.dtype == torch.int16
        assert integers.long().abs().max() <= ACTIVATION_LIMIT

    @given(rows)
    def test_integers_times_unit_is_x_rounded(self, x: Tensor) -> None:
        integers, unit = to_integers(x)
        assert ((integers * unit - x).abs() <= unit / 2).all()

    @given(rows)
    def test_all_bits_are_used(self, x: Tensor) -> None:
        assume(x.abs().max() > 2.0**-150)
        assert to_integers(x)[0].long().abs().max() >= ACTIVATION_LIMIT // 2

    @pytest.mark.parametrize("exponent", [-140, -1, 0, 5, 600])
    def test_the_limit_is_reached_and_not_passed(self, exponent: int) -> None:
        edge = math.ldexp(EDGE, exponent)
        around = [edge]
        for toward in (0.0, math.inf):
            place = edge
            for _ in range(4):
                around.append(place := math.nextafter(place, toward))
        largest = max(to_integers(row(value))[0].item() for value in around)
        assert largest == ACTIVATION_LIMIT

    def test_zeros_stay_zeros(self) -> None:
        integers, unit = to_integers(torch.zeros(2, 3, dtype=torch.float64))
        assert not integers.any()
        assert (unit > 0).all()

    def test_tiny_rows_vanish(self) -> None:
        assert not to_integers(row(1e-300, -5e-324))[0].any()

    def test_ties_go_to_even(self) -> None:
        integers, unit = to_integers(row(2.0**14, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5))
        assert unit.item() == 1
        assert integers.tolist() == [2**14, 0, 2, 2, 0, -2, -2]

    def test_rows_do_not_share_a_unit(self) -> None:
        x = torch.stack([row(1.0, 0.1), row(1e9, 0.1)])
        together, units = to_integers(x)
        for i in range(2):
            alone, unit = to_integers(x[i])
            assert torch.equal(together[i], alone)
            assert torch.equal(units[i], unit)

    def test_axes_share_a_unit(self) -> None:
        _, unit = to_integers(torch.ones(2, 3, 4, 5, dtype=torch.float64), (1, 2, 3))
        assert unit.shape == (2, 1, 1, 1)

    def test_float32_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"float64, not torch\.float32"):
            to_integers(torch.ones(2, 3))


class TestSnap:
    @given(rows, st.sampled_from((15, 19)))
    def test_magnitudes_stay_within_the_bits(self, x: Tensor, bits: int) -> None:
        unit, _ = power_of_two(x.abs().max(), 1 - bits)
        units = snap(x, bits) / unit
        assert torch.equal(units, units.round())
        assert units.abs().max() <= 2**bits

    @given(rows, st.sampled_from((15, 19)))
    def test_nothing_moves_by_more_than_half_a_unit(self, x: Tensor, bits: int) -> None:
        unit, _ = power_of_two(x.abs().max(), 1 - bits)
        assert ((snap(x, bits) - x).abs() <= unit / 2).all()

    @given(rows)
    def test_a_second_time_changes_nothing_in_the_same_binade(self, x: Tensor) -> None:
        once = snap(x, 15)
        assume(math.frexp(once.abs().max())[1] == math.frexp(x.abs().max())[1])
        assert torch.equal(snap(once, 15), once)

    def test_the_bound_is_reached(self) -> None:
        assert snap(row(math.nextafter(2.0, 0)), 15).item() / 2.0**-14 == 2**15

    def test_ties_go_to_even(self) -> None:
        assert snap(row(2.0**14, 0.5, 1.5, -2.5), 15).tolist() == [2.0**14, 0, 2, -2]


class TestSnapTo:
    def test_multiples_of_the_unit(self) -> None:
        assert snap_to(row(0.3, -0.3, 0.125, 0.375), 0.25, 8).tolist() == [0.25, -0.25, 0, 0.5]

    def test_magnitudes_are_limited(self) -> None:
        assert snap_to(row(1e30, -1e30, 63.9, 1e-30), 0.25, 8).tolist() == [64, -64, 64, 0]

    @given(rows)
    def test_a_second_time_changes_nothing(self, x: Tensor) -> None:
        once = snap_to(x, 2.0**-13, 23)
        assert torch.equal(snap_to(once, 2.0**-13, 23), once)


class TestLimbs:
    def test_every_weight_splits_within_64_and_joins_again(self) -> None:
        weights = torch.arange(-WEIGHT_LIMIT, WEIGHT_LIMIT + 1, dtype=torch.int32)[:, None]
        limbs = backends.split_weights(weights)
        assert limbs.dtype == torch.int8
        assert limbs.long().abs().max() == 64
        for dtype in (torch.int64, torch.float64):
            assert torch.equal(backends.join_weights(limbs, dtype), weights.to(dtype))

    def test_every_activation_splits_into_signed_bytes(self) -> None:
        activations = torch.arange(-ACTIVATION_LIMIT, ACTIVATION_LIMIT + 1).to(torch.int16)[:, None]
        high, low = backends._split_activations(activations).long().chunk(2)
        assert torch.equal(256 * high + low, activations.long())

    @given(rows)
    def test_weights_stay_within_the_limit(self, x: Tensor) -> None:
        matrix = Matrix(x[None])
        assert matrix.integers().abs().max() <= WEIGHT_LIMIT
        assert ((matrix.integers() * matrix.unit[:, None] - x).abs() <= matrix.unit / 2).all()

    def test_rows_of_weights_share_a_unit_when_asked(self) -> None:
        weights = torch.tensor([[1.0], [1000.0], [1e-3], [1e-6]])
        assert Matrix(weights, 2).unit.tolist() == [2.0**-3, 2.0**-3, 2.0**-22, 2.0**-22]
