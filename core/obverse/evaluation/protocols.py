"""Which part of each image is coded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from obverse.config import nearest
from obverse.errors import ConfigError, UnsupportedInputError

if TYPE_CHECKING:
    import numpy as np

_NAMED = {"vfm-codec": 512, "full": None}
"""Side of the central square by name; None for the whole image."""

_CENTRE = re.compile(r"(?:centre-|crop=)([1-9]\d{0,5})")


@dataclass(frozen=True)
class Protocol:
    """What is made of an image before it is coded. RGB, 8 bits; nothing is resized.

    Attributes:
        name: as in results.
        side: of the central square in pixels; None for the whole image.
    """

    name: str
    side: int | None

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """The part of an image [H, W, 3] uint8 that is coded, contiguous.

        Raises:
            UnsupportedInputError: the image is smaller than the square.
        """
        import numpy as np

        if self.side is None:
            return pixels
        height, width = pixels.shape[:2]
        if min(height, width) < self.side:
            raise UnsupportedInputError(
                f"{width}x{height} pixels are less than the {self.side}x{self.side} of protocol {self.name!r}"
            )
        top, left = (height - self.side) // 2, (width - self.side) // 2
        return np.ascontiguousarray(pixels[top : top + self.side, left : left + self.side])

    def describe(self) -> dict[str, Any]:
        """For the result file."""
        crop = "none" if self.side is None else f"centre {self.side}x{self.side}"
        return {"name": self.name, "crop": crop, "side": self.side, "colour": "8-bit sRGB"}


def protocol(name: str) -> Protocol:
    """A protocol by name: `vfm-codec` (central 512x512), `full`, or `centre-N` (also `crop=N`) for another square.

    Raises:
        ConfigError: there is none of this name.
    """
    if name in _NAMED:
        return Protocol(name, _NAMED[name])
    if match := _CENTRE.fullmatch(name):
        return Protocol(f"centre-{match[1]}", int(match[1]))
    known = (*_NAMED, "centre-N", "crop=N")
    raise ConfigError(f"no protocol {name!r}; {nearest(name, known)}(protocols: {', '.join(known)})")
