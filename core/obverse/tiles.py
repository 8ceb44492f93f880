"""Pixel tiles: for transforms bound to one size, and to bound the memory of the others.

A transform bound to one size sees every tile as a picture of its own (`Tiling`). A convolutional transform depends on
a neighbourhood alone, so it can run on tiles with a margin and give the same result as on the whole (`in_tiles`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 2048
"""Side in pixels above which convolutional transforms run in tiles."""

GROUP = 2**20
"""Pixels of the tiles of a `Tiling` that run through a transform as one batch, at least one tile."""


@dataclass(frozen=True)
class Tiling:
    """Tiles of one side that cover a picture, in raster order; the last of a row or column is shifted inside.

    Args:
        height, width: size of the picture, each at least `side`.
        side: side of a tile.
    """

    height: int
    width: int
    side: int

    def corners(self) -> list[tuple[int, int]]:
        """Top left pixel (row, column) of each tile."""
        return [(top, left) for top in self._starts(self.height) for left in self._starts(self.width)]

    def _starts(self, length: int) -> list[int]:
        starts = list(range(0, length - self.side + 1, self.side))
        return starts if length % self.side == 0 else [*starts, length - self.side]

    def split(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B * n, C, side, side], the tiles of a picture side by side."""
        s = self.side
        tiles = [images[:, :, top : top + s, left : left + s] for top, left in self.corners()]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def merge(self, tiles: Tensor) -> Tensor:
        """The inverse of `split`; where tiles overlap, the later one is seen."""
        corners = self.corners()
        grouped = tiles.view(-1, len(corners), *tiles.shape[1:])
        images = tiles.new_empty(len(grouped), tiles.shape[1], self.height, self.width)
        for i, (top, left) in enumerate(corners):
            images[:, :, top : top + self.side, left : left + self.side] = grouped[:, i]
        return images


def in_groups(
    function: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], arrays: Mapping[str, Tensor], size: int
) -> dict[str, Tensor]:
    """Apply a function of a batch to `size` rows at a time.

    Args:
        function: arrays by name to arrays by name, each row from the same row.
        arrays: the batch as the first axis.
        size: rows at a time.
    """
    count = len(next(iter(arrays.values())))
    parts = [
        function({name: array[first : first + size] for name, array in arrays.items()})
        for first in range(0, count, size)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def in_tiles(
    function: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    arrays: Mapping[str, Tensor],
    cells: tuple[int, int],
    tile: int,
    margin: int,
) -> dict[str, Tensor]:
    """Apply a local function to arrays that share a grid of cells, tile by tile.

    Args:
        function: arrays by name to arrays by name; its outputs may have other resolutions.
        arrays: [B, C, rows, columns], rows and columns being multiples of the cells'.
        cells: rows and columns of the grid.
        tile: side of a tile in cells.
        margin: cells around a tile on which its result depends.
    """
    outputs: dict[str, Tensor] = {}
    for top, bottom in _spans(cells[0], tile):
        for left, right in _spans(cells[1], tile):
            rows = max(0, top - margin), min(cells[0], bottom + margin)
            columns = max(0, left - margin), min(cells[1], right + margin)
            result = function({k: _crop(v, cells, rows, columns) for k, v in arrays.items()})
            size = rows[1] - rows[0], columns[1] - columns[0]
            for name, array in result.items():
                inner = _crop(array, size, (top - rows[0], bottom - rows[0]), (left - columns[0], right - columns[0]))
                if name not in outputs:
                    unit_rows, unit_columns = array.shape[2] // size[0], array.shape[3] // size[1]
                    shape = (*array.shape[:2], cells[0] * unit_rows, cells[1] * unit_columns)
                    outputs[name] = array.new_empty(shape)
                _crop(outputs[name], cells, (top, bottom), (left, right)).copy_(inner)
    return outputs


def _spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, step):
        yield start, min(start + step, length)


def _crop(array: Tensor, cells: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """The part of an array that lies over some cells."""
    y, x = array.shape[2] // cells[0], array.shape[3] // cells[1]
    return array[:, :, rows[0] * y : rows[1] * y, columns[0] * x : columns[1] * x]
