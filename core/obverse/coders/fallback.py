"""A coder that is never larger than fixed-length codes."""

from __future__ import annotations

import numpy as np

from obverse.coders.raw import RawCoder
from obverse.interfaces import EntropyCoder, SymbolEncoder


class FallbackEncoder(SymbolEncoder):
    """Writes with an entropy coder, and beside it with fixed lengths, which is quick; the shorter stream counts.

    Args:
        coder: what writes where it is not longer; it has a number.

    Attributes:
        code: number of the coder that wrote what `finish` returned.
    """

    def __init__(self, coder: EntropyCoder) -> None:
        assert coder.code is not None
        self.code = coder.code
        self._entropy, self._raw = coder.encoder(), RawCoder().encoder()

    @property
    def bits(self) -> float:  # type: ignore[override]
        return min(self._entropy.bits, self._raw.bits)

    def encode(self, symbols: np.ndarray, frequencies: np.ndarray) -> None:
        self._entropy.encode(symbols, frequencies)
        self._raw.encode(symbols, frequencies)

    def finish(self) -> bytes:
        data = self._entropy.finish()
        if len(data) <= -(-self._raw.bits // 8):
            return data
        assert RawCoder.code is not None
        self.code = RawCoder.code
        return self._raw.finish()
