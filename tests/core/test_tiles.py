"""Pixel tiles and local functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from obverse.tiles import Tiling, in_tiles


@given(st.integers(1, 9), st.integers(0, 20), st.integers(0, 20), st.integers(1, 3))
def test_merge_is_the_inverse_of_split(side: int, more_rows: int, more_columns: int, batch: int) -> None:
    height, width = side + more_rows, side + more_columns
    images = torch.arange(batch * 2 * height * width).view(batch, 2, height, width)
    tiling = Tiling(height, width, side)
    tiles = tiling.split(images)
    assert tiles.shape == (batch * len(tiling.corners()), 2, side, side)
    assert len(tiling.corners()) == -(-height // side) * -(-width // side)
    assert torch.equal(tiling.merge(tiles), images)


def test_tiles_of_a_picture_lie_side_by_side() -> None:
    images = torch.arange(2)[:, None, None, None].expand(2, 1, 4, 4)
    tiles = Tiling(4, 4, 2).split(images)
    assert tiles[:, 0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_last_tile_is_shifted_inside() -> None:
    assert Tiling(5, 3, 2).corners() == [(0, 0), (0, 1), (2, 0), (2, 1), (3, 0), (3, 1)]


def blur(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two convolutions at full size, one output at half of it: three pixels to each side."""
    kernel = torch.arange(9.0).view(1, 1, 3, 3)
    x = F.conv2d(F.conv2d(arrays["image"], kernel, padding=1), kernel, padding=1)
    return {"fine": x, "coarse": F.conv2d(x, kernel, stride=2, padding=1)}


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
def test_tiles_with_a_margin_equal_the_whole(rows: int, columns: int, tile: int) -> None:
    generator = torch.Generator().manual_seed(rows * columns)
    image = torch.randint(0, 9, (2, 1, rows * 4, columns * 4), generator=generator).float()
    whole = blur({"image": image})
    tiled = in_tiles(blur, {"image": image}, (rows, columns), tile, margin=1)
    assert tiled.keys() == whole.keys()
    assert all(torch.equal(tiled[name], whole[name]) for name in whole)


def test_arrays_of_other_resolutions_are_cut_together() -> None:
    arrays = {"fine": torch.rand(1, 2, 12, 8), "coarse": torch.rand(1, 1, 6, 4)}
    up = lambda part: {"sum": part["fine"][:, :1] + F.interpolate(part["coarse"], scale_factor=2.0)}  # noqa: E731
    assert torch.equal(in_tiles(up, arrays, (6, 4), 2, 0)["sum"], up(arrays)["sum"])


@pytest.mark.parametrize("tile", [1, 2, 3])
def test_a_margin_that_is_too_small_shows(tile: int) -> None:
    image = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    tiled = in_tiles(blur, {"image": image}, (6, 6), tile, margin=0)
    assert not torch.equal(tiled["fine"], blur({"image": image})["fine"])
