"""Entropy coders: their code words, their lengths and their manners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from obverse.coders import range as range_coder
from obverse.coders.ideal import IdealCoder
from obverse.coders.range import RangeCoder, RangeEncoder
from obverse.coders.raw import RawCoder
from obverse.distributions import TOTAL, Categorical, IntegerGaussian, check_frequencies, to_grid
from obverse.errors import ConfigError
from obverse.gaussian import SCALES
from obverse.interfaces import EntropyCoder
from obverse.testing import Call, EntropyCoderContract, ideal_bits, skewed_calls


class TestRange(EntropyCoderContract):
    def make(self) -> EntropyCoder:
        return RangeCoder()


class TestIdeal(EntropyCoderContract):
    def make(self) -> EntropyCoder:
        return IdealCoder()


class TestRaw(EntropyCoderContract):
    def make(self) -> EntropyCoder:
        return RawCoder()

    def limit(self, calls: Sequence[Call]) -> float:
        return -(-sum(len(s) * int(f.shape[-1] - 1).bit_length() for s, f in calls) // 8)


def reference(calls: Sequence[Call]) -> tuple[int, int, int]:
    """Lower end, width and words so far of a 64-bit range coder, as one integer of unlimited size."""
    low, width, words = 0, (1 << 64) - 1, 0
    for symbols, frequencies in calls:
        rows = np.broadcast_to(frequencies, (len(symbols), frequencies.shape[-1]))
        for symbol, row in zip(symbols.tolist(), rows.tolist(), strict=True):
            scale = width >> 24
            low += scale * sum(row[:symbol])
            width = scale * row[symbol]
            while width < 1 << 32:
                low, width, words = low << 32, width << 32, words + 1
    return low, width, words


def shortest(low: int, width: int, words: int) -> bytes:
    """The shortest byte string that names a number in [low, low + width) when zeros follow it."""
    length = 4 * words + 8
    for kept in range(length + 1):
        unit = 1 << 8 * (length - kept)
        point = -(-low // unit) * unit
        if point < low + width:
            return point.to_bytes(length, "big")[:kept]
    raise AssertionError


def encoded(calls: Sequence[Call]) -> bytes:
    encoder = RangeEncoder()
    for symbols, frequencies in calls:
        encoder.encode(symbols, frequencies)
    return encoder.finish()


@pytest.mark.parametrize("skew", [0.0, 2.0, 8.0])
@pytest.mark.parametrize("size", [2, 3, 64, 257])
def test_code_words_are_those_of_integer_arithmetic(size: int, skew: float) -> None:
    for count in (1, 2, 3, 5, 40, 200):
        for per_symbol in (False, True):
            calls = skewed_calls(size, count, skew, per_symbol=per_symbol, surprise=0.1)
            assert encoded(calls) == shortest(*reference(calls))


def test_code_words_of_large_alphabets() -> None:
    calls = skewed_calls(1 << 12, 64, 6.0, per_symbol=True, surprise=0.2)
    assert encoded(calls) == shortest(*reference(calls))


def test_code_words_of_long_carries() -> None:
    """The improbable last symbol of a sure row puts the interval right below a carry."""
    frequencies = np.array([TOTAL - 1, 1], dtype=np.int64)
    turned = frequencies[::-1].copy()
    for count in range(1, 60):
        ones = np.ones(count, dtype=np.int32)
        for calls in ([(ones, frequencies)], [(ones, turned)], [(ones, turned), (ones[:3], frequencies)]):
            assert encoded(calls) == shortest(*reference(calls))


def test_one_symbol_at_a_time_is_the_same_as_all() -> None:
    (symbols, frequencies), *_ = skewed_calls(30, 50, 2.0, per_symbol=False)
    data = encoded([(symbols, frequencies)])
    assert encoded([(symbols[i : i + 1], frequencies) for i in range(len(symbols))]) == data
    decoder = RangeCoder().decoder(data)
    found = [decoder.decode(frequencies, 1) for _ in symbols]
    assert np.array_equal(np.concatenate(found), symbols)
    assert found[0].dtype == np.int32


def test_models_of_tables_are_kept_while_the_table_lives() -> None:
    def table(first: int, fixed: bool) -> np.ndarray:
        frequencies = np.array([first, TOTAL - first], dtype=np.int64)
        frequencies.flags.writeable = not fixed
        return frequencies

    symbols = np.arange(100, dtype=np.int32) % 2
    before = len(range_coder._kept)
    fixed, changing = table(1 << 20, True), table(1 << 20, False)
    expected = encoded([(symbols, fixed)])
    assert encoded([(symbols, fixed)]) == encoded([(symbols, changing)]) == expected
    assert len(range_coder._kept) == before + 1
    changing[:] = [1 << 10, TOTAL - (1 << 10)]
    assert encoded([(symbols, changing)]) == encoded([(symbols, table(1 << 10, True))]) != expected
    del fixed
    assert len(range_coder._kept) == before


GOLDEN = [
    ("uniform bits", [1, 0, 1, 1, 0, 0, 1, 0], [1 << 23, 1 << 23], "b2"),
    ("a run of the sure symbol", [0] * 1000, [TOTAL - 1, 1], ""),
    ("ten of the improbable symbol", [1] * 10, [TOTAL - 1, 1], "fffffffffe000000" + "ff" * 22 + "01"),
    ("four symbols", [3, 1, 2, 0, 3, 3], [1 << 20, 3 << 20, 4 << 20, 8 << 20], "8e48"),
]


@pytest.mark.parametrize(
    ("symbols", "frequencies", "expected"), [row[1:] for row in GOLDEN], ids=[r[0] for r in GOLDEN]
)
def test_golden_bytes(symbols: list[int], frequencies: list[int], expected: str) -> None:
    data = encoded([(np.array(symbols, dtype=np.int32), np.array(frequencies, dtype=np.int64))])
    assert data.hex() == expected


def test_golden_bytes_of_distributions() -> None:
    logits = (torch.arange(2 * 5 * 300).view(2, 5, 300) * 7919 % 97 - 48).int()
    tokens = (torch.arange(10).view(2, 5) * 31) % 300
    scales = (torch.arange(24) * 5 % 64).view(2, 12)
    values = ((torch.arange(24) * 13) % 41 - 20).view(2, 12)
    encoder = RangeEncoder()
    encoder.put(tokens, Categorical(logits))
    encoder.put(values, IntegerGaussian(scales))
    assert encoder.finish().hex() == (
        "00a91ec641f823040a7eccb19fd642f7e578512aff09fffffffffffffffffffffffffff9aa04e994259b387490a7265500ac"
        "86c6c387da214cf4a1d0"
    )


def spike(vocabulary: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Float64 logits of one token with 97 %, another one in every row."""
    logits = torch.zeros(1, count, vocabulary, dtype=torch.float64)
    places = torch.randint(vocabulary, (1, count, 1), generator=generator)
    peak = float(np.log(0.97 / 0.03 * (vocabulary - 1)))
    return logits.scatter_(2, places, peak)


@pytest.mark.parametrize("shape", ["sigma 2", "sigma 6", "spike"])
@pytest.mark.parametrize("vocabulary", [1024, 4096, 16384, 64000])
def test_tokens_cost_what_the_logits_say(vocabulary: int, shape: str) -> None:
    """Within 0.1 % and 8 bytes of the softmax of the float64 logits, all roundings included."""
    generator = torch.Generator().manual_seed(vocabulary)
    count = 3_000_000 // vocabulary
    if shape == "spike":
        logits = spike(vocabulary, count, generator)
    else:
        logits = torch.randn(1, count, vocabulary, generator=generator, dtype=torch.float64) * float(shape[-1])
    log_p = logits.log_softmax(-1)
    tokens = torch.multinomial(log_p[0].exp(), 1, generator=generator)[:, 0][None]
    ideal = -float(log_p.gather(2, tokens[..., None]).sum()) / float(np.log(2))
    encoder = RangeEncoder()
    encoder.put(tokens, Categorical(to_grid(logits)))
    assert len(encoder.finish()) <= ideal / 8 * 1.001 + 8


@pytest.mark.parametrize(("smallest", "largest"), [(0.11, 8.0), (0.11, 256.0)])
def test_gaussians_cost_what_their_scale_says(smallest: float, largest: float) -> None:
    """Within 0.1 % and 8 bytes of the Gaussian of the nearest table scale, in float64."""
    generator = torch.Generator().manual_seed(0)
    count = 40000
    spread = torch.rand(1, count, generator=generator, dtype=torch.float64)
    scales = smallest * (largest / smallest) ** spread
    indices = IntegerGaussian.index(scales)
    exact = torch.tensor(SCALES, dtype=torch.float64)[indices] / 65536
    values = (torch.randn(1, count, generator=generator, dtype=torch.float64) * exact).round().long()
    edge = exact * 2**0.5
    inner, outer = (values.abs() - 0.5) / edge, (values.abs() + 0.5) / edge
    mass = (torch.special.erfc(inner) - torch.special.erfc(outer)) / 2
    ideal = -float(mass.log2().sum())
    encoder = RangeEncoder()
    encoder.put(values, IntegerGaussian(indices))
    assert len(encoder.finish()) <= ideal / 8 * 1.001 + 8


def test_ideal_coder_counts_the_same_bits() -> None:
    calls = skewed_calls(50, 100, 3.0, per_symbol=True) + skewed_calls(9, 100, 1.0, per_symbol=False)
    encoder = IdealCoder().encoder()
    for call in calls:
        encoder.encode(*call)
    assert encoder.bits == pytest.approx(ideal_bits(calls), rel=1e-12)
    assert encoder.finish() == b""


def test_ideal_coder_reads_nothing() -> None:
    with pytest.raises(ConfigError, match="only measures"):
        IdealCoder().decoder(b"")


def test_raw_coder_packs_fixed_lengths() -> None:
    encoder = RawCoder().encoder()
    encoder.encode(np.array([1, 4, 2], dtype=np.int32), np.full(5, 1))
    assert encoder.bits == 9
    assert encoder.finish() == bytes([0b00110001, 0b00000000])


@pytest.mark.parametrize("row", [[TOTAL, 0], [TOTAL, 1], [-1, TOTAL + 1]])
def test_frequencies_are_checked(row: list[int]) -> None:
    with pytest.raises(ValueError, match="at least 1 and sum to"):
        check_frequencies(np.array(row))
