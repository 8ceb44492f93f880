"""What every entropy coder promises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch

from obverse.distributions import TOTAL_BITS, Categorical, IntegerGaussian, frequencies_from_weights
from obverse.errors import CorruptError
from obverse.interfaces import EntropyCoder

Call = tuple[np.ndarray, np.ndarray]
"""Arguments of one `SymbolEncoder.encode`: symbols [n] int32 and frequencies [S] or [n, S] int64."""


def ideal_bits(calls: Iterable[Call]) -> float:
    """Sum of -log2 of the frequencies, as probabilities."""
    total = 0.0
    for symbols, frequencies in calls:
        rows = np.broadcast_to(frequencies, (len(symbols), frequencies.shape[-1]))
        chosen = np.take_along_axis(rows, symbols[:, None].astype(np.int64), axis=1)
        total += float((TOTAL_BITS - np.log2(chosen)).sum())
    return total


def skewed_calls(
    size: int, count: int, skew: float, *, per_symbol: bool, seed: int = 0, surprise: float = 0.0
) -> list[Call]:
    """One call with `count` symbols drawn from random frequencies.

    Args:
        size: symbols in the alphabet.
        count: number of symbols.
        skew: standard deviation of the logits; 0 is uniform.
        per_symbol: one row of frequencies for each symbol, instead of one for all.
        seed: of frequencies and symbols.
        surprise: share of the symbols that are drawn uniformly, whatever their frequency.
    """
    rng = np.random.default_rng((seed, size, count, int(per_symbol), int(skew * 16)))
    weights = np.exp(np.clip(rng.normal(0, skew, (max(count, 1) if per_symbol else 1, size)), -20, 10))
    rows = frequencies_from_weights(torch.from_numpy((weights * 1024).astype(np.int64) + 1)).numpy()
    points = rng.integers(0, 1 << TOTAL_BITS, count)
    cumulative = rows.cumsum(-1)
    symbols = np.array(
        [np.searchsorted(cumulative[i if per_symbol else 0], point, side="right") for i, point in enumerate(points)],
        dtype=np.int32,
    ).reshape(count)
    odd = rng.random(count) < surprise
    symbols[odd] = rng.integers(0, size, int(odd.sum()))
    return [(symbols, rows[:count] if per_symbol else rows[0])]


class EntropyCoderContract:
    """Subclass as `TestMyCoder` and define `make`."""

    def make(self) -> EntropyCoder:
        raise NotImplementedError

    def limit(self, calls: Sequence[Call]) -> float:
        """Bytes that these calls may take at most: 0.1 % and 8 bytes above the ideal."""
        return ideal_bits(calls) / 8 * 1.001 + 8

    def encoded(self, calls: Sequence[Call]) -> bytes:
        encoder = self.make().encoder()
        for symbols, frequencies in calls:
            encoder.encode(symbols, frequencies)
        return encoder.finish()

    def measured(self, calls: Sequence[Call]) -> float:
        encoder = self.make().encoder()
        for symbols, frequencies in calls:
            encoder.encode(symbols, frequencies)
        return encoder.bits

    def real(self) -> EntropyCoder:
        coder = self.make()
        if not coder.real:
            pytest.skip("the coder only measures")
        return coder

    def check(self, calls: Sequence[Call]) -> None:
        """These calls come back, within the limit; a coder that only measures counts the ideal."""
        coder, data = self.make(), self.encoded(calls)
        if not coder.real:
            assert data == b""
            assert self.measured(calls) == pytest.approx(ideal_bits(calls), rel=1e-9, abs=1e-6)
            return
        decoder = coder.decoder(data)
        for symbols, frequencies in calls:
            decoded = decoder.decode(frequencies, len(symbols))
            assert decoded.dtype == np.int32
            assert decoded.tolist() == symbols.tolist()
        assert len(data) <= self.limit(calls), f"{len(data)} bytes, {ideal_bits(calls) / 8:.1f} are ideal"

    def test_declarations(self) -> None:
        coder = self.make()
        assert isinstance(coder, EntropyCoder)
        assert coder.code is None or (coder.real and 0 <= coder.code <= 3)

    @pytest.mark.parametrize("per_symbol", [False, True])
    @pytest.mark.parametrize("skew", [0.0, 1.0, 5.0])
    @pytest.mark.parametrize("size", [2, 3, 17, 256, 1000])
    def test_round_trip(self, size: int, skew: float, per_symbol: bool) -> None:
        for count in (1, 2, 7, 300):
            self.check(skewed_calls(size, count, skew, per_symbol=per_symbol))

    def test_round_trip_of_improbable_symbols(self) -> None:
        for surprise in (0.1, 1.0):
            self.check(skewed_calls(256, 300, 6.0, per_symbol=True, surprise=surprise))

    def test_extreme_frequencies(self) -> None:
        sure = np.array([(1 << TOTAL_BITS) - 1, 1], dtype=np.int64)
        for symbols in (np.zeros(20000), np.ones(100), np.arange(100) % 2):
            self.check([(symbols.astype(np.int32), sure), (symbols.astype(np.int32), sure[::-1].copy())])

    def test_calls_of_both_kinds_mix(self) -> None:
        calls: list[Call] = []
        for index in range(30):
            size, count = (2, 5, 64, 300)[index % 4], (0, 1, 9)[index % 3]
            calls += skewed_calls(size, count, 2.0, per_symbol=index % 2 == 0, seed=index)
        self.check(calls)

    def test_empty_stream(self) -> None:
        assert self.encoded([]) == b""
        empty = skewed_calls(4, 0, 1.0, per_symbol=False) + skewed_calls(4, 0, 1.0, per_symbol=True)
        assert self.encoded(empty) == b""
        self.check(empty)

    def test_same_input_same_bytes(self) -> None:
        calls = skewed_calls(100, 200, 2.0, per_symbol=True)
        assert self.encoded(calls) == self.encoded(calls)

    def test_bits_grow_with_every_symbol(self) -> None:
        encoder = self.make().encoder()
        calls, before = skewed_calls(50, 100, 2.0, per_symbol=True)[0], encoder.bits
        assert before >= 0
        for index in range(100):
            encoder.encode(calls[0][index : index + 1], calls[1][index])
            assert encoder.bits >= before
            before = encoder.bits
        assert before >= 0.9 * ideal_bits([calls])
        assert before == 0 or encoder.finish() is not None

    def test_damaged_data_is_refused_or_decoded_within_the_alphabet(self) -> None:
        coder, calls = self.real(), skewed_calls(300, 60, 3.0, per_symbol=True)
        data = self.encoded(calls)
        rng = np.random.default_rng(0)
        flips = [bytes(b ^ (i == place) << (place % 8) for i, b in enumerate(data)) for place in range(len(data))]
        garbage = [rng.integers(0, 256, int(n), dtype=np.uint8).tobytes() for n in rng.integers(0, 80, 50)]
        for damaged in [*(data[:end] for end in range(len(data))), *flips, *garbage, b"\xff" * 99, bytes(99)]:
            decoder = coder.decoder(damaged)
            for _, frequencies in [*calls, *calls]:
                try:
                    symbols = decoder.decode(frequencies, len(frequencies))
                except CorruptError:
                    break
                assert len(symbols) == len(frequencies)
                assert symbols.min() >= 0
                assert symbols.max() < frequencies.shape[-1]

    def test_distributions_come_back(self) -> None:
        coder, generator = self.real(), torch.Generator().manual_seed(0)
        logits = torch.randint(-40, 40, (2, 9, 37), generator=generator).int()
        scales = torch.randint(0, 64, (2, 3, 4, 5), generator=generator)
        values = (torch.randn(2, 3, 4, 5, generator=generator) * 30).round().long()
        tokens = torch.randint(0, 37, (2, 9), generator=generator)
        encoder = coder.encoder()
        encoder.put(tokens, Categorical(logits))
        encoder.put(values, IntegerGaussian(scales))
        decoder = coder.decoder(encoder.finish())
        assert torch.equal(decoder.take(Categorical(logits)), tokens)
        assert torch.equal(decoder.take(IntegerGaussian(scales)), values)
