"""Image files of every kind, made on the fly with exact expectations."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile
from sample_pictures import encode, picture

from obverse import images
from obverse.errors import UnsupportedInputError
from obverse.images import psnr, read_image

GREY = "grey is repeated in three channels"
DEEP = "16-bit samples are reduced to 8"
ALPHA = "alpha is composited on white"
FLOAT = "float samples are taken as sRGB in [0, 1] and reduced to 8 bits"
KEYED = "the transparent colour of a 16-bit image is ignored"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Values on both sides of where rounding decides; [0, 0, 1, 1, 127, 128, 254, 255, 255] in 8 bits.
SIXTEEN = [0, 128, 129, 256, 32767, 32768, 65406, 65407, 65535]
EIGHT = [0, 0, 1, 1, 127, 128, 254, 255, 255]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, samples: bytes, extra: bytes = b"") -> bytes:
    """A PNG of one row, or only the header of a larger one."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(b"\0" + samples)) + chunk(b"IEND", b"")


def big_endian(*samples: int) -> bytes:
    return struct.pack(f">{len(samples)}H", *samples)


def tiff(samples: np.ndarray, photometric: int, sample_format: int, bits: int = 0) -> bytes:
    """One row of grey samples in their own byte order, or bytes of packed samples."""
    order = ">" if samples.dtype.byteorder == ">" else "<"
    data = samples.tobytes()
    bits = bits or 8 * samples.itemsize
    tags = {256: 8 * len(data) // bits, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8 + 2 + 12 * 10 + 4}
    tags |= {277: 1, 278: 1, 279: len(data), 339: sample_format}
    out = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(tags))
    for tag, value in sorted(tags.items()):
        out += struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
    return out + struct.pack(order + "I", 0) + data


def row(*pixels: int | tuple[int, int, int]) -> list[list[tuple[int, int, int]]]:
    return [[p if isinstance(p, tuple) else (p, p, p) for p in pixels]]


PALETTE = Image.new("P", (3, 1))
PALETTE.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
PALETTE.putdata([0, 1, 2])
TRNS16 = chunk(b"tRNS", big_endian(0))
HALF = (128, 128, 128)  # 0 on white at alpha 127
KINDS: dict[str, tuple[bytes, list[list[tuple[int, int, int]]], tuple[str, ...]]] = {
    "grey": (encode(np.array([[0, 7, 255]], np.uint8), "PNG"), row(0, 7, 255), (GREY,)),
    "grey-alpha": (png(3, 1, 8, 4, bytes([0, 255, 0, 127, 9, 0])), row(0, HALF, 255), (ALPHA, GREY)),
    "grey-opaque-alpha": (png(1, 1, 8, 4, b"\x07\xff"), row(7), (GREY,)),
    "grey-2-bit": (png(4, 1, 2, 0, b"\x1b"), row(0, 85, 170, 255), (GREY,)),
    "grey-2-bit-keyed": (png(4, 1, 2, 0, b"\x1b", TRNS16), row(255, 85, 170, 255), (ALPHA, GREY)),
    "grey-keyed": (png(2, 1, 8, 0, b"\0\1", TRNS16), row(255, 1), (ALPHA, GREY)),
    "1-bit": (encode(Image.fromarray(np.array([[False, True]])), "PNG"), row(0, 255), (GREY,)),
    "1-bit-pbm": (b"P1 2 1\n 0 1\n", row(255, 0), (GREY,)),
    "palette": (encode(PALETTE, "PNG"), row((10, 20, 30), (40, 50, 60), (70, 80, 90)), ()),
    "palette-alpha": (
        encode(PALETTE, "PNG", transparency=bytes([255, 0, 127])),
        row((10, 20, 30), 255, (163, 168, 173)),
        (ALPHA,),
    ),
    "palette-gif": (encode(PALETTE, "GIF", transparency=1), row((10, 20, 30), 255, (70, 80, 90)), (ALPHA,)),
    "rgb": (png(1, 1, 8, 2, b"\1\2\3"), row((1, 2, 3)), ()),
    "rgb-keyed": (
        png(2, 1, 8, 2, b"\1\2\3\4\5\6", chunk(b"tRNS", big_endian(1, 2, 3))),
        row(255, (4, 5, 6)),
        (ALPHA,),
    ),
    "rgba": (png(3, 1, 8, 6, b"\1\2\3\xff\0\0\0\x7f\1\2\3\0"), row((1, 2, 3), HALF, 255), (ALPHA,)),
    "rgba-opaque": (png(1, 1, 8, 6, b"\1\2\3\xff"), row((1, 2, 3)), ()),
    "rgba-webp": (
        encode(np.array([[[0, 0, 0, 127]]], np.uint8), "WEBP", lossless=True, exact=True),
        row(HALF),
        (ALPHA,),
    ),
    "grey-16-png": (png(9, 1, 16, 0, big_endian(*SIXTEEN)), row(*EIGHT), (DEEP, GREY)),
    "grey-16-png-keyed": (png(1, 1, 16, 0, big_endian(0), TRNS16), row(0), (DEEP, KEYED, GREY)),
    "grey-16-tiff": (tiff(np.array(SIXTEEN, "<u2"), 1, 1), row(*EIGHT), (DEEP, GREY)),
    "grey-16-tiff-big-endian": (tiff(np.array(SIXTEEN, ">u2"), 1, 1), row(*EIGHT), (DEEP, GREY)),
    "grey-16-tiff-white-is-zero": (
        tiff(np.array([0, 129, 65535], "<u2"), 0, 1),
        row(255, 254, 0),
        (DEEP, GREY),
    ),
    "grey-12-tiff": (tiff(np.frombuffer(b"\xff\xf8\x00", "u1"), 1, 1, bits=12), row(255, 128), (DEEP, GREY)),
    "grey-16-pgm": (b"P5 9 1 65535\n" + big_endian(*SIXTEEN), row(*EIGHT), (DEEP, GREY)),
    "grey-32-tiff": (encode(np.array([SIXTEEN], np.int32), "TIFF"), row(*EIGHT), (DEEP, GREY)),
    "grey-8-tiff-white-is-zero": (tiff(np.array([0, 1], np.uint8), 0, 1), row(255, 254), (GREY,)),
    # Pillow itself takes the upper byte of these.
    "rgb-16-png": (
        png(2, 1, 16, 2, big_endian(0, 65535, 32768, 256, 255, 1)),
        row((0, 255, 128), (1, 0, 0)),
        (DEEP,),
    ),
    "rgb-16-png-keyed": (
        png(1, 1, 16, 2, big_endian(1, 2, 3), chunk(b"tRNS", big_endian(1, 2, 3))),
        row(0),
        (DEEP, KEYED),
    ),
    "rgba-16-png": (
        png(2, 1, 16, 6, big_endian(65535, 0, 0, 65535, 0, 0, 0, 32767)),
        row((255, 0, 0), 128),
        (DEEP, ALPHA),
    ),
    "grey-alpha-16-png": (png(2, 1, 16, 4, big_endian(256, 65535, 0, 0)), row(1, 255), (DEEP, ALPHA)),
    "rgb-16-ppm": (b"P6 1 1 65535\n" + big_endian(0, 129, 65535), row((0, 1, 255)), (DEEP,)),
    "rgb-10-ppm": (b"P6 1 1 1023\n" + big_endian(0, 512, 1023), row((0, 128, 255)), (DEEP,)),
    "float-tiff": (encode(np.array([[0, 0.25, 1]], np.float32), "TIFF"), row(0, 64, 255), (FLOAT, GREY)),
    "float-pfm": (b"Pf 2 1 -1.0\n" + np.array([0, 1], "<f4").tobytes(), row(0, 255), (FLOAT, GREY)),
    "cmyk-tiff": (
        encode(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"),
        row((0, 255, 255)),
        ("CMYK without a usable colour profile is converted to RGB by a plain formula",),
    ),
    "ycbcr-tiff": (encode(Image.new("YCbCr", (1, 1), (100, 128, 128)), "TIFF"), row(100), ()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file(kind: str) -> None:
    data, pixels, notes = KINDS[kind]
    loaded = read_image(data)
    np.testing.assert_array_equal(loaded.pixels, np.array(pixels))
    assert loaded.pixels.dtype == np.uint8
    assert loaded.pixels.flags.writeable
    assert loaded.notes == notes
    assert (loaded.icc, loaded.exif) == (None, None)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_only_the_first_frame_is_used(kind: str) -> None:
    frames = [Image.fromarray(picture(n)) for n in range(3)]
    loaded = read_image(encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True))
    np.testing.assert_array_equal(loaded.pixels, picture(0))
    assert loaded.notes == ("only the first of 3 frames is used",)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "GIF", "WEBP"])
def test_sources(kind: str, tmp_path: Path) -> None:
    data = encode(picture(), kind, lossless=True)
    path = tmp_path / "without-suffix"
    path.write_bytes(data)
    with path.open("rb") as file:
        for source in (path, str(path), data, io.BytesIO(data), file):
            np.testing.assert_array_equal(read_image(source).pixels, picture())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe")
def test_pipe() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file:
        file.write(encode(picture(), "PNG"))
    with os.fdopen(reading, "rb") as file:
        np.testing.assert_array_equal(read_image(file).pixels, picture())


def test_avif_and_jpeg_are_close() -> None:
    grey = np.full((16, 16, 3), 100, np.uint8)
    for kind in ("AVIF", "JPEG", "MPO"):
        assert psnr(read_image(encode(grey, kind)).pixels, grey) > 45


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the image cannot be read: the file is empty"),
        (b"hello, world", "not an image, or one of a kind that is not supported; convert it to PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
        (png(100_000, 100_000, 8, 2, b""), "100000x100000 pixels are above the limit of 268435456; crop"),
        (png(14_000, 14_000, 8, 2, b""), "damaged or incomplete"),  # within our limit, not Pillow's
        (png(0, 1, 8, 2, b""), "cannot be read"),
        (b"P6 0 5 255\n", "cannot be read"),
        (tiff(np.array([0.5, 2], "<f4"), 1, 3), r"float samples lie in \[0, 1\], got values from 0.5 to 2"),
        (tiff(np.array([np.nan, 1], "<f4"), 1, 3), r"got NaN in \[1, 2\] float32"),
        (tiff(np.array([3, 9], "<i2"), 1, 2), "signed or 32-bit samples from 3 to 9 have no known range"),
        (encode(np.array([[0, 70000]], np.int32), "TIFF"), "32-bit samples from 0 to 70000"),
    ],
)
def test_refused_data(data: bytes, message: str) -> None:
    with pytest.raises(UnsupportedInputError, match=message) as caught:
        read_image(data)
    assert "\n" not in str(caught.value)


def test_refused_paths(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedInputError, match=r"missing.png' cannot be read: no such file; check the path"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(UnsupportedInputError, match="it is a folder; name an image in it"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(UnsupportedInputError, match=r"text.png' cannot be read: not an image"):
        read_image(tmp_path / "text.png")


def test_errors_inside_pillow_name_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = OSError("disk\ntwo lines"), struct.error("x"), MemoryError(), RuntimeError(), zlib.error("z")
    for error in errors:
        monkeypatch.setattr(ImageFile.ImageFile, "load", mock.Mock(side_effect=error))
        with pytest.raises(UnsupportedInputError, match="the image cannot be read: ") as caught:
            read_image(encode(picture(), "PNG"))
        assert "\n" not in str(caught.value)


def test_settings_of_pillow_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    data = encode(picture(), "PNG")
    with pytest.raises(UnsupportedInputError):
        read_image(data[:-20])
    np.testing.assert_array_equal(read_image(data).pixels, picture())
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (7, True)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF", "AVIF"])
def test_truncation_gives_an_error_or_the_whole_picture(kind: str) -> None:
    data = encode(picture(), kind)
    whole = read_image(data).pixels
    refused = 0
    for length in range(0, len(data), 1 if kind in ("PNG", "JPEG") else 7):
        try:
            np.testing.assert_array_equal(read_image(data[:length]).pixels, whole)
        except UnsupportedInputError:
            refused = length
    assert refused > 0.9 * len(data) - 7


def test_png_checksum() -> None:
    data = bytearray(encode(picture(), "PNG"))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(UnsupportedInputError, match="damaged or incomplete"):
        read_image(bytes(data))


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"P6 "]))
def test_random_bytes_are_refused(data: bytes, prefix: bytes) -> None:
    read_or_refuse(prefix + data)


EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010F] = 6, "Maker"
WITH_METADATA = {
    kind: encode(picture(), kind, exif=EXIF, icc_profile=SRGB) for kind in ("PNG", "JPEG", "WEBP", "TIFF")
} | {"GIF": KINDS["palette-gif"][0], "PALETTE": KINDS["palette-alpha"][0], "BMP": encode(picture(), "BMP")}


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(
    st.sampled_from(sorted(WITH_METADATA)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_files_are_refused_or_read(kind: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(WITH_METADATA[kind])
    for where, value in changes:
        data[int(where * len(data))] = value
    read_or_refuse(bytes(data))


def read_or_refuse(data: bytes) -> None:
    with mock.patch.object(images, "MAX_PIXELS", 2**20):
        try:
            loaded = read_image(data)
        except UnsupportedInputError:
            return
    assert loaded.pixels.ndim == 3
    assert all("\n" not in note for note in loaded.notes)


# Where the four corners go: how the picture must be turned for viewing.
TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation_is_applied_and_reset(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    plain = read_image(encode(picture(), kind, lossless=True)).pixels
    loaded = read_image(encode(picture(), kind, lossless=True, exif=exif))
    np.testing.assert_array_equal(loaded.pixels, TURNS[orientation](plain))
    assert loaded.notes == ()
    assert loaded.exif is not None
    stored = Image.Exif()
    stored.load(loaded.exif)
    assert stored.get(0x0112, 1) == 1
    assert stored[0x010F] == "Maker"
    assert 273 not in stored, "no tags about the pixels of a TIFF file"


def test_exif_without_orientation_is_untouched() -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    raw = exif.tobytes().removeprefix(b"Exif\0\0") + b"maker's trailer"
    assert read_image(encode(picture(), "JPEG", exif=b"Exif\0\0" + raw)).exif == raw


def test_damaged_exif_is_dropped_with_a_note() -> None:
    loaded = read_image(encode(picture(), "PNG", exif=b"II*\0\xff\xff\xff\x00rubbish"))
    np.testing.assert_array_equal(loaded.pixels, picture())
    assert loaded.exif is None
    assert "the EXIF data is damaged and dropped" in loaded.notes[0]


def test_pillow_warnings_become_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    original = ImageFile.ImageFile.load

    def load(self: ImageFile.ImageFile) -> object:
        warnings.warn("strange tag\nmore", UserWarning, stacklevel=1)
        return original(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert read_image(encode(picture(), "BMP")).notes == ("Pillow: strange tag",)
