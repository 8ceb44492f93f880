"""What every codec promises."""

from __future__ import annotations

from typing import Any

import numpy as np

from obverse.codec import Codec
from obverse.pixels import as_pixels

OVERHEAD = 24
"""Bytes that a stream may take beyond its ideal size and 0.1 %: header, checksums and the coder's tail."""


def check_roundtrip(codec: Codec, image: Any, *, quality: int | None = None) -> bytes:
    """Compress, decompress, estimate, reconstruct and generate, and compare what should be equal.

    Returns:
        The stream.
    """
    height, width = as_pixels(image).shape[:2]
    data = codec.compress(image, quality=quality)
    assert isinstance(data, bytes)
    assert codec.compress(image, quality=quality) == data, "the same image gave other bytes"
    decoded = codec.decompress(data)
    assert decoded.size == (width, height)
    assert decoded.mode == "RGB"
    reconstruction = codec.reconstruct(image, quality=quality)
    assert reconstruction.data == data
    assert np.array_equal(np.asarray(reconstruction.image), np.asarray(decoded))
    rate = codec.rate(image, quality=quality)
    assert len(data) <= rate.bits / 8 * 1.001 + OVERHEAD, f"{len(data)} bytes, {rate.bits / 8:.1f} are ideal"
    assert abs(sum(rate.bits_by_array.values()) - rate.bits) < 1e-6
    first, second = codec.generate(2, seed=1, size=(width, height), quality=quality)
    assert first.size == second.size == (width, height)
    again = codec.generate(2, seed=1, size=(width, height), quality=quality)[1]
    assert np.array_equal(np.asarray(second), np.asarray(again)), "the same seed gave another picture"
    return data
