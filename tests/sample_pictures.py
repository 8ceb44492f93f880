"""Small pictures for the tests of image files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def picture(seed: int = 0, height: int = 12, width: int = 15) -> np.ndarray:
    """[H, W, 3] uint8, small blocks of random colours."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 3, width // 3, 3), dtype=np.uint8)
    return blocks.repeat(3, axis=0).repeat(3, axis=1)


def encode(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
    return buffer.getvalue()
