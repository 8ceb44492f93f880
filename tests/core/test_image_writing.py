"""Images written to files and streams, and read back."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from obverse.errors import OutputError, OutputExistsError, UnsupportedInputError
from obverse.images import psnr, read_image, write_image


def picture(seed: int = 0, height: int = 12, width: int = 15) -> np.ndarray:
    """[H, W, 3] uint8, small blocks of random colours."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 3, width // 3, 3), dtype=np.uint8)
    return blocks.repeat(3, axis=0).repeat(3, axis=1)


@pytest.mark.parametrize("suffix", [".png", ".PNG", "", ".webp", ".tif", ".tiff", ".bmp", ".ppm"])
def test_write_image_is_lossless(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    write_image(path, picture()[:, ::-1])
    np.testing.assert_array_equal(read_image(path).pixels, picture()[:, ::-1])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".avif"])
def test_write_image_at_high_quality(suffix: str, tmp_path: Path) -> None:
    write_image(tmp_path / f"x{suffix}", picture())
    assert psnr(read_image(tmp_path / f"x{suffix}").pixels, picture()) > 30


def test_write_image_to_streams_and_by_format(tmp_path: Path) -> None:
    for format, kind in ((None, "PNG"), ("ppm", "PPM"), (".JPG", "JPEG")):
        stream = io.BytesIO()
        write_image(stream, picture(), format=format)
        assert Image.open(stream).format == kind
    write_image(tmp_path / "x.ppm", picture(), format="png")
    assert (tmp_path / "x.ppm").read_bytes().startswith(b"\x89PNG")
    failing = mock.Mock(write=mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    failing.name = "out"
    with pytest.raises(OutputError, match="cannot write 'out': no space is left on the device"):
        write_image(failing, picture())
    with pytest.raises(BrokenPipeError):
        write_image(mock.Mock(write=mock.Mock(side_effect=BrokenPipeError)), picture())


def test_damaged_exif_does_not_warn() -> None:
    write_image(io.BytesIO(), picture(), exif=b"II*\0\x08\0\0\0\xff\xffrubbish", format="tif")


def test_write_image_refuses(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedInputError, match=r"x.xyz': images are written as .png, .jpg, .*, not .xyz"):
        write_image(tmp_path / "x.xyz", picture())
    with pytest.raises(UnsupportedInputError, match=r"not \.gif"):
        write_image(tmp_path / "x.gif", picture())
    with pytest.raises(UnsupportedInputError, match=r"pixels are \[H, W, 3\] uint8, got \[12, 15, 3\] float64"):
        write_image(tmp_path / "x.png", picture() / 255)
    with pytest.raises(UnsupportedInputError, match=r"x.webp': 20000x1 pixels cannot be written as .webp: "):
        write_image(tmp_path / "x.webp", np.zeros((1, 20000, 3), np.uint8))
    with pytest.raises(UnsupportedInputError, match=r"cannot be written as .jpg: EXIF data is too long"):
        write_image(tmp_path / "x.jpg", picture(), exif=bytes(70000))
    (tmp_path / "x.png").write_bytes(b"old")
    with pytest.raises(OutputExistsError, match=r"x.png' exists; use --force to overwrite it"):
        write_image(tmp_path / "x.png", picture())
    write_image(tmp_path / "x.png", picture(), force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
