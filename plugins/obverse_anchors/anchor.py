"""What classical codecs share: bytes of pixels, pixels of bytes, and nothing else between the two."""

from __future__ import annotations

import hashlib
import json
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from obverse.errors import ConfigError
from obverse.evaluation.command import check_size
from obverse.evaluation.interfaces import Subject, Trip


class Anchor(Subject):
    """A codec with one number for its quality.

    Attributes:
        lowest, highest: that the number takes, both included.
        whole: only whole numbers.
        defaults: qualities where none are given, worst first.
        licence: SPDX identifier of the implementation.

    Args:
        qualities: worst first.

    Raises:
        ConfigError: a quality outside the codec's range.
    """

    lowest: ClassVar[float]
    highest: ClassVar[float]
    whole: ClassVar[bool] = True
    defaults: ClassVar[tuple[float, ...]]
    licence: ClassVar[str]

    def __init__(self, *, qualities: Sequence[float] | None = None) -> None:
        self.qualities = tuple(self.check_quality(q) for q in (self.defaults if qualities is None else qualities))
        if not self.qualities:
            raise ConfigError(f"{self.name}: at least one quality is needed")

    @abstractmethod
    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        """The whole file or stream of [H, W, 3] uint8."""

    @abstractmethod
    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        """[H, W, 3] uint8. Height and width are for raw streams, which pad to what their codec takes."""

    @property
    def fingerprint(self) -> str:
        """Of versions and options."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:16]

    def trip(self, pixels: np.ndarray, quality: Any) -> Trip:
        """Encode and decode; times are wall clock, conversions of colours and starts of programs included."""
        value = self.check_quality(quality)
        begin = time.perf_counter()
        data = self.encode(pixels, value)
        middle = time.perf_counter()
        decoded = self.decode(data, *pixels.shape[:2])
        end = time.perf_counter()
        check_size(self.name, pixels, decoded)
        return Trip(
            pixels=decoded, file_bytes=len(data), encoding_seconds=middle - begin, decoding_seconds=end - middle
        )

    def parse_quality(self, text: str) -> float:
        """The quality that a word names: any number in the codec's range."""
        try:
            return self.check_quality(float(text))
        except ValueError:  # ConfigError is one: both become the error that tells the range
            return self.check_quality(text)

    def check_quality(self, quality: Any) -> float:
        """A quality, as an int where it is whole.

        Raises:
            ConfigError: it is outside the codec's range.
        """
        number = not isinstance(quality, bool) and isinstance(quality, int | float)
        if not number or not self.lowest <= quality <= self.highest or (self.whole and quality != int(quality)):
            kind = "a whole number" if self.whole else "a number"
            raise ConfigError(
                f"{self.name}: quality takes {kind} from {self.lowest:g} to {self.highest:g}, not {quality!r}"
            )
        return int(quality) if quality == int(quality) else quality

    def describe(self) -> Mapping[str, Any]:
        """Implementation, versions, call, chroma format, bit depth, colour conversion and licence."""
        return {
            "kind": "classical",
            **self.settings(),
            "times": "colour conversion, files and starts of programs included",
            "licence": self.licence,
        }

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """`implementation` with versions, `command`, `chroma_format`, `bit_depth` and `colour_conversion`."""
