"""Fixed-length codes, to measure a tokenizer alone."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from obverse.errors import CorruptError
from obverse.interfaces import EntropyCoder, SymbolDecoder, SymbolEncoder


def _width(frequencies: np.ndarray) -> int:
    """Bits of a symbol in an alphabet as large as a row of frequencies."""
    return int(frequencies.shape[-1] - 1).bit_length()


class RawCoder(EntropyCoder):
    """ceil(log2 S) bits for every symbol, whatever its probability."""

    code: ClassVar[int | None] = 1

    def encoder(self) -> RawEncoder:
        return RawEncoder()

    def decoder(self, data: bytes) -> RawDecoder:
        return RawDecoder(data)


class RawEncoder(SymbolEncoder):
    """See `RawCoder`."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    @property
    def bits(self) -> float:  # type: ignore[override]
        return float(sum(len(part) for part in self._parts))

    def encode(self, symbols: np.ndarray, frequencies: np.ndarray) -> None:
        shifts = np.arange(_width(frequencies))[::-1]
        self._parts.append((symbols[:, None].astype(np.int64) >> shifts & 1).astype(np.uint8).ravel())

    def finish(self) -> bytes:
        return np.packbits(np.concatenate(self._parts)).tobytes() if self._parts else b""


class RawDecoder(SymbolDecoder):
    """See `RawCoder`."""

    def __init__(self, data: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
        self._place = 0

    def decode(self, frequencies: np.ndarray, count: int) -> np.ndarray:
        width = _width(frequencies)
        taken = self._bits[self._place : self._place + width * count]
        if len(taken) < width * count:
            raise CorruptError("the payload holds fewer symbols than the image needs")
        self._place += len(taken)
        powers = 1 << np.arange(width)[::-1]
        symbols = taken.reshape(count, width).astype(np.int64) @ powers
        if symbols.size and symbols.max() >= frequencies.shape[-1]:
            raise CorruptError("a symbol lies outside its alphabet")
        return symbols.astype(np.int32)
