"""Values on the border between two integers, and decoders that see them a little differently."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from obverse.coders.ideal import IdealEncoder
from obverse.coders.range import RangeDecoder, RangeEncoder
from obverse.coders.raw import RawCoder
from obverse.distributions import TOTAL, Categorical, Distribution, IntegerGaussian, to_grid
from obverse.errors import CorruptError, UnsupportedInputError
from obverse.gaussian import EDGES
from obverse.guarded import GUARD, OFFSET_FREQUENCIES, OFFSETS, Guarded, GuardedCategorical, GuardedGaussian
from obverse.testing import recorded

KINDS = [GuardedCategorical, GuardedGaussian]
Kind = type[GuardedCategorical] | type[GuardedGaussian]


def on_borders(kind: Kind, grids: range) -> Tensor:
    """Values, of 12 symbols each, that lie exactly on a border of some grids, as far as float64 can say."""
    if kind is GuardedCategorical:
        return torch.tensor([[(k + 0.5 - grid / 16) / 8 for k in range(12)] for grid in grids for _ in range(12)])[
            None
        ].double()
    values = [EDGES[3 * k] / 65536 / (1 + grid / 1024) for grid in grids for k in range(12)]
    return torch.tensor([values], dtype=torch.float64)


def moved(kind: Kind, values: Tensor, seed: int, by: float = GUARD / 2) -> Tensor:
    """Each value as another machine might find it: elsewhere by up to `by`, up or down."""
    noise = (torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1) * by
    return values + noise if kind is GuardedCategorical else values * (1 + noise)


def symbols(distribution: Distribution, seed: int = 0) -> Tensor:
    return distribution.sample(torch.Generator().manual_seed(seed), 1.0, 0, 1.0)


def written(values: Tensor, distribution: Distribution) -> bytes:
    encoder = RangeEncoder()
    encoder.put(values, distribution)
    return encoder.finish()


def offsets(values: Tensor, distribution: Guarded) -> list[int]:
    """The offsets that are written, one per group."""
    calls = recorded(distribution, values)
    return [taken[0] for taken, frequencies in calls if frequencies == [OFFSET_FREQUENCIES.tolist()]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grids", [range(1), range(1, 2), range(5), range(OFFSETS - 1)])
def test_decoders_may_differ_where_values_lie_on_borders(kind: Kind, grids: range) -> None:
    guarded = kind(on_borders(kind, grids))
    sent = symbols(guarded)
    data = written(sent, guarded)
    assert offsets(sent, guarded) == [0 if grids.start else grids.stop]
    for seed in range(5):
        decoder = RangeDecoder(data)
        assert torch.equal(decoder.take(kind(moved(kind, guarded.values, seed))), sent)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_guard_they_may_not(kind: Kind) -> None:
    def unguarded(values: Tensor) -> Distribution:
        if kind is GuardedCategorical:
            return Categorical(to_grid(values))
        return IntegerGaussian(IntegerGaussian.index(values))

    values = on_borders(kind, range(1))
    sent = symbols(unguarded(values))
    data = written(sent, unguarded(values))
    assert torch.equal(RangeDecoder(data).take(unguarded(values)), sent)
    for seed in range(5):
        try:
            assert not torch.equal(RangeDecoder(data).take(unguarded(moved(kind, values, seed))), sent)
        except CorruptError:
            continue


@pytest.mark.parametrize("kind", KINDS)
def test_values_near_to_a_border_move_the_grid_and_others_do_not(kind: Kind) -> None:
    border = on_borders(kind, range(1))
    for distance, offset in ((0.0, 1), (0.9, 1), (1.1, 0)):
        for sign in (-1, 1):
            step = sign * distance * GUARD
            guarded = kind(border + step if kind is GuardedCategorical else border * (1 + step))
            assert offsets(symbols(guarded), guarded) == [offset]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_without_a_grid_is_refused(kind: Kind) -> None:
    guarded = kind(on_borders(kind, range(OFFSETS)))
    with pytest.raises(UnsupportedInputError, match="guarded64 cannot code this picture: on each of 16 grids"):
        written(symbols(guarded), guarded)


@given(st.integers(0, 2**32), st.integers(0, 2**32), st.floats(0, 4), st.sampled_from(KINDS))
@settings(max_examples=60)
def test_any_values_come_back(seed: int, noise: int, spread: float, kind: Kind) -> None:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(2, 5, 9, generator=generator, dtype=torch.float64) * 10**spread
    values = normal if kind is GuardedCategorical else normal.abs() + 1e-9
    guarded = kind(values)
    sent = symbols(guarded, seed)
    assert torch.equal(RangeDecoder(written(sent, guarded)).take(kind(moved(kind, values, noise))), sent)


def test_infinite_logits_are_no_borders() -> None:
    values = torch.tensor([[[0.1, -math.inf, -1e300, math.inf, 0.0]]], dtype=torch.float64)
    guarded = GuardedCategorical(values)
    sent = torch.tensor([[4]])
    assert offsets(sent, guarded) == [0]
    assert torch.equal(RangeDecoder(written(sent, guarded)).take(guarded), sent)


class TestGroups:
    """How many symbols share an offset is part of the format."""

    @pytest.mark.parametrize(("size", "count", "groups"), [(2**20, 3, 3), (2**18, 9, 3), (2**18 + 1, 9, 3), (3, 9, 1)])
    def test_of_logits(self, size: int, count: int, groups: int) -> None:
        guarded = GuardedCategorical(torch.zeros(1, 1, 1, dtype=torch.float64).expand(1, count, size))
        assert len(list(guarded._groups())) == groups
        sizes = [len(group) for group in guarded._groups()]
        assert sizes[:-1] == [max(1, 2**20 // size)] * (groups - 1)
        assert sum(sizes) == count

    def test_of_scales(self) -> None:
        guarded = GuardedGaussian(torch.ones(1, 1, dtype=torch.float64).expand(3, 2**19))
        assert [len(group) for group in guarded._groups()] == [2**20, 2**19]

    @pytest.mark.parametrize("kind", KINDS)
    def test_each_has_an_offset_of_its_own(self, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("obverse.guarded.GROUP", 12 * 12 if kind is GuardedCategorical else 12)
        quiet = on_borders(kind, range(1)) + 0.01
        values = torch.cat([quiet, on_borders(kind, range(2)), quiet], dim=1)
        guarded = kind(values)
        sent = symbols(guarded)
        assert offsets(sent, guarded) == [0, 1, 0, 0]
        received = RangeDecoder(written(sent, guarded)).take(kind(moved(kind, values, 0)))
        assert torch.equal(received, sent)

    def test_an_offset_is_nearly_free(self) -> None:
        assert OFFSET_FREQUENCIES.sum() == TOTAL
        values = torch.randn(1, 4, 10, generator=torch.Generator().manual_seed(0)).double()
        sent, bits = torch.zeros(1, 4, dtype=torch.int64), []
        for distribution in (GuardedCategorical(values), Categorical(to_grid(values))):
            encoder = IdealEncoder()
            encoder.put(sent, distribution)
            bits.append(encoder.bits)
        assert bits[0] - bits[1] == pytest.approx(-math.log2(1 - 15 / 4096))
        assert bits[0] - bits[1] < 0.0054

    def test_the_raw_coder_spends_4_bits(self) -> None:
        encoder = RawCoder().encoder()
        encoder.put(torch.tensor([[3]]), GuardedCategorical(torch.zeros(1, 1, 16, dtype=torch.float64)))
        assert encoder.bits == 8
        assert encoder.finish() == b"\x03"


def test_drawing_takes_the_first_grid() -> None:
    values = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(symbols(GuardedCategorical(values)), symbols(Categorical(to_grid(values))))
    scales = values[..., 0].abs() + 0.1
    assert torch.equal(symbols(GuardedGaussian(scales)), symbols(IntegerGaussian(IntegerGaussian.index(scales))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_arithmetic_is_refused(kind: Kind, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"need float64 values, got {dtype}; compute in float64"):
        kind(torch.ones(1, 2, 3, dtype=dtype))


def test_one_offset_is_one_symbol() -> None:
    guarded = GuardedCategorical(torch.zeros(1, 1, 16, dtype=torch.float64))
    (first, *_) = recorded(guarded, torch.zeros(1, 1, dtype=torch.int64))
    assert first == ([0], [OFFSET_FREQUENCIES.tolist()])
    assert OFFSET_FREQUENCIES.dtype == np.int64
