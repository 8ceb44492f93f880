"""JPEG XL by libjxl, through the optional package imagecodecs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from obverse_anchors.anchor import Anchor
from obverse_anchors.options import check_level


class JpegXl(Anchor):
    """JPEG XL (ISO/IEC 18181-1), lossy, bare codestream.

    Args:
        qualities: Butteraugli distances, the largest first: 1 is about visually lossless, 25 the largest.
            Between 15 and 21 files of libjxl 0.11 do not get smaller with the distance.
        effort: 1, fast, to 9, small files.
    """

    name = "jpegxl"
    licence = "BSD-3-Clause"
    lowest, highest = 0.01, 25
    whole = False
    defaults = (25, 15, 12, 10, 8, 6, 4.5, 3, 2, 1)

    def __init__(self, *, qualities: Sequence[float] | None = None, effort: int = 7) -> None:
        super().__init__(qualities=qualities)
        self.effort = check_level(self.name, "effort", effort, 1, 9)

    def missing(self) -> str | None:
        """Whether the package is not installed."""
        if importlib.util.find_spec("imagecodecs") is None:
            return f"{self.name} needs the package imagecodecs: pip install imagecodecs"
        return None

    def settings(self) -> Mapping[str, Any]:
        """See the base class."""
        import imagecodecs

        return {
            "implementation": f"{imagecodecs.jpegxl_version()}, imagecodecs {imagecodecs.__version__}",
            "command": f"imagecodecs.jpegxl_encode(distance=quality, effort={self.effort}, usecontainer=False)",
            "chroma_format": "4:4:4",
            "bit_depth": 8,
            "colour_conversion": "XYB, in the library",
        }

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        """See the base class."""
        import imagecodecs

        return bytes(
            imagecodecs.jpegxl_encode(
                pixels, distance=float(quality), effort=self.effort, lossless=False, usecontainer=False, numthreads=1
            )
        )

    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        """See the base class."""
        import imagecodecs

        return np.asarray(imagecodecs.jpegxl_decode(data, numthreads=1))
