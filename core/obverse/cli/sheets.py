"""Sheets of pictures with captions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 8


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size in a grid that is about square; one picture stays as it is."""
    if len(pictures) == 1:
        return pictures[0]
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (width + _GAP), i // columns * (height + _GAP)))
    return sheet


def side_by_side(original: np.ndarray, decoded: Image.Image, caption: str) -> Image.Image:
    """An original [H, W, 3] uint8 and its decoded version, with a caption below."""
    width, height = decoded.size
    size = max(14, min(40, width // 28))
    font = ImageFont.load_default(size)
    captions = ["original", caption]
    column = max(width, *(math.ceil(font.getlength(text)) + _GAP for text in captions))
    sheet = Image.new("RGB", (2 * column + _GAP, height + 2 * size), "white")
    draw = ImageDraw.Draw(sheet)
    for i, picture in enumerate([Image.fromarray(original), decoded]):
        left = i * (column + _GAP)
        sheet.paste(picture, (left, 0))
        draw.text((left + 2, height + size // 3), captions[i], fill="black", font=font)
    return sheet
