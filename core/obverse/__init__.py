"""Vision models that predict tokens, used from both sides: as image codecs and as image generators.

import obverse

codec = obverse.load("pocket-vq")
data = codec.compress(image)
picture = codec.decompress(data)
drawings = codec.generate(n=4, seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from obverse.__about__ import __version__

if TYPE_CHECKING:
    from obverse.codec import Codec, Rate, Reconstruction, decompress, load
    from obverse.errors import ObverseError
    from obverse.families import compress_within

_LAZY = {
    "Codec": "obverse.codec",
    "ObverseError": "obverse.errors",
    "Rate": "obverse.codec",
    "Reconstruction": "obverse.codec",
    "compress_within": "obverse.families",
    "decompress": "obverse.codec",
    "load": "obverse.codec",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'obverse' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = ["Codec", "ObverseError", "Rate", "Reconstruction", "__version__", "compress_within", "decompress", "load"]
