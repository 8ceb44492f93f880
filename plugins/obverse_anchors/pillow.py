"""JPEG, JPEG 2000, WebP and AVIF, by the libraries that Pillow brings."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import PIL
from PIL import Image, features

from obverse_anchors.anchor import Anchor
from obverse_anchors.options import CHROMA_FORMATS, check_choice, check_level


class PillowAnchor(Anchor):
    """A file format of Pillow.

    Attributes:
        format: its name there.
        feature, library: what Pillow must be built with; what that is.
    """

    format: ClassVar[str]
    feature: ClassVar[str]
    library: ClassVar[str]

    @abstractmethod
    def options(self, quality: float) -> dict[str, Any]:
        """Keyword arguments of `Image.save`."""

    @abstractmethod
    def colours(self) -> dict[str, Any]:
        """Chroma format and conversion, as the library does it."""

    def save(self, pixels: np.ndarray, options: Mapping[str, Any]) -> bytes:
        """What Pillow writes with these options."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format=self.format, **options)
        return file.getvalue()

    def missing(self) -> str | None:
        """Whether Pillow was built without the library."""
        if features.check(self.feature):
            return None
        return f"{self.name}: this Pillow was built without {self.library}; install Pillow's wheel from PyPI"

    def settings(self) -> Mapping[str, Any]:
        """See the base class."""
        return {
            "implementation": f"{self.library} {features.version(self.feature)}, Pillow {PIL.__version__}",
            "command": f"PIL.Image.save(format={self.format!r}, {_keywords(self.options(self.qualities[0]))})",
            "bit_depth": 8,
            **self.colours(),
        }

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        """See the base class."""
        return self.save(pixels, self.options(quality))

    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        """See the base class."""
        with Image.open(io.BytesIO(data), formats=[self.format]) as image:
            return np.array(image.convert("RGB"))


class Jpeg(PillowAnchor):
    """JPEG (ITU-T T.81): progressive, with Huffman tables made for the image.

    Args:
        qualities: 1 to 95.
        chroma_format: 4:2:0 or 4:4:4.
    """

    name = "jpeg"
    format, feature, library = "JPEG", "jpg", "libjpeg-turbo"
    licence = "IJG AND BSD-3-Clause AND Zlib"
    lowest, highest = 1, 95
    defaults = (1, 3, 5, 8, 12, 18, 26, 38, 55, 75, 85, 95)

    def __init__(self, *, qualities: Sequence[float] | None = None, chroma_format: str = "4:2:0") -> None:
        super().__init__(qualities=qualities)
        self.chroma_format = check_choice(self.name, "chroma_format", chroma_format, CHROMA_FORMATS)

    def options(self, quality: float) -> dict[str, Any]:
        """See the base class."""
        return {"quality": quality, "subsampling": self.chroma_format, "optimize": True, "progressive": True}

    def colours(self) -> dict[str, Any]:
        """See the base class."""
        return {"chroma_format": self.chroma_format, "colour_conversion": "BT.601 full range, in the library"}

    def settings(self) -> Mapping[str, Any]:
        """See the base class."""
        turbo = features.version_feature("libjpeg_turbo")
        return {**super().settings(), "implementation": f"libjpeg-turbo {turbo}, Pillow {PIL.__version__}"}


class Jpeg2000(PillowAnchor):
    """JPEG 2000 (ITU-T T.800): 9/7 wavelet, six resolutions, one layer, raw codestream.

    Args:
        qualities: compression ratios to uncompressed 24-bit RGB, the highest first: 24 is 1 bpp.
    """

    name = "jpeg2000"
    format, feature, library = "JPEG2000", "jpg_2000", "OpenJPEG"
    licence = "BSD-2-Clause"
    lowest, highest = 1, 100_000
    whole = False
    defaults = (2400, 1600, 1200, 800, 600, 480, 360, 240, 160, 120, 80, 48, 24, 12)

    def options(self, quality: float) -> dict[str, Any]:
        """See the base class."""
        return {
            "no_jp2": True, "irreversible": True, "mct": 1, "num_resolutions": 6, "quality_mode": "rates",
            "quality_layers": [quality],
        }  # fmt: skip

    def colours(self) -> dict[str, Any]:
        """See the base class."""
        return {"chroma_format": "4:4:4", "colour_conversion": "irreversible transform of the standard (BT.601)"}

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        """See the base class. Small images have fewer resolutions: a side is halved until one pixel is left."""
        options = self.options(quality)
        options["num_resolutions"] = min(options["num_resolutions"], min(pixels.shape[:2]).bit_length())
        return self.save(pixels, options)


class WebP(PillowAnchor):
    """Lossy WebP.

    Args:
        qualities: 0 to 100.
        method: 0, fast, to 6, small files.
    """

    name = "webp"
    format, feature, library = "WEBP", "webp", "libwebp"
    licence = "BSD-3-Clause"
    lowest, highest = 0, 100
    defaults = (0, 1, 3, 6, 10, 18, 30, 45, 60, 75, 88, 95)

    def __init__(self, *, qualities: Sequence[float] | None = None, method: int = 6) -> None:
        super().__init__(qualities=qualities)
        self.method = check_level(self.name, "method", method, 0, 6)

    def options(self, quality: float) -> dict[str, Any]:
        """See the base class."""
        return {"quality": quality, "method": self.method}

    def colours(self) -> dict[str, Any]:
        """See the base class."""
        return {"chroma_format": "4:2:0", "colour_conversion": "BT.601 limited range, in the library"}


class Avif(PillowAnchor):
    """AVIF: AV1 intra frames in HEIF. About 275 bytes of every file are container.

    Args:
        qualities: 0 to 100.
        speed: 0, small files, to 10, fast.
        chroma_format: 4:2:0 or 4:4:4.
    """

    name = "avif"
    format, feature, library = "AVIF", "avif", "libavif"
    licence = "BSD-2-Clause"
    lowest, highest = 0, 100
    defaults = (0, 3, 6, 10, 16, 24, 34, 45, 58, 72, 90)

    def __init__(
        self, *, qualities: Sequence[float] | None = None, speed: int = 2, chroma_format: str = "4:2:0"
    ) -> None:
        super().__init__(qualities=qualities)
        self.speed = check_level(self.name, "speed", speed, 0, 10)
        self.chroma_format = check_choice(self.name, "chroma_format", chroma_format, CHROMA_FORMATS)

    def options(self, quality: float) -> dict[str, Any]:
        """See the base class."""
        return {"quality": quality, "speed": self.speed, "subsampling": self.chroma_format, "max_threads": 1}

    def colours(self) -> dict[str, Any]:
        """See the base class."""
        return {"chroma_format": self.chroma_format, "colour_conversion": "BT.601 full range, in the library"}


def _keywords(options: Mapping[str, Any]) -> str:
    """Of a call, with the quality left open."""
    return ", ".join(
        f"{key}={'[quality]' if key == 'quality_layers' else 'quality' if key == 'quality' else repr(value)}"
        for key, value in options.items()
    )
