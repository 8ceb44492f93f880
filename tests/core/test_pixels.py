"""Images in memory of every type become [H, W, 3] uint8."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from obverse.errors import UnsupportedInputError
from obverse.pixels import as_pixels, psnr

# Values on both sides of where rounding decides.
SIXTEEN = [0, 128, 129, 256, 32767, 32768, 65406, 65407, 65535]
EIGHT = [0, 0, 1, 1, 127, 128, 254, 255, 255]


def picture(seed: int = 0, height: int = 12, width: int = 15) -> np.ndarray:
    """[H, W, 3] uint8, small blocks of random colours."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 3, width // 3, 3), dtype=np.uint8)
    return blocks.repeat(3, axis=0).repeat(3, axis=1)


def row_lists(*pixels: int) -> list[list[list[int]]]:
    return [[[p] * 3 for p in pixels]]


def test_as_pixels_from_arrays() -> None:
    base = picture()
    same = as_pixels(base)
    assert same is base
    np.testing.assert_array_equal(as_pixels(base[:, ::-1]), base[:, ::-1])
    assert as_pixels(base[:, ::-1]).flags.c_contiguous
    frozen = base.copy()
    frozen.flags.writeable = False
    assert as_pixels(frozen).flags.writeable
    grey = np.repeat(base[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(as_pixels(base[:, :, 0]), grey)
    np.testing.assert_array_equal(as_pixels(base[:, :, :1]), grey)
    sixteen = np.array([SIXTEEN])
    for order in "<>":
        assert as_pixels(sixteen.astype(order + "u2"))[0, :, 0].tolist() == EIGHT
    for kind in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(as_pixels((base / 255).astype(kind)), base)
    assert as_pixels(np.array([[-0.0009, 1.0009]])).tolist() == row_lists(0, 255)
    rgba = np.array([[[0, 0, 0, 127], [1, 2, 3, 255]]], np.uint8)
    assert as_pixels(rgba).tolist() == [[[128] * 3, [1, 2, 3]]]


def test_as_pixels_from_tensors() -> None:
    base = picture()
    tensor = torch.from_numpy(base).permute(2, 0, 1)
    for image in (
        tensor,
        tensor[None],
        tensor / 255,
        (tensor / 255).double(),
        torch.nn.Parameter(tensor / 255),
    ):
        np.testing.assert_array_equal(as_pixels(image), base)
    assert as_pixels(torch.tensor([[[0.0, 0.5, 1.0]]], dtype=torch.bfloat16)).tolist() == row_lists(0, 128, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK"])
def test_as_pixels_from_pillow(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), "white")
    image = image.convert("LA").convert(mode) if mode == "La" else image.convert(mode)
    assert as_pixels(image).tolist() == row_lists(255, 255)


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "I;16B", "I;16L", "HSV"])
def test_as_pixels_from_other_modes_of_pillow(mode: str) -> None:
    assert as_pixels(Image.new(mode, (1, 1))).tolist() == row_lists(0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"arrays are \[H, W\], .* got \[3, 8, 8\] uint8"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"got \[1, 8, 8, 3\] uint8"),
        (np.zeros((0, 8, 3), np.uint8), r"no pixels: \[0, 8, 3\] uint8"),
        (
            np.zeros((8, 8, 3), np.int64),
            r"samples are uint8, uint16 or float in \[0, 1\], got \[8, 8, 3\] int64",
        ),
        (np.zeros((8, 8), bool), r"got \[8, 8\] bool"),
        (np.array([[-0.5, 255.0]]), r"got values from -0.5 to 255 in \[1, 2\] float64; scale them first"),
        (np.array([[0, np.nan]]), r"got NaN in \[1, 2\] float64"),
        (np.array([[0, np.inf]]), "got values from 0 to inf"),
        (torch.zeros(2, 3, 8, 8), r"tensors are .*, got \[2, 3, 8, 8\] torch.float32"),
        (torch.zeros(8, 8, 3), r"got \[8, 8, 3\] torch.float32"),
        (torch.zeros(8), r"got \[8\] torch.float32"),
        (
            torch.zeros(3, 8, 8, dtype=torch.int64),
            r"tensors are uint8 or float .* got \[3, 8, 8\] torch.int64",
        ),
        (torch.zeros(3, 0, 8), "the image has no pixels"),
        ([[0, 0]], "images are Pillow images, NumPy arrays or torch tensors, got builtins.list"),
        (Image.new("RGB", (0, 3)), "the Pillow image cannot be read: the image has no pixels: 0x3"),
    ],
)
def test_as_pixels_refuses(image: object, message: str) -> None:
    with pytest.raises(UnsupportedInputError, match=message):
        as_pixels(image)


def test_psnr() -> None:
    base = picture()
    assert psnr(base, base.copy()) == float("inf")
    assert psnr(np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)) == 0
    other = base.copy()
    other[0, 0, 0] ^= 16
    assert psnr(base, other) == pytest.approx(10 * np.log10(255**2 * base.size / 256))
    with pytest.raises(UnsupportedInputError, match=r"got \[12, 15, 3\] uint8 and \[11, 15, 3\] uint8"):
        psnr(base, base[1:])
    with pytest.raises(UnsupportedInputError, match="float64"):
        psnr(base, base / 255)


def test_nothing_here_imports_torch() -> None:
    code = (
        "import sys, numpy\nfrom obverse.images import as_pixels\n"
        "as_pixels(numpy.zeros((2, 2), numpy.uint8))\nassert 'torch' not in sys.modules"
    )
    paths = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | paths)
