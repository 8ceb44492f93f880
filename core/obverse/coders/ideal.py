"""The ideal coder: counts bits and writes none."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from obverse.distributions import TOTAL_BITS
from obverse.errors import ConfigError
from obverse.interfaces import EntropyCoder, SymbolDecoder, SymbolEncoder


class IdealCoder(EntropyCoder):
    """Sums -log2 of the probability of each symbol."""

    real: ClassVar[bool] = False

    def encoder(self) -> IdealEncoder:
        return IdealEncoder()

    def decoder(self, data: bytes) -> SymbolDecoder:
        raise ConfigError("coder 'ideal' only measures: it writes no bytes and reads none; use 'range'")


class IdealEncoder(SymbolEncoder):
    """See `IdealCoder`."""

    def __init__(self) -> None:
        self.bits = 0.0

    def encode(self, symbols: np.ndarray, frequencies: np.ndarray) -> None:
        rows = frequencies if frequencies.ndim == 2 else frequencies[None]
        chosen = rows[np.arange(len(symbols)) if frequencies.ndim == 2 else 0, symbols]
        self.bits += float(TOTAL_BITS * len(symbols) - np.log2(chosen).sum())

    def finish(self) -> bytes:
        return b""
