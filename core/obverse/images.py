"""Image files in and out: whatever users have becomes [H, W, 3] uint8 sRGB, with a note of what was lost."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from obverse.errors import UnsupportedInputError
from obverse.files import output_error, write_beside
from obverse.pixels import EXIF_PREFIX, LoadedImage, as_pixels, from_pillow, psnr, refusing

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "WRITTEN_SUFFIXES",
    "LoadedImage",
    "as_pixels",
    "psnr",
    "read_image",
    "write_image",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".avif", ".gif"})
"""Suffixes of files that are taken for images in folders, in lower case."""

MAX_PIXELS = 2**28
"""Larger images are refused before they are decoded."""

# Others would run programs (EPS) or decode a part of a truncated file.
_READ = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "PPM", "TIFF")
# Format and options by suffix; lossless wherever the format can be.
_WRITE: dict[str, tuple[str, dict[str, object]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".avif": ("AVIF", {"quality": 95, "subsampling": "4:4:4"}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
}
WRITTEN_SUFFIXES = tuple(_WRITE)
"""Suffixes that `write_image` knows."""
_WITHOUT_METADATA = ("BMP", "PPM")
_LOCK = threading.Lock()


def read_image(source: str | Path | BinaryIO | bytes, *, convert_colours: bool = True) -> LoadedImage:
    """Read an image file of any common kind.

    The EXIF orientation is applied, colours become sRGB, deeper samples become 8 bits (rounded where Pillow
    hands them over), alpha is composited on white, and the first frame stands for an animation. The notes say
    which of that happened. Files are decoded one at a time: Pillow's limits belong to the whole process.

    Args:
        source: path, binary stream (read to its end) or the file's bytes.
        convert_colours: convert from the file's colour profile to sRGB. Otherwise an RGB profile other than
            sRGB is returned with unchanged pixels; other kinds (grey, CMYK, Lab) are always converted.

    Raises:
        UnsupportedInputError: missing, empty, damaged, truncated, not an image, or above `MAX_PIXELS`.
    """
    with refusing(_name(source)), _opened(source) as file, _careful_pillow() as caught:
        if not file.read(1):
            raise UnsupportedInputError("the file is empty")
        image = _identify(file)
        if image.format == "PNG":
            image.verify()  # checksums and the end, of which decoding sees little
            image = _identify(file)
        frames = getattr(image, "n_frames", 1)
        loaded = from_pillow(image, convert_colours=convert_colours)
        notes = [f"only the first of {frames} frames is used"] if frames > 1 else []
        notes += loaded.notes
        notes += dict.fromkeys(_first_line(w) for w in caught if issubclass(w.category, UserWarning))
        return replace(loaded, notes=tuple(notes))


def write_image(
    target: str | Path | BinaryIO,
    pixels: np.ndarray,
    *,
    icc: bytes | None = None,
    exif: bytes | None = None,
    format: str | None = None,
    force: bool = False,
) -> None:
    """Write an image file, whole or not at all.

    PNG, WebP, TIFF, BMP and PPM are lossless here; JPEG and AVIF are written at high quality. BMP and PPM
    carry no metadata: pixels in another colour profile are converted to sRGB for them, and EXIF is left out.

    Args:
        target: path, whose suffix names the format (PNG without one), or binary stream (PNG).
        pixels: [H, W, 3] uint8.
        icc: colour profile of the pixels; None for sRGB.
        exif: EXIF data, as in `LoadedImage`.
        format: a suffix, with or without its dot, in place of the path's.
        force: replace an existing file.

    Raises:
        UnsupportedInputError: wrong pixels, an unknown suffix, or a format that cannot hold the image.
        OutputExistsError: the file exists and `force` is not given.
        OutputError: the file cannot be written.
    """
    name = _name(target)
    if format is None:
        format = Path(target).suffix if isinstance(target, str | Path) else "png"
    data = _encode(name, pixels, format, icc, exif)
    if isinstance(target, str | Path):
        write_beside(target, data, force)
        return
    try:
        target.write(data)
    except BrokenPipeError:  # the reader has had enough, which is no error of ours
        raise
    except OSError as error:
        raise output_error(str(getattr(target, "name", "stream")), error) from error


def _name(source: object) -> str:
    if isinstance(source, str | Path):
        return repr(str(source))
    name = getattr(source, "name", None)
    return repr(name) if isinstance(name, str) else "the image"


@contextmanager
def _opened(source: str | Path | BinaryIO | bytes) -> Iterator[BinaryIO]:
    """A seekable file."""
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            yield file if file.seekable() else BytesIO(file.read())
    else:
        yield BytesIO(source if isinstance(source, bytes) else source.read())


@contextmanager
def _careful_pillow() -> Iterator[list[warnings.WarningMessage]]:
    """Pillow with our limit in place of its own, refusing truncated files, its warnings collected."""
    with _LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        saved = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
        try:
            yield caught
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = saved


def _identify(file: BinaryIO) -> ImageFile.ImageFile:
    image = Image.open(file, formats=_READ)
    if image.width * image.height > MAX_PIXELS:
        raise UnsupportedInputError(
            f"{image.width}x{image.height} pixels are above the limit of {MAX_PIXELS}; crop or shrink it"
        )
    return image


def _first_line(warning: warnings.WarningMessage) -> str:
    return f"Pillow: {(str(warning.message).strip().splitlines() or ['(no message)'])[0]}"


def _encode(name: str, pixels: np.ndarray, suffix: str, icc: bytes | None, exif: bytes | None) -> bytes:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise UnsupportedInputError(f"pixels are [H, W, 3] uint8, got {list(pixels.shape)} {pixels.dtype}")
    suffix = f".{suffix.lower().removeprefix('.') or 'png'}"
    if suffix not in _WRITE:
        raise UnsupportedInputError(f"{name}: images are written as {', '.join(_WRITE)}, not {suffix}")
    kind, options = _WRITE[suffix]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if icc and kind in _WITHOUT_METADATA:
        image.info["icc_profile"] = icc
        image = Image.fromarray(from_pillow(image).pixels)
    elif icc:
        options = options | {"icc_profile": icc}
    if exif and kind not in _WITHOUT_METADATA:
        options = options | {"exif": EXIF_PREFIX + exif}
    buffer = BytesIO()
    try:
        with _careful_pillow():
            image.save(buffer, kind, **options)
    except Exception as error:  # Pillow's writers have their own limits on sizes and metadata
        size = f"{image.width}x{image.height}"
        raise UnsupportedInputError(f"{name}: {size} pixels cannot be written as {suffix}: {error}") from error
    return buffer.getvalue()
