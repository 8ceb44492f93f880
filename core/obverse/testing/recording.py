"""What a distribution hands to a coder, kept for comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from obverse.distributions import Distribution, check_frequencies
from obverse.interfaces import Block, SymbolEncoder


class Recorder(SymbolEncoder):
    """An encoder that checks what it is given, and keeps it.

    Attributes:
        calls: symbols and frequencies of every `encode`, one row of frequencies per symbol.
    """

    def __init__(self) -> None:
        self.bits = 0.0
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []

    def encode(self, symbols: np.ndarray, frequencies: np.ndarray) -> None:
        assert symbols.dtype == np.int32, f"symbols are {symbols.dtype}, not int32"
        assert symbols.ndim == 1, f"symbols have {symbols.ndim} axes, not one"
        assert frequencies.dtype == np.int64, f"frequencies are {frequencies.dtype}, not int64"
        assert frequencies.ndim == 1 or len(frequencies) == len(symbols), "not one row of frequencies per symbol"
        check_frequencies(frequencies)
        assert not symbols.size or (symbols.min() >= 0 and symbols.max() < frequencies.shape[-1])
        self.calls.append((symbols.copy(), frequencies.copy()))

    def finish(self) -> bytes:
        return b""


def recorded(distribution: Distribution, symbols: Tensor) -> list[tuple[list[int], list[list[int]]]]:
    """The integers that a coder sees when these symbols are written, in a form that `==` compares."""
    recorder = Recorder()
    recorder.put(symbols, distribution)
    return [(s.tolist(), np.atleast_2d(f).tolist()) for s, f in recorder.calls]


class Replay:
    """A source that gives recorded symbols again, block by block."""

    def __init__(self, symbols: Sequence[Tensor]) -> None:
        self._symbols: Iterator[Tensor] = iter(symbols)

    def __call__(self, block: Block) -> Tensor:
        symbols = next(self._symbols)
        assert symbols.shape == block.distribution.shape, "the blocks are not those that were recorded"
        return symbols
