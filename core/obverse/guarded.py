"""Distributions for numerics mode guarded64: float64 values that encoder and decoder round to the same integers.

Two machines compute a value in float64 with a tiny difference, which matters only where a border between two integers
lies in between. The encoder looks for such values and moves the grid by one of `OFFSETS` offsets, until none of a group
of symbols is nearer to a border than the guard; it writes the offset before the symbols. The rest is coded as usual,
from the rounded integers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from obverse.distributions import (
    LOGIT_STEPS,
    TOTAL,
    Categorical,
    Distribution,
    IntegerGaussian,
    IntegerLogistic,
    ScaleTable,
    to_grid,
)
from obverse.errors import UnsupportedInputError

if TYPE_CHECKING:
    from obverse.interfaces import SymbolDecoder, SymbolEncoder

GUARD = 2.0**-26
"""Largest difference between encoder and decoder that does no harm: in nats for logits, relative for scales."""

OFFSETS = 16
GROUP = 2**20
"""Values that share an offset, in whole symbols."""

_RARE = 2**12
OFFSET_FREQUENCIES = np.array([TOTAL - (OFFSETS - 1) * _RARE] + [_RARE] * (OFFSETS - 1), dtype=np.int64)
"""The first offset, which is right nearly always, costs 0.005 bits; any other 12."""


class Guarded(Distribution):
    """Distributions given by floating-point values.

    Args:
        values: [B, ...] float64, with `axes` more axes for the values of one symbol.
    """

    axes: ClassVar[int]
    coding: ClassVar[type[Categorical] | type[ScaleTable]]
    """What codes the rounded integers."""

    def __init__(self, values: Tensor) -> None:
        if values.dtype != torch.float64:
            raise TypeError(f"guarded distributions need float64 values, got {values.dtype}; compute in float64")
        self.values = values
        self.shape = values.shape[: values.ndim - self.axes]

    @abstractmethod
    def band(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Ends of the range, a guard to each side, in which a decoder's values may lie."""

    @abstractmethod
    def rounded(self, values: Tensor, offset: int) -> Tensor:
        """The integers of values on the grid moved by an offset; never falls where a value rises."""

    def rows(self, start: int, stop: int) -> Guarded:
        return type(self)(self.values[start:stop])

    def select(self, positions: Tensor) -> Guarded:
        return type(self)(self.values[:, positions])

    def regroup(self, batch: int) -> Guarded:
        return type(self)(self.values.reshape(batch, -1, *self.values.shape[len(self.shape) :]))

    def write(self, symbols: Tensor, encoder: SymbolEncoder) -> None:
        flat = symbols.reshape(-1)
        start = 0
        for values in self._groups():
            offset, integers = self._settle(values)
            encoder.encode(np.array([offset], np.int32), OFFSET_FREQUENCIES)
            self.coding(integers).write(flat[start : start + len(values)], encoder)
            start += len(values)

    def read(self, decoder: SymbolDecoder) -> Tensor:
        parts = [torch.zeros(0, dtype=torch.int64, device=self.values.device)]
        for values in self._groups():
            offset = int(decoder.decode(OFFSET_FREQUENCIES, 1)[0])
            parts.append(self.coding(self.rounded(values, offset)).read(decoder))
        return torch.cat(parts).view(self.shape)

    def sample(self, generator: torch.Generator, temperature: float, top_k: int, top_p: float) -> Tensor:
        return self.coding(self.rounded(self.values, 0)).sample(generator, temperature, top_k, top_p)

    def _groups(self) -> Iterator[Tensor]:
        """Values [n, ...] of the symbols of each group, in the order of the flattened array."""
        count = self.shape.numel()
        if count:
            symbol = self.values.shape[len(self.shape) :]
            flat = self.values.reshape(count, *symbol)
            yield from flat.split(max(1, GROUP // symbol.numel()))  # type: ignore[no-untyped-call]

    def _settle(self, values: Tensor) -> tuple[int, Tensor]:
        """The first offset that keeps all borders out of the band of every value, and the integers that follow."""
        low, high = self.band(values)
        for offset in range(OFFSETS):
            integers = self.rounded(low, offset)
            if torch.equal(integers, self.rounded(high, offset)):
                return offset, integers
        raise UnsupportedInputError(
            f"numerics mode guarded64 cannot code this picture: on each of {OFFSETS} grids some value lies too near to "
            "a border; use --numerics exact, or another prior"
        )


class GuardedCategorical(Guarded):
    """Tokens with logits [B, n, V] float64, in nats; coded as `Categorical`."""

    axes = 1
    coding = Categorical

    @property
    def size(self) -> int:
        """Number of tokens V."""
        return self.values.shape[-1]

    def band(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values - GUARD, values + GUARD

    def rounded(self, values: Tensor, offset: int) -> Tensor:
        return to_grid(values + offset / (OFFSETS * LOGIT_STEPS))


class GuardedScale(Guarded):
    """round(y - mean) for y of scales [B, ...] float64, positive."""

    axes = 0
    coding: ClassVar[type[ScaleTable]]

    def band(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values * (1 - GUARD), values * (1 + GUARD)

    def rounded(self, values: Tensor, offset: int) -> Tensor:
        return self.coding.index(values * (1 + offset / 1024))


class GuardedGaussian(GuardedScale):
    """Coded as `IntegerGaussian`."""

    coding = IntegerGaussian


class GuardedLogistic(GuardedScale):
    """Coded as `IntegerLogistic`."""

    coding = IntegerLogistic
