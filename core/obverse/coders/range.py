"""The range coder of constriction, fed with integers."""

from __future__ import annotations

import weakref
from functools import partial
from typing import ClassVar

import constriction
import numpy as np

from obverse.errors import CorruptError
from obverse.interfaces import EntropyCoder, SymbolDecoder, SymbolEncoder

_Model = constriction.stream.model.Categorical
_rows = _Model(perfect=False)


def _as_probabilities(frequencies: np.ndarray) -> np.ndarray:
    """Integers in, integers out.

    constriction gives each symbol one count, and shares the remaining 2**24 - S in proportion to its float32
    probabilities. Frequencies less one, which sum to just that many, make the proportion 1: all its sums are of
    integers below 2**24, which float32 holds exactly. A test compares its code words with integer arithmetic.
    """
    return (frequencies - 1).astype(np.float32)


_kept: dict[int, tuple[weakref.ref[np.ndarray], object]] = {}
"""Models by the id of their frequencies, as long as these live."""


def _model(frequencies: np.ndarray) -> object:
    """The model of a row of frequencies; those of arrays that nobody can write to are kept."""
    key = id(frequencies)
    if key in _kept:
        return _kept[key][1]
    model = _Model(_as_probabilities(frequencies), perfect=False)
    if not frequencies.flags.writeable:
        _kept[key] = weakref.ref(frequencies, partial(_kept.pop, key)), model
    return model


class RangeCoder(EntropyCoder):
    """Range coding in queue order, 24-bit frequencies, 32-bit words, and the shortest possible tail."""

    code: ClassVar[int | None] = 0

    def encoder(self) -> RangeEncoder:
        return RangeEncoder()

    def decoder(self, data: bytes) -> RangeDecoder:
        return RangeDecoder(data)


class RangeEncoder(SymbolEncoder):
    """See `RangeCoder`."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    @property
    def bits(self) -> float:  # type: ignore[override]
        return float(self._encoder.num_bits())

    def encode(self, symbols: np.ndarray, frequencies: np.ndarray) -> None:
        if frequencies.ndim == 1:
            # A plain integer takes a tenth of the time of an array.
            self._encoder.encode(int(symbols[0]) if len(symbols) == 1 else symbols, _model(frequencies))
        else:
            self._encoder.encode(symbols, _rows, _as_probabilities(frequencies))

    def finish(self) -> bytes:
        """Any number in the coder's final interval names the message; write the one with the fewest bytes.

        Missing bytes count as zero for the decoder.
        """
        if self._encoder.is_empty():
            return b""
        words: bytes = self._encoder.get_compressed().astype(">u4").tobytes()
        position, (lower, width) = self._encoder.pos()
        length: int = 4 * position + 8  # bytes that hold the whole words and the 64-bit state
        sealed = int.from_bytes(words.ljust(length, b"\0"), "big")
        low: int = sealed - ((sealed - lower) & (2**64 - 1))
        for kept in range(length - 8, length + 1):
            cut = 8 * (length - kept)
            point = -(-low >> cut) << cut  # rounded up
            if point < low + width:
                return point.to_bytes(length, "big")[:kept].rstrip(b"\0")
        raise AssertionError("an interval holds its own lower end")


class RangeDecoder(SymbolDecoder):
    """See `RangeCoder`."""

    def __init__(self, data: bytes) -> None:
        padded = data + bytes(-len(data) % 4)
        words = np.frombuffer(padded, dtype=">u4").astype(np.uint32)
        self._decoder = constriction.stream.queue.RangeDecoder(words)

    def decode(self, frequencies: np.ndarray, count: int) -> np.ndarray:
        try:
            if frequencies.ndim == 1 and count == 1:
                symbols = [self._decoder.decode(_model(frequencies))]
            elif frequencies.ndim == 1:
                symbols = self._decoder.decode(_model(frequencies), count)
            else:
                symbols = self._decoder.decode(_rows, _as_probabilities(frequencies))
        except AssertionError as error:
            raise CorruptError("the payload is not what a range encoder writes") from error
        return np.asarray(symbols, dtype=np.int32)
