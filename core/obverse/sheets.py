"""Sheets of pictures with captions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 8
_GREY = "#c8c8c8"
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class SheetRow:
    """Pictures in a row.

    Attributes:
        title: above them.
        pictures: captions and pictures of one size.
        reason: why there are none, shown in a grey cell.
    """

    title: str
    pictures: Sequence[tuple[str, Image.Image]]
    reason: str = ""


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
    size = max(14, min(40, decoded.width // 28))
    pictures = [("original", Image.fromarray(original)), (caption, decoded)]
    font = ImageFont.load_default(size)
    column = _column([caption for caption, _ in pictures], decoded.width, font)
    return _captioned(pictures, column, decoded.height, font, size)


def labelled(rows: Sequence[SheetRow], size: tuple[int, int]) -> Image.Image:
    """Rows of captioned pictures, each row with a title.

    Args:
        rows: from the top.
        size: of the pictures, width and height in pixels.
    """
    points = max(12, min(40, size[0] // 18))
    font = ImageFont.load_default(points)
    captions = [caption for row in rows for caption, _ in row.pictures]
    column = _column(captions, size[0], font)
    width = max(column, *(len(row.pictures) * (column + _GAP) - _GAP for row in rows))
    parts = []
    for row in rows:
        if row.title:
            parts.append(_text(row.title, width, font, points, "white"))
        if row.pictures:
            parts.append(_captioned(row.pictures, column, size[1], font, points))
        if row.reason:
            parts.append(_text(row.reason, width, font, points, _GREY))
    sheet = Image.new("RGB", (width, sum(part.height + _GAP for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height + _GAP
    return sheet


def _column(captions: Sequence[str], width: int, font: _Font) -> int:
    """Width of a column of pictures with captions below, in pixels."""
    return max([width, *(math.ceil(font.getlength(caption)) + _GAP for caption in captions)])


def _captioned(
    pictures: Sequence[tuple[str, Image.Image]], column: int, height: int, font: _Font, points: int
) -> Image.Image:
    """Pictures of one height beside each other, captions below; sizes in pixels."""
    sheet = Image.new("RGB", (len(pictures) * (column + _GAP) - _GAP, height + 2 * points), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (caption, picture) in enumerate(pictures):
        left = i * (column + _GAP)
        sheet.paste(picture, (left, 0))
        draw.text((left + 2, height + points // 3), caption, fill="black", font=font)
    return sheet


def _text(text: str, width: int, font: _Font, points: int, background: str) -> Image.Image:
    """A strip of text, in as many lines as it takes."""
    letters = max(8, int(width / (0.6 * points)))  # the font's letters are about half as wide as high
    lines = textwrap.wrap(text, letters)
    strip = Image.new("RGB", (width, (len(lines) + 1) * points * 5 // 4), background)
    ImageDraw.Draw(strip).multiline_text((2, points // 2), "\n".join(lines), fill="black", font=font)
    return strip
