"""Streams written in the past decode today. tests/golden/README.md says how they were made."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import obverse
from obverse import container
from obverse.images import read_image
from obverse.pixels import psnr

HERE = Path(__file__).parents[1]
GOLDEN = HERE / "golden"
PHOTO = HERE.parent / "examples" / "images" / "brushes.jpg"
CASES = [("pocket-vq", "range", 1), ("pocket-vq", "raw", 1), ("pocket-hyper", "range", 1), ("pocket-hyper", "range", 8)]


def picture() -> np.ndarray:
    """The central 80x56 pixels of the photo."""
    pixels = read_image(PHOTO).pixels
    top, left = (pixels.shape[0] - 56) // 2, (pixels.shape[1] - 80) // 2
    return pixels[top : top + 56, left : left + 80].copy()


@pytest.mark.parametrize(("name", "coder", "quality"), CASES, ids=lambda value: str(value))
def test_golden_stream_decodes(name: str, coder: str, quality: int) -> None:
    stream = GOLDEN / f"{name}-{coder}-{quality}.obv"
    decoded = stream.with_suffix(".png")
    if os.environ.get("OBVERSE_REGENERATE") == "1":
        codec = obverse.load(name, parts={"coder": coder})
        data = codec.compress(picture(), quality=quality, chunks={"name": name.encode()})
        stream.write_bytes(data)
        codec.decompress(data).save(decoded)
    data = stream.read_bytes()
    # The checksum of the symbols is verified on the way; pixels may differ in the last bit between machines.
    assert psnr(np.asarray(obverse.decompress(data)), np.asarray(Image.open(decoded))) > 50
    header = container.unpack(data).header
    assert (header.width, header.height, header.quality) == (80, 56, quality - 1)
    assert header.chunks["name"].decode() == name
