"""Colour profiles, made here so that the right answer is known."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from sample_pictures import encode, picture

from obverse.images import psnr, read_image, write_image

GREY = "grey is repeated in three channels"
ALPHA = "alpha is composited on white"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile(space: bytes, tags: dict[bytes, bytes], name: bytes = b"Test", pcs: bytes = b"XYZ ") -> bytes:
    """An ICC version 2 profile."""
    d50 = struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))
    description = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + b"\0" + bytes(78)
    tags = {b"desc": description, b"wtpt": b"XYZ " + bytes(4) + d50, **tags}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for key, data in tags.items():
        table += key + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02400000, kind, space, pcs)
    header += bytes(12) + b"acsp" + bytes(28) + d50
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(matrix: np.ndarray, tone: bytes, name: bytes) -> bytes:
    columns = zip((b"rXYZ", b"gXYZ", b"bXYZ"), (np.asarray(matrix).T * 65536).round().astype(int), strict=True)
    tags = {key: b"XYZ " + bytes(4) + struct.pack(">3i", *column.tolist()) for key, column in columns}
    return profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone), name)


# Linear RGB to XYZ under D50, published with the colour spaces.
SRGB_MATRIX = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
P3_MATRIX = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
LEVELS = np.linspace(0, 1, 1024)
LINEAR = np.where(LEVELS <= 0.04045, LEVELS / 12.92, ((LEVELS + 0.055) / 1.055) ** 2.4)
SRGB_CURVE = b"curv" + bytes(4) + struct.pack(">I1024H", 1024, *(LINEAR * 65535).round().astype(int).tolist())
P3 = rgb_profile(P3_MATRIX, SRGB_CURVE, b"Display P3")
GREY_LINEAR = profile(b"GRAY", {b"kTRC": curve(1.0)}, b"Linear Gray")


def cmyk_profile() -> bytes:
    """Lightness 100 without ink, 0 with black, 50 with all three colours; always neutral."""
    ramp = bytes(range(256))
    grid = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    cells = [(round(255 * (1 - k) * (1 - (c + m + y) / 6)), 128, 128) for c, m, y, k in grid]
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    lut += struct.pack(">9i", *(65536 * int(i in (0, 4, 8)) for i in range(9)))
    lut += ramp * 4 + bytes(v for cell in cells for v in cell) + ramp * 3
    return profile(b"CMYK", {b"A2B0": lut, b"A2B1": lut}, b"Neutral Ink", b"Lab ")


def test_srgb_profiles_change_nothing() -> None:
    other = rgb_profile(SRGB_MATRIX, SRGB_CURVE, b"Not called like it")
    for icc in (SRGB, other):
        for convert in (True, False):
            loaded = read_image(encode(picture(), "PNG", icc_profile=icc), convert_colours=convert)
            np.testing.assert_array_equal(loaded.pixels, picture())
            assert (loaded.icc, loaded.notes) == (None, ())


def p3_to_srgb(pixels: np.ndarray) -> np.ndarray:
    """The conversion in floating point, with clipping."""
    linear = np.interp(pixels / 255, LEVELS, LINEAR) @ (np.linalg.inv(SRGB_MATRIX) @ P3_MATRIX).T
    return np.interp(linear.clip(0, 1), LINEAR, LEVELS) * 255


def test_colours_are_converted_from_the_profile() -> None:
    data = encode(picture(), "PNG", icc_profile=P3)
    loaded = read_image(data)
    assert np.abs(loaded.pixels - p3_to_srgb(picture())).max() < 1.5
    assert np.abs(loaded.pixels.astype(int) - picture()).max() > 10
    assert (loaded.icc, loaded.notes) == (None, ("colours are converted from 'Display P3' to sRGB",))
    kept = read_image(data, convert_colours=False)
    np.testing.assert_array_equal(kept.pixels, picture())
    assert (kept.icc, kept.notes) == (P3, ())


def test_alpha_is_composited_after_the_conversion() -> None:
    image = Image.fromarray(np.array([[[255, 0, 0, 0], [255, 255, 255, 255]]], np.uint8))
    loaded = read_image(encode(image, "PNG", icc_profile=P3))
    assert loaded.pixels.tolist() == row_lists(255, 255)
    assert loaded.notes == (ALPHA, "colours are converted from 'Display P3' to sRGB")


def row_lists(*pixels: int) -> list[list[list[int]]]:
    return [[[p] * 3 for p in pixels]]


@pytest.mark.parametrize("convert", [True, False])
def test_grey_and_cmyk_profiles_are_always_applied(convert: bool) -> None:
    grey = encode(np.array([[0, 128, 255]], np.uint8), "PNG", icc_profile=GREY_LINEAR)
    loaded = read_image(grey, convert_colours=convert)
    assert np.abs(loaded.pixels[0, :, 0] - np.array([0, 188, 255])).max() <= 1  # linear 0.5 is 188 in sRGB
    assert loaded.icc is None
    assert loaded.notes == (GREY, "colours are converted from 'Linear Gray' to sRGB")
    ink = Image.new("CMYK", (2, 1), (0, 0, 0, 128))
    ink.putpixel((1, 0), (0, 0, 0, 0))
    loaded = read_image(encode(ink, "TIFF", icc_profile=cmyk_profile()), convert_colours=convert)
    assert np.abs(loaded.pixels.astype(int) - np.array(row_lists(119, 255))).max() <= 2  # L* 50 is 119 in sRGB
    assert loaded.icc is None
    assert loaded.notes == ("colours are converted from 'Neutral Ink' to sRGB",)


def test_profiles_that_do_not_fit() -> None:
    loaded = read_image(encode(picture(), "PNG", icc_profile=b"rubbish" * 30))
    np.testing.assert_array_equal(loaded.pixels, picture())
    assert (loaded.icc, loaded.notes) == (None, ("the colour profile is damaged and ignored",))
    loaded = read_image(encode(picture(), "PNG", icc_profile=GREY_LINEAR))
    np.testing.assert_array_equal(loaded.pixels, picture())
    assert loaded.notes == ("the colour profile 'Linear Gray' is for 'GRAY', not RGB, and ignored",)
    loaded = read_image(encode(np.array([[0, 99]], np.uint8), "PNG", icc_profile=SRGB))
    assert (loaded.pixels.tolist(), loaded.notes) == (row_lists(0, 99), (GREY,))


def test_lab() -> None:
    image = Image.fromarray(picture()).convert("LAB")
    image.info.clear()
    loaded = read_image(encode(image, "TIFF"))
    assert psnr(loaded.pixels, picture()) > 35
    assert loaded.notes == ("colours are converted from Lab to sRGB",)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_write_image_keeps_metadata(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 1
    raw = exif.tobytes().removeprefix(b"Exif\0\0")
    write_image(tmp_path / f"x{suffix}", picture(), icc=P3, exif=raw)
    loaded = read_image(tmp_path / f"x{suffix}", convert_colours=False)
    assert loaded.icc == P3
    stored = Image.Exif()
    stored.load(loaded.exif or b"")
    assert stored[0x010F] == "Maker"


def test_formats_without_profiles_get_srgb(tmp_path: Path) -> None:
    write_image(tmp_path / "x.ppm", picture(), icc=P3, exif=b"ignored")
    np.testing.assert_array_equal(
        read_image(tmp_path / "x.ppm").pixels, read_image(encode(picture(), "PNG", icc_profile=P3)).pixels
    )
