"""Decoded pictures as data of the page, within a size."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from obverse.errors import UnsupportedInputError

Encoder = Callable[[Path], str]


@dataclass(frozen=True)
class Embedded:
    """Pictures of some images.

    Attributes:
        images: as `analyses.strips` returns them, with `data` (a URL) instead of paths.
        form: how pictures are stored, in words.
        left_out: what is missing and why, one line each.
    """

    images: list[dict[str, Any]]
    form: str
    left_out: list[str]


def embed(strips: Sequence[Mapping[str, Any]], *, max_images: int, max_bytes: int) -> Embedded:
    """The first images, in the best of `FORMS` in which they all fit; in the last form, as many as fit.

    Args:
        strips: images and their pictures, from `analyses.strips`.
        max_images: how many at most.
        max_bytes: of all pictures together.

    Raises:
        UnsupportedInputError: a picture cannot be read.
    """
    whole = [strip for strip in strips if strip["reference"] is not None]
    wanted = whole[:max_images]
    images, form = _in_best_form(wanted, max_bytes)
    reasons = {
        "have no original in the folder": len(strips) - len(whole),
        "are more than were asked for": len(whole) - len(wanted),
        "would make the page too large": len(wanted) - len(images),
    }
    left_out = [f"pictures of {count} of {len(strips)} images {why}" for why, count in reasons.items() if count]
    return Embedded(images, form, left_out)


def _in_best_form(strips: Sequence[Mapping[str, Any]], max_bytes: int) -> tuple[list[dict[str, Any]], str]:
    for form, encode in FORMS.items():
        images = list(_within(strips, encode, max_bytes))
        if len(images) == len(strips):
            return images, form
    return images, form


def _within(strips: Sequence[Mapping[str, Any]], encode: Encoder, max_bytes: int) -> Iterator[dict[str, Any]]:
    for strip in strips:
        image = {key: strip[key] for key in ("filename", "width", "height")}
        image |= {"data": encode(strip["reference"]), "pictures": []}
        max_bytes -= len(image["data"])
        for picture in strip["pictures"]:
            told = {key: picture[key] for key in ("codec", "quality", "bpp", "metrics")}
            image["pictures"].append(told | {"data": encode(picture["path"])})
            max_bytes -= len(image["pictures"][-1]["data"])
            if max_bytes < 0:
                return
        yield image


def _png(path: Path) -> str:
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.verify()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # of Pillow's PNG reader
        raise _unreadable(path, error) from error
    return _url("png", data)


def _webp(**options: Any) -> Encoder:
    def encode(path: Path) -> str:
        file = io.BytesIO()
        try:
            with Image.open(path) as image:
                image.convert("RGB").save(file, "webp", **options)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from error
        return _url("webp", file.getvalue())

    return encode


def _url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _unreadable(path: Path, error: Exception) -> UnsupportedInputError:
    return UnsupportedInputError(f"cannot read the picture {str(path)!r}: {error}; run obverse eval again")


_LOSSY = "WebP of quality {}: what is shown differs slightly from what was decoded"

FORMS: Mapping[str, Encoder] = {
    "PNG, without loss": _png,
    "WebP, without loss": _webp(lossless=True, quality=20, method=1),
    **{_LOSSY.format(quality): _webp(quality=quality, method=2) for quality in (95, 85, 70, 50)},
}
"""Ways to store pictures, the largest and best first."""
