"""Pictures of any kind as [H, W, 3] uint8 sRGB: arrays, tensors and what Pillow decodes."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from obverse.errors import ObverseError, UnsupportedInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

EXIF_PREFIX = b"Exif\x00\x00"
_ORIENTATION = ExifTags.Base.Orientation
_PHOTOMETRIC, _WHITE_IS_ZERO, _INVERTED = 262, 0, "I;16I"  # TIFF; Pillow inverts 8 bits only
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow scales these samples to 8 bits, but not the transparent one
_TOLERANCE = 1e-3  # how far floats may lie outside [0, 1] before they are taken for another scale
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # of a colour profile's space
# A TIFF file's EXIF lies among tags that describe its pixels; these describe the picture.
_TIFF_TAGS = (
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software),
    *(ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.Copyright),
)


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image ready to be coded.

    Args:
        pixels: [H, W, 3] uint8, sRGB unless `icc` says otherwise.
        icc: colour profile of the pixels; None for sRGB.
        exif: EXIF data as a TIFF structure, its orientation set to 1 because it has been applied.
        notes: a line for everything that was dropped or changed.
    """

    pixels: np.ndarray
    icc: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()


def as_pixels(image: object) -> np.ndarray:
    """Pixels of an image in memory.

    Args:
        image: a Pillow image of any mode; an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8, uint16
            or float in [0, 1]; a tensor [1, H, W], [3, H, W] or [1, 3, H, W] of uint8 or float in [0, 1].

    Returns:
        [H, W, 3] uint8, sRGB. Deeper samples are rounded, alpha is composited on white, grey is repeated. An
        array that is so already is returned as it is.

    Raises:
        UnsupportedInputError: another type, shape, dtype or range.
    """
    if isinstance(image, Image.Image):
        with refusing("the Pillow image"):
            return from_pillow(image).pixels
    if any(base.__module__ == "torch" for base in type(image).__mro__):
        return _from_array(_tensor_to_array(cast("Tensor", image)))
    if isinstance(image, np.ndarray):
        channels = image.shape[2:]
        if image.ndim not in (2, 3) or channels not in ((), (1,), (3,), (4,)):
            raise UnsupportedInputError(
                f"arrays are [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got {list(image.shape)} {image.dtype}"
            )
        return _from_array(image)
    kind = f"{type(image).__module__}.{type(image).__qualname__}"
    raise UnsupportedInputError(f"images are Pillow images, NumPy arrays or torch tensors, got {kind}")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, from one mean squared error over all channels; infinity when equal.

    >>> round(psnr(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1, 3), np.uint8)), 2)
    48.13

    Args:
        a: uint8, usually [H, W, 3].
        b: uint8, the same shape.

    Raises:
        UnsupportedInputError: shapes differ, nothing to compare, or not uint8.
    """
    if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8 or not a.size:
        got = f"{list(a.shape)} {a.dtype} and {list(b.shape)} {b.dtype}"
        raise UnsupportedInputError(f"psnr compares two uint8 images of the same size, got {got}")
    # Row by row in integers: exact, and no wide copy of a large image.
    squares = (np.square(x.astype(np.int32) - y) for x, y in zip(a, b, strict=True))
    total = sum(int(square.sum(dtype=np.int64)) for square in squares)
    return math.inf if total == 0 else 10 * math.log10(255**2 * a.size / total)


def from_pillow(image: Image.Image, *, convert_colours: bool = True) -> LoadedImage:
    """Convert what Pillow decodes, whatever its mode; see `obverse.images.read_image`.

    Raises:
        UnsupportedInputError: the image is empty or its samples have no known range.
        Exception: nearly anything, from decoding damaged data; call it inside `refusing`.
    """
    if 0 in image.size:
        raise UnsupportedInputError(f"the image has no pixels: {image.width}x{image.height}")
    notes: list[str] = []
    rawmode = _rawmode(image)
    image.load()
    icc = image.info.get("icc_profile")
    image, exif = _upright(image, notes)
    image = _reduce(image, rawmode, notes)
    image, alpha = _split_alpha(image, notes)
    image, icc = _to_rgb(image, icc, convert_colours, notes)
    if alpha is not None:
        image = _on_white(image, alpha)
    return LoadedImage(np.array(image), icc, exif, tuple(notes))


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turn whatever goes wrong with an image into an UnsupportedInputError of one line that names it."""
    try:
        yield
    except UnsupportedInputError as error:
        raise UnsupportedInputError(f"{name} cannot be read: {error}") from error.__cause__
    except ObverseError:
        raise
    except Exception as error:  # Pillow's readers raise nearly any type on damaged data
        raise UnsupportedInputError(f"{name} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or one of a kind that is not supported; convert it to PNG"
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path"
    if isinstance(error, IsADirectoryError):
        return "it is a folder; name an image in it"
    if isinstance(error, MemoryError):
        return "not enough memory; crop or shrink it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    detail = (str(error).splitlines() or [""])[0] or type(error).__name__
    return f"damaged or incomplete ({detail}); get it again or convert it to PNG"


def _rawmode(image: Image.Image) -> str:
    """How the file stores its samples, such as "RGB;16B"; empty when Pillow has already forgotten."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    decoder, _, _, args = tiles[0]
    mode, *rest = args if isinstance(args, tuple) else (args,)
    if decoder.startswith("ppm") and rest and rest[0] > 255:
        return f"{mode};16"
    if mode == "I;16" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        return _INVERTED
    return str(mode)


def _upright(image: Image.Image, notes: list[str]) -> tuple[Image.Image, bytes | None]:
    """Apply the EXIF orientation; returns the image and its EXIF without one."""
    raw = image.info.get("exif")
    try:
        exif = image.getexif()
        turned = exif.get(_ORIENTATION, 1) != 1
        upright = ImageOps.exif_transpose(image) if turned else image
        if image.format == "TIFF":
            exif, turned = _descriptive(exif), True
        if not len(exif):
            if raw:
                notes.append("the EXIF data is damaged and dropped")
            return upright, None
        if turned or not isinstance(raw, bytes):
            if _ORIENTATION in exif:
                exif[_ORIENTATION] = 1
            raw = exif.tobytes()
        return upright, raw.removeprefix(EXIF_PREFIX)
    except Exception:  # as in `refusing`; the picture itself is fine
        notes.append("the EXIF data is damaged and dropped, with it the orientation")
        return image, None


def _descriptive(exif: Image.Exif) -> Image.Exif:
    kept = Image.Exif()
    for tag in _TIFF_TAGS:
        if tag in exif:
            kept[tag] = exif[tag]
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if values := exif.get_ifd(ifd):
            kept[ifd] = dict(values)
    return kept


def _reduce(image: Image.Image, rawmode: str, notes: list[str]) -> Image.Image:
    """Samples of 8 bits."""
    if image.mode != "F" and not image.mode.startswith("I"):
        if ";16" in rawmode:  # reduced by Pillow itself
            notes.append("16-bit samples are reduced to 8")
            if "transparency" in image.info:
                notes.append("the transparent colour of a 16-bit image is ignored")
                image = _with_transparency(image, None)
        elif rawmode in _GREY_STEPS and "transparency" in image.info:
            image = _with_transparency(image, image.info["transparency"] * _GREY_STEPS[rawmode])
        return image
    values = np.asarray(image)
    if image.mode == "F":
        notes.append("float samples are taken as sRGB in [0, 1] and reduced to 8 bits")
    else:
        values = _unsigned16(values, rawmode)
        notes.append("16-bit samples are reduced to 8")
    if "transparency" in image.info:
        notes.append("the transparent colour of a 16-bit image is ignored")
    return Image.fromarray(_to_uint8(values))


def _with_transparency(image: Image.Image, sample: int | None) -> Image.Image:
    image = image.copy()
    image.info["transparency"] = sample
    if sample is None:
        del image.info["transparency"]
    return image


def _unsigned16(values: np.ndarray, rawmode: str) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    signed = rawmode in ("I;16S", "I;16BS")
    if signed or low < 0 or high > 65535:
        raise UnsupportedInputError(
            f"signed or 32-bit samples from {low} to {high} have no known range; convert it to 8 or unsigned 16 bits"
        )
    values = values.astype(np.uint16)
    if rawmode == "I;12":
        return values << 4 | values >> 8
    return ~values if rawmode == _INVERTED else values


def _split_alpha(image: Image.Image, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """Colours in mode L, RGB, CMYK or LAB, and alpha when any of it shows."""
    grey = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        keep = image.mode in ("L", "RGB", "CMYK", "LAB")
        return image if keep else image.convert("L" if grey else "RGB"), None
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    image = image.convert("L" if grey else "RGB")
    if alpha.getextrema() == (255, 255):
        return image, None
    notes.append("alpha is composited on white")
    return image, alpha


def _on_white(image: Image.Image, alpha: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=alpha)
    return white


def _to_rgb(image: Image.Image, icc: bytes | None, convert: bool, notes: list[str]) -> tuple[Image.Image, bytes | None]:
    """RGB pixels and the profile that they are in; None for sRGB."""
    if image.mode == "L":
        notes.append("grey is repeated in three channels")
    if icc:
        try:
            return _apply_profile(image, icc, convert, notes)
        except _MismatchError as error:
            notes.append(str(error))
        except Exception:  # as in `refusing`; the picture itself is fine
            notes.append("the colour profile is damaged and ignored")
    if image.mode == "CMYK":
        notes.append("CMYK without a usable colour profile is converted to RGB by a plain formula")
    if image.mode == "LAB":
        notes.append("colours are converted from Lab to sRGB")
    return image.convert("RGB"), None


class _MismatchError(Exception):
    """A colour profile is not for this kind of image."""


def _apply_profile(image: Image.Image, icc: bytes, convert: bool, notes: list[str]) -> tuple[Image.Image, bytes | None]:
    profile = ImageCms.ImageCmsProfile(BytesIO(icc))
    name = " ".join(ImageCms.getProfileDescription(profile).split()) or "an unnamed profile"
    space = profile.profile.xcolor_space.strip()
    mode = _MODES.get(space, "")
    if image.mode == "L" and mode == "RGB":
        image = image.convert("RGB")
    if image.mode != mode:
        raise _MismatchError(f"the colour profile {name!r} is for {space!r}, not {image.mode}, and ignored")
    transform = ImageCms.buildTransform(
        profile,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if _is_srgb(transform, mode):
        return image.convert("RGB"), None
    if mode == "RGB" and not convert:
        return image, icc
    notes.append(f"colours are converted from {name!r} to sRGB")
    return transform.apply(image), None


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether the transform leaves a small cube of colours where it is, give or take one level."""
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    if mode == "L":
        probe = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    elif mode == "RGB":
        probe = Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3))
    else:
        return False
    before, after = (np.asarray(p, np.int16) for p in (probe.convert("RGB"), transform.apply(probe)))
    return bool(np.abs(before - after).max() <= 1)


def _tensor_to_array(image: Tensor) -> np.ndarray:
    shape, dtype = list(image.shape), str(image.dtype)
    if image.ndim not in (3, 4) or shape[-3] not in (1, 3) or (image.ndim == 4 and shape[0] != 1):
        raise UnsupportedInputError(f"tensors are [1, H, W], [3, H, W] or [1, 3, H, W], got {shape} {dtype}")
    if not (image.is_floating_point() or dtype == "torch.uint8"):
        raise UnsupportedInputError(f"tensors are uint8 or float in [0, 1], got {shape} {dtype}")
    image = image.detach().cpu()
    if image.is_floating_point():
        image = image.float()  # NumPy has no bfloat16
    channels_last = image.reshape(shape[-3:]).permute(1, 2, 0)  # [H, W, C]
    return channels_last.numpy()


def _from_array(array: np.ndarray) -> np.ndarray:
    """[H, W] or [H, W, 1, 3 or 4] to [H, W, 3] uint8."""
    if not array.size:
        raise UnsupportedInputError(f"the image has no pixels: {list(array.shape)} {array.dtype}")
    pixels = _to_uint8(array)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] == 4:
        parts = pixels[:, :, :3], pixels[:, :, 3]
        colours, alpha = (Image.fromarray(np.ascontiguousarray(part)) for part in parts)
        return np.array(_on_white(colours, alpha))
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.require(pixels, requirements=["C", "W"])


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    got = f"{list(array.shape)} {array.dtype}"
    if array.dtype.kind != "f":
        raise UnsupportedInputError(f"samples are uint8, uint16 or float in [0, 1], got {got}")
    low, high = float(array.min()), float(array.max())
    if math.isnan(low):
        raise UnsupportedInputError(f"float samples lie in [0, 1], got NaN in {got}")
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise UnsupportedInputError(
            f"float samples lie in [0, 1], got values from {low:g} to {high:g} in {got}; scale them first"
        )
    scaled: np.ndarray = np.rint(np.clip(array, 0, 1).astype(np.float32) * 255)
    return scaled.astype(np.uint8)
