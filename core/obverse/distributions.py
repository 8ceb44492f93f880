"""Distributions of symbols, handed to the coder as integer frequencies.

Nothing that decides a code word is floating point: a categorical starts from integer logits on a grid, a Gaussian
from an index into a table of scales, a factorized density from stored tables. How a prior's numbers become these
integers is the matter of `obverse.numerics`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from obverse.errors import CorruptError
from obverse.gaussian import EDGES, gaussian_frequencies
from obverse.logistic import logistic_frequencies

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


ESCAPE_BITS = 16
"""A table's escape has at least the share 2**-16, so that a value that the model did not expect costs little."""


def table_frequencies(weights: Tensor) -> np.ndarray:
    """Frequencies [S] int64, which nobody can write to, of a table's weights [S] int64, the escape last."""
    weights = weights.clone()
    weights[-1] = weights[-1].clamp(min=int(weights.sum()) >> ESCAPE_BITS)
    frequencies = frequencies_from_weights(weights).numpy()
    frequencies.flags.writeable = False
    return frequencies


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

    def _in_order(self) -> tuple[np.ndarray, list[tuple[slice, int, np.ndarray]]]:
        """The order of coding: by table, and that of the flattened array where tables are the same.

        Returns:
            Positions in the flattened array [n], and for every table in use, ascending, which part of them it has, and
            what `table` says.
        """
        indices = self.indices.reshape(-1).to(torch.int16).cpu().numpy()  # which numpy sorts by radix
        order = np.argsort(indices, kind="stable")
        numbers = np.arange(indices.max(initial=-1) + 2, dtype=np.int16)
        starts = np.searchsorted(indices[order], numbers).tolist()
        bounds = enumerate(pairwise(starts))
        return order, [(slice(start, stop), *self.table(index)) for index, (start, stop) in bounds if start < stop]

    def write(self, symbols: Tensor, encoder: SymbolEncoder) -> None:
        order, parts = self._in_order()
        ordered = symbols.reshape(-1).cpu().numpy()[order]
        escaped: list[tuple[np.ndarray, np.ndarray]] = []
        for part, first, frequencies in parts:
            last = len(frequencies) - 1
            offsets = ordered[part] - first
            # Without their sign negative offsets are the largest of all.
            digits = np.minimum(offsets.view(np.uint64), np.uint64(last)).astype(np.int32)
            encoder.encode(digits, frequencies)
            outside = digits == last
            if np.count_nonzero(outside):
                far = offsets[outside]
                escaped.append((order[part][outside], np.where(far < 0, -2 * far - 1, 2 * (far - last))))
        if escaped:
            places, distances = (np.concatenate(arrays) for arrays in zip(*escaped, strict=True))
            _write_gammas(distances[np.argsort(places)] + 1, encoder)

    def read(self, decoder: SymbolDecoder) -> Tensor:
        order, parts = self._in_order()
        flat, ordered = np.empty((2, len(order)), dtype=np.int64)
        escaped: list[tuple[int, int, int]] = []
        for part, first, frequencies in parts:
            last = len(frequencies) - 1
            digits = decoder.decode(frequencies, part.stop - part.start)
            np.add(digits, first, out=ordered[part], dtype=np.int64)
            outside = digits == last
            if np.count_nonzero(outside):
                escaped += [(place, first, last) for place in order[part][outside].tolist()]
        flat[order] = ordered
        for place, first, last in sorted(escaped):
            distance = _read_gamma(decoder) - 1
            flat[place] = first - (distance + 1) // 2 if distance % 2 else first + last + distance // 2
        return torch.from_numpy(flat).to(self.indices.device).view(self.shape)

    def sample(self, generator: torch.Generator, temperature: float, top_k: int, top_p: float) -> Tensor:
        flat = torch.empty(self.indices.numel(), dtype=torch.int64)
        order, parts = self._in_order()
        for part, first, frequencies in parts:
            where = torch.from_numpy(order[part])
            inside = torch.tensor(frequencies[:-1]).expand(len(where), -1)
            flat[where] = first + _draw(inside, generator, temperature, top_k, top_p)
        return flat.to(self.indices.device).view(self.shape)


class ScaleTable(TableDistribution):
    """round(y - mean) for a y of one shape and many scales: the density around zero, integrated over unit intervals.

    The mean moves the value, not the code words: it travels as the block's context, and the quantizer subtracts
    and adds it. What encoder and decoder must agree on is the scale's index alone.

    Args:
        indices: positions in `obverse.gaussian.SCALES`, int64 [B, ...], 0 to 63.
    """

    def _with(self, indices: Tensor) -> ScaleTable:
        return type(self)(indices)

    @staticmethod
    def index(scale: Tensor) -> Tensor:
        """Position of the table scale that is nearest to `scale` in its logarithm: how many `EDGES` lie below it."""
        start, below, edges = _cells()
        below, edges = below.to(scale.device), edges.to(scale.device)
        scale = scale.double().clamp(min=0)
        cell = ((scale.view(torch.int64) >> _CELL_SHIFT) & _CELL_MASK).sub_(start).clamp_(0, len(below) - 1)
        index = below.index_select(0, cell.reshape(-1)).view(scale.shape)
        return index.add_(scale > edges.index_select(0, index.view(-1)).view(scale.shape))


_CELL_SHIFT, _CELL_MASK = 48, 0x7FFF
"""From the bits of a float64 to its cell: its exponent and the first four bits of its mantissa, without the sign."""


@lru_cache(maxsize=1)
def _cells() -> tuple[int, Tensor, Tensor]:
    """The first cell that matters, how many edges lie below each cell from there, and the edges, with infinity.

    Cells are at most 6.25 % wide and edges 13 % apart: a cell has one edge at most, so that one comparison is enough.
    """
    edges = torch.tensor([*EDGES, math.inf], dtype=torch.float64) / 65536
    bits = edges[[0, -2]].view(torch.int64) >> _CELL_SHIFT
    start, stop = int(bits[0]), int(bits[1]) + 2
    lowest = (torch.arange(start, stop) << _CELL_SHIFT).view(torch.float64)
    return start, torch.bucketize(lowest, edges), edges


class IntegerGaussian(ScaleTable):
    """y ~ N(mean, scale)."""

    def table(self, index: int) -> tuple[int, np.ndarray]:
        return gaussian_frequencies(index)


class IntegerLogistic(ScaleTable):
    """y with the distribution function sigmoid((y - mean) / scale)."""

    def table(self, index: int) -> tuple[int, np.ndarray]:
        return logistic_frequencies(index)


class FactorizedTable(TableDistribution):
    """Integers with one stored table per channel.

    Args:
        indices: channel of each symbol, int64 [B, ...].
        tables: for every channel the integer that its first entry stands for, and frequencies [S] int64 that sum to
            `TOTAL`; the last entry is the escape. S may differ.
    """

    def __init__(self, indices: Tensor, tables: Sequence[tuple[int, np.ndarray]]) -> None:
        super().__init__(indices)
        self.tables = tables

    def table(self, index: int) -> tuple[int, np.ndarray]:
        return self.tables[index]

    def _with(self, indices: Tensor) -> FactorizedTable:
        return FactorizedTable(indices, self.tables)

    @staticmethod
    def grid(tables: Sequence[tuple[int, np.ndarray]], batch: int, height: int, width: int) -> FactorizedTable:
        """Of arrays [B, C, h, w], one table per channel."""
        channel = torch.arange(len(tables))[:, None, None]
        return FactorizedTable(channel.expand(batch, len(tables), height, width), tables)


@lru_cache(maxsize=8)
def _even(bits: int) -> np.ndarray:
    """Frequencies of 2**bits equal symbols."""
    frequencies = np.full(1 << bits, TOTAL >> bits, dtype=np.int64)
    frequencies.flags.writeable = False
    return frequencies


_LENGTH_BITS = 5


def _write_gammas(values: np.ndarray, encoder: SymbolEncoder) -> None:
    """Positive integers [n] below 2**32: the length of each in bits, then what follows the leading one."""
    lengths = np.frexp(values.astype(np.float64))[1] - 1
    if lengths.max() >> _LENGTH_BITS:
        raise OverflowError(f"a latent of magnitude {values.max()} is beyond what a stream can hold (2**31)")
    rests = values - (1 << lengths.astype(np.int64))
    digits = np.stack([lengths, *(rests >> shift & 255 for shift in range(0, 32, 8))], axis=1).astype(np.int32)
    for row, length in zip(digits, lengths.tolist(), strict=True):
        encoder.encode(row[:1], _even(_LENGTH_BITS))
        whole, bits = divmod(length, 8)
        if whole:
            encoder.encode(row[1 : whole + 1], _even(8))
        if bits:
            encoder.encode(row[whole + 1 : whole + 2], _even(bits))


def _read_gamma(decoder: SymbolDecoder) -> int:
    length = int(decoder.decode(_even(_LENGTH_BITS), 1)[0])
    whole, bits = divmod(length, 8)
    digits: list[int] = []
    if whole:
        digits += decoder.decode(_even(8), whole).tolist()
    if bits:
        digits += decoder.decode(_even(bits), 1).tolist()
    return (1 << length) + int.from_bytes(digits, "little")
