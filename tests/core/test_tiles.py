"""Pixel tiles and local functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import picture

from obverse.canvas import Canvas
from obverse.interfaces import Coded, Condition, Latents
from obverse.selftest.seeded import fill
from obverse.tiles import Tiling, in_groups, in_tiles
from obverse.vq import VectorQuantizer, VQAutoencoder


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


@given(st.integers(1, 7), st.integers(1, 9))
def test_groups_of_a_batch_equal_the_whole(count: int, size: int) -> None:
    sizes: list[int] = []

    def double(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
        sizes.append(len(arrays["a"]))
        return {"sum": arrays["a"] + arrays["b"], "a": arrays["a"]}

    a, b = torch.arange(count * 3).view(count, 3), torch.arange(count)[:, None]
    found = in_groups(double, {"a": a, "b": b}, size)
    assert torch.equal(found["sum"], a + b)
    assert torch.equal(found["a"], a)
    assert max(sizes) <= size
    assert sum(sizes) == count


class TileEncoder(VQAutoencoder):
    """A convolutional autoencoder that takes one size; keeps how many pictures it was given at a time."""

    tile = 16

    def __init__(self) -> None:
        super().__init__(embed_dim=4, z_channels=8, width=32, multipliers=[1, 2, 1], blocks=1, attention_levels=[1])
        self.seen: list[int] = []

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        self.seen.append(len(images))
        return super().encode(images, condition)

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        self.seen.append(len(latents["tokens"]))
        return super().decode(latents, condition)


@torch.inference_mode()
def test_tiles_run_a_few_at_a_time_with_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, quantizer = fill(TileEncoder(), "tiles"), fill(VectorQuantizer(size=50, dim=4), "tiles")
    canvas, images, condition = Canvas(encoder, torch.device("cpu")), [picture(60, 40), picture(60, 40, 1)], Condition()
    tokens, pictures = [], []
    for at_once, calls in ((99, [24]), (5, [5, 5, 5, 5, 4]), (0, [1] * 24)):
        monkeypatch.setattr("obverse.canvas.GROUP", at_once * encoder.tile**2)
        encoder.seen.clear()
        tokens.append(quantizer.symbols(canvas.analyse(images, condition))["tokens"])
        latents = quantizer.dequantize([Coded("tokens", tokens[0])], canvas.layout(2, 40, 60))
        pictures.append(torch.from_numpy(canvas.synthesise(latents, condition, 40, 60)[1]))
        assert encoder.seen == [*calls, *calls]
    assert len(tokens[0].unique()) > 20
    for index in (1, 2):
        assert torch.equal(tokens[index], tokens[0])
        assert (pictures[index].int() - pictures[0].int()).abs().max() <= 1, "kernels may differ in a last bit"
