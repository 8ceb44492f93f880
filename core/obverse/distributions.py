"""Distributions of symbols, handed to the coder as integer frequencies.

Nothing that decides a code word is floating point: a categorical starts from integer logits on a grid, a Gaussian
from an index into a table of scales, a factorized density from stored tables. How a prior's numbers become these
integers is the matter of `obverse.numerics`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from obverse.errors import CorruptError
from obverse.gaussian import EDGES, gaussian_frequencies

if TYPE_CHECKING:
    from obverse.interfaces import SymbolDecoder, SymbolEncoder

TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS
"""Every row of frequencies sums to this."""

LOGIT_STEPS = 8
"""Integer logits per nat: rounding to 1/8 nat costs about 0.001 bits per token."""

_WEIGHT_BITS = 30


def frequencies_from_weights(weights: Tensor) -> Tensor:
    """Scale rows of weights to frequencies that sum to `TOTAL`, each at least 1, in integer arithmetic.

    Args:
        weights: [..., S] int64, 0 to 2**39, not all zero in a row; S at most 2**16.

    Returns:
        [..., S] int64. What is left by rounding down goes to the first largest entry of the row.
    """
    size = weights.shape[-1]
    frequencies = 1 + weights * (TOTAL - size) // weights.sum(-1, keepdim=True)
    rest = TOTAL - frequencies.sum(-1, keepdim=True)
    return frequencies.scatter_add_(-1, weights.argmax(-1, keepdim=True), rest)


def check_frequencies(frequencies: np.ndarray) -> None:
    """Raise ValueError unless every entry is at least 1 and every row sums to `TOTAL`."""
    if (frequencies < 1).any() or (frequencies.sum(-1) != TOTAL).any():
        raise ValueError(f"frequencies must be at least 1 and sum to {TOTAL}")


@lru_cache(maxsize=1)
def exponential_table() -> Tensor:
    """round(2**30 * exp(-k / LOGIT_STEPS)) for k = 0, 1, ..., at least 1; int64, made with integers only."""
    bits = 96
    one = 1 << bits
    # exp(-1/LOGIT_STEPS) by its series, in fixed point.
    ratio, term, n = one, one, 1
    while term:
        term = term // (LOGIT_STEPS * n)
        ratio += -term if n % 2 else term
        n += 1
    entries, value = [], one
    while value >> (bits - _WEIGHT_BITS - 1):
        entries.append(max(1, (value + (1 << (bits - _WEIGHT_BITS - 1))) >> (bits - _WEIGHT_BITS)))
        value = value * ratio >> bits
    return torch.tensor([*entries, 1], dtype=torch.int64)


def to_grid(logits: Tensor) -> Tensor:
    """Floating-point logits in nats to the integer grid, int32."""
    return (logits.double() * LOGIT_STEPS).round().clamp(-(2**30), 2**30).int()


class Distribution(ABC):
    """One distribution per symbol of a block.

    Attributes:
        shape: shape of the symbols, [B, ...].
    """

    shape: torch.Size

    @abstractmethod
    def rows(self, start: int, stop: int) -> Distribution:
        """The part for batch items `start` to `stop`."""

    @abstractmethod
    def select(self, positions: Tensor) -> Distribution:
        """The part at some positions of the second axis."""

    @abstractmethod
    def regroup(self, batch: int) -> Distribution:
        """The same distributions, [batch * n, k] seen as [batch, n * k]."""

    @abstractmethod
    def write(self, symbols: Tensor, encoder: SymbolEncoder) -> None:
        """Put symbols, in the order of the flattened array."""

    @abstractmethod
    def read(self, decoder: SymbolDecoder) -> Tensor:
        """Take symbols in the order of `write`; int64 on the device of the distribution."""

    @abstractmethod
    def sample(self, generator: torch.Generator, temperature: float, top_k: int, top_p: float) -> Tensor:
        """Draw symbols.

        Args:
            generator: a CPU generator.
            temperature: 1 draws from the distribution itself; 0 takes the most probable symbol.
            top_k: keep the k most probable symbols; 0 keeps all.
            top_p: keep the most probable symbols that together reach this probability; 1 keeps all.
        """


def _draw(weights: Tensor, generator: torch.Generator, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Indices [n] drawn from rows of weights [n, S], by the inverse of the cumulative sum in float64."""
    p = weights.double()
    if temperature == 0:
        return p.argmax(-1)
    if temperature != 1:
        p = (p / p.amax(-1, keepdim=True)) ** (1 / temperature)
    if top_k or top_p < 1:
        ordered, order = p.sort(dim=-1, descending=True, stable=True)
        if top_k:
            ordered[:, top_k:] = 0
        if top_p < 1:
            ordered = ordered / ordered.sum(-1, keepdim=True)
            ordered = ordered.where(ordered.cumsum(-1) - ordered < top_p, 0)
        p = torch.zeros_like(p).scatter_(-1, order, ordered)
    cumulative = p.cumsum(-1)
    point = torch.rand(len(p), 1, generator=generator, dtype=torch.float64).to(p.device) * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, point, right=True)[:, 0]
    # A point that rounds up to the total falls on the last symbol that has any probability.
    last = p.shape[-1] - 1 - p.flip(-1).ne(0).int().argmax(-1)
    return torch.minimum(drawn, last)


class Categorical(Distribution):
    """Symbols 0 to V - 1 with integer logits.

    A symbol is coded as two digits, high and low, each with frequencies out of 2**24. Together they resolve
    probabilities far below 2**-24, so that large vocabularies lose nothing to rounding.

    Args:
        logits: [B, n, V] int32, in steps of 1 / LOGIT_STEPS nat; V from 2 to 2**20.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.shape = logits.shape[:-1]
        self.size = logits.shape[-1]
        bits = max(1, (self.size - 1).bit_length())
        self._low = 1 << min(bits // 2, 9)  # so that sums of 2**30 stay within `frequencies_from_weights`

    def rows(self, start: int, stop: int) -> Categorical:
        return Categorical(self.logits[start:stop])

    def select(self, positions: Tensor) -> Categorical:
        return Categorical(self.logits[:, positions])

    def regroup(self, batch: int) -> Categorical:
        return Categorical(self.logits.reshape(batch, -1, self.size))

    def weights(self) -> Tensor:
        """Integer weights [n, V] int64, the largest of each row 2**30."""
        logits = self.logits.reshape(-1, self.size)
        table = exponential_table().to(logits.device)
        distance = logits.amax(-1, keepdim=True).long() - logits
        return table[distance.clamp(max=len(table) - 1)]

    def _split(self) -> tuple[np.ndarray, Tensor]:
        """Frequencies of the high digits [n, high], and weights by high and low digit [n, high, low]."""
        weights = self.weights()
        high = -(-self.size // self._low)
        padded = torch.nn.functional.pad(weights, (0, high * self._low - self.size))
        digits = padded.view(len(weights), high, self._low)
        return frequencies_from_weights(digits.sum(-1)).cpu().numpy(), digits

    def write(self, symbols: Tensor, encoder: SymbolEncoder) -> None:
        flat = symbols.reshape(-1).to(self.logits.device)
        if not len(flat):
            return
        top, digits = self._split()
        high, low = flat // self._low, flat % self._low
        encoder.encode(high.int().cpu().numpy(), top)
        if self._low > 1:
            row = torch.arange(len(flat), device=flat.device)
            encoder.encode(low.int().cpu().numpy(), frequencies_from_weights(digits[row, high]).cpu().numpy())

    def read(self, decoder: SymbolDecoder) -> Tensor:
        if not self.shape.numel():
            return torch.zeros(self.shape, dtype=torch.int64, device=self.logits.device)
        top, digits = self._split()
        high = torch.from_numpy(decoder.decode(top, len(top))).long().to(digits.device)
        row = torch.arange(len(high), device=digits.device)
        symbols = high * self._low
        if self._low > 1:
            rows = frequencies_from_weights(digits[row, high]).cpu().numpy()
            symbols = symbols + torch.from_numpy(decoder.decode(rows, len(rows))).long().to(digits.device)
        if bool((symbols >= self.size).any()):
            raise CorruptError(f"a decoded token lies outside the vocabulary of {self.size}")
        return symbols.view(self.shape)

    def sample(self, generator: torch.Generator, temperature: float, top_k: int, top_p: float) -> Tensor:
        return _draw(self.weights(), generator, temperature, top_k, top_p).view(self.shape)


class TableDistribution(Distribution):
    """Integers by index into a family of stored frequency tables.

    Table i covers `len(table) - 1` consecutive integers from `first(i)`; its last entry announces an integer outside
    of them, which follows in Elias-gamma form.

    Args:
        indices: table of each symbol, int64 [B, ...].
    """

    def __init__(self, indices: Tensor) -> None:
        self.indices = indices
        self.shape = indices.shape

    @abstractmethod
    def table(self, index: int) -> tuple[int, np.ndarray]:
        """First integer and frequencies [S] int64 of a table."""

    @abstractmethod
    def _with(self, indices: Tensor) -> TableDistribution:
        """The same family of tables with other indices."""

    def rows(self, start: int, stop: int) -> TableDistribution:
        return self._with(self.indices[start:stop])

    def select(self, positions: Tensor) -> TableDistribution:
        return self._with(self.indices[:, positions])

    def regroup(self, batch: int) -> TableDistribution:
        return self._with(self.indices.reshape(batch, -1))

    def _groups(self) -> Iterable[tuple[int, np.ndarray]]:
        """Tables in use, ascending, and where in the flattened array each is used."""
        flat = self.indices.reshape(-1).cpu().numpy()
        order = np.argsort(flat, kind="stable")
        values, starts = np.unique(flat[order], return_index=True)
        return zip((int(v) for v in values), np.split(order, starts[1:]), strict=True)

    def write(self, symbols: Tensor, encoder: SymbolEncoder) -> None:
        flat = symbols.reshape(-1).cpu().numpy()
        if not flat.size:
            return
        escaped = np.zeros(len(flat), dtype=bool)
        distances = np.zeros(len(flat), dtype=np.int64)
        for index, where in self._groups():
            first, frequencies = self.table(index)
            offset = flat[where] - first
            outside = (offset < 0) | (offset >= len(frequencies) - 1)
            encoder.encode(np.where(outside, len(frequencies) - 1, offset).astype(np.int32), frequencies)
            escaped[where] = outside
            distances[where] = np.where(offset < 0, -2 * offset - 1, 2 * (offset - len(frequencies) + 1))
        for distance in distances[escaped]:
            _write_gamma(int(distance) + 1, encoder)

    def read(self, decoder: SymbolDecoder) -> Tensor:
        flat = np.empty(self.indices.numel(), dtype=np.int64)
        escaped: list[tuple[np.ndarray, int, int]] = []
        if flat.size:
            for index, where in self._groups():
                first, frequencies = self.table(index)
                offset = decoder.decode(frequencies, len(where)).astype(np.int64)
                flat[where] = first + offset
                outside = where[offset == len(frequencies) - 1]
                if outside.size:
                    escaped.append((outside, first, len(frequencies) - 1))
        bounds = {int(place): (first, size) for places, first, size in escaped for place in places}
        for place in sorted(bounds):
            first, size = bounds[place]
            distance = _read_gamma(decoder) - 1
            flat[place] = first - (distance + 1) // 2 if distance % 2 else first + size + distance // 2
        return torch.from_numpy(flat).to(self.indices.device).view(self.shape)

    def sample(self, generator: torch.Generator, temperature: float, top_k: int, top_p: float) -> Tensor:
        flat = torch.empty(self.indices.numel(), dtype=torch.int64)
        for index, where in self._groups():
            first, frequencies = self.table(index)
            inside = torch.from_numpy(frequencies[:-1]).expand(len(where), -1)
            flat[torch.from_numpy(where)] = first + _draw(inside, generator, temperature, top_k, top_p)
        return flat.to(self.indices.device).view(self.shape)


class IntegerGaussian(TableDistribution):
    """round(y - mean) for y ~ N(mean, scale): a Gaussian around zero, integrated over unit intervals.

    The mean moves the value, not the code words: it travels as the block's context, and the quantizer subtracts
    and adds it. What encoder and decoder must agree on is the scale's index alone.

    Args:
        indices: positions in `obverse.gaussian.SCALES`, int64 [B, ...], 0 to 63.
    """

    def table(self, index: int) -> tuple[int, np.ndarray]:
        return gaussian_frequencies(index)

    def _with(self, indices: Tensor) -> IntegerGaussian:
        return IntegerGaussian(indices)

    @staticmethod
    def index(scale: Tensor) -> Tensor:
        """Position of the table scale that is nearest to `scale` in its logarithm."""
        edges = torch.tensor(EDGES, dtype=torch.float64, device=scale.device) / 65536
        return torch.bucketize(scale.double().contiguous(), edges)


class FactorizedTable(TableDistribution):
    """Integers with one stored table per channel.

    Args:
        indices: channel of each symbol, int64 [B, ...].
        frequencies: [C, S] int64, rows sum to `TOTAL`; the last entry is the escape.
        first: integer that the first entry stands for.
    """

    def __init__(self, indices: Tensor, frequencies: np.ndarray, first: int) -> None:
        super().__init__(indices)
        self.frequencies, self.first = frequencies, first

    def table(self, index: int) -> tuple[int, np.ndarray]:
        return self.first, self.frequencies[index]

    def _with(self, indices: Tensor) -> FactorizedTable:
        return FactorizedTable(indices, self.frequencies, self.first)


_EVEN = np.full(32, TOTAL // 32, dtype=np.int64)
_BYTE = np.full(256, TOTAL // 256, dtype=np.int64)


def _write_gamma(value: int, encoder: SymbolEncoder) -> None:
    """A positive integer below 2**32: its length in bits, then what follows the leading one."""
    length = value.bit_length() - 1
    if length > 31:
        raise OverflowError(f"a latent of magnitude {value} is beyond what a stream can hold (2**31)")
    encoder.encode(np.array([length], np.int32), _EVEN)
    rest = value - (1 << length)
    for shift in range(0, length, 8):
        encoder.encode(np.array([rest >> shift & 255], np.int32), _BYTE)


def _read_gamma(decoder: SymbolDecoder) -> int:
    length = int(decoder.decode(_EVEN, 1)[0])
    rest = 0
    for shift in range(0, length, 8):
        rest |= int(decoder.decode(_BYTE, 1)[0]) << shift
    if rest >> length:
        raise CorruptError("an escaped value is longer than announced")
    return (1 << length) + rest
