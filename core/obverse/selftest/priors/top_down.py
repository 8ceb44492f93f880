"""Latents on several grids, coarse to fine, each telling about the next (QRes-VAE, arXiv:2208.13056).

Shape notation:
    B batch, W width of the features, Z channels of a level, h and w sides of a grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.nn.convnext import ConvNeXtBlock, bottleneck
from obverse.nn.exponential import Exp
from obverse.selftest import seeded

LOG_SCALE_SHIFT = 2.3
"""Scales are above exp(-2.3), about 0.1."""


class LatentBlock(nn.Module):
    """Where latents of a level enter the features.

    Args:
        width, channels: W and Z.
        kernel: side of the depthwise convolutions.
    """

    def __init__(self, width: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.front, self.end = ConvNeXtBlock(width, kernel), ConvNeXtBlock(width, kernel)
        self.prior = bottleneck(width, width // 2, 2 * channels, 3)
        self.softplus, self.exp = nn.Softplus(), Exp()
        self.z_proj = nn.Sequential(
            nn.Conv2d(channels, width // 2, 3, padding=1), nn.GELU(), nn.Conv2d(width // 2, width, 1)
        )

    def parameters_of(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and means [B, Z, h, w] from the front's features [B, W, h, w]."""
        mean, raw = self.prior(feature).chunk(2, 1)
        return self.exp(self.softplus(raw + LOG_SCALE_SHIFT) - LOG_SCALE_SHIFT), mean

    def forward(self, feature: Tensor, z: Tensor) -> Tensor:
        """Features [B, W, h, w] with what z [B, Z, h, w] tells."""
        return self.end(feature + self.z_proj(z))  # type: ignore[no-any-return]


class SubpixelUp(nn.Module):
    """A 1x1 convolution and a pixel shuffle, [B, W, h, w] -> [B, W, 2h, 2w]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.shuffle = nn.Conv2d(width, 4 * width, 1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.conv(x))  # type: ignore[no-any-return]


class NearestUp(nn.Module):
    """Every cell four times, [B, W, h, w] -> [B, W, 2h, 2w]."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class TopDownPrior(Prior, nn.Module):
    """One block per level, coarse to fine; level i is the array `z{i}`, [B, Z, h, w] on a grid twice as fine as before.

    z = symbol + mean, fed back before the next level. Means have the shape of the symbols.

    Args:
        width: W.
        channels: Z of every level; the latent grid is that of the last one.
        kernels: side of every level's depthwise convolutions.
        ups: from each level to the next, [B, W, h, w] -> [B, W, 2h, 2w].
    """

    exact: ClassVar[bool] = True

    def __init__(
        self, *, width: int, channels: Sequence[int], kernels: Sequence[int], ups: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.alphabets: Mapping[str, int | None] = {f"z{i}": None for i in range(len(channels))}
        self.multiple = 2 ** len(ups)
        self.start = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.levels = nn.ModuleList(LatentBlock(width, z, kernel) for z, kernel in zip(channels, kernels, strict=True))
        self.ups = nn.ModuleList([nn.Identity(), *ups])

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        if layout.height % self.multiple or layout.width % self.multiple:
            raise ConfigError(
                f"a latent grid of {layout.height}x{layout.width} cells has no grid {self.multiple} times coarser"
            )
        height, width = layout.height // self.multiple, layout.width // self.multiple
        feature = self.start.expand(layout.batch, -1, height, width)
        for index, (up, level) in enumerate(zip(self.ups, self.levels, strict=True)):
            assert isinstance(level, LatentBlock)
            feature = level.front(up(feature))
            scale, mean = level.parameters_of(feature)
            symbols = yield Block(f"z{index}", self.gaussian(scale), context={"mean": mean})
            feature = level(feature, symbols + mean)


def toys() -> dict[str, Prior]:
    """A small float prior with seeded weights, by case."""
    prior = TopDownPrior(width=16, channels=(6, 4, 3), kernels=(3, 7, 7), ups=(SubpixelUp(16), NearestUp()))
    return {"top-down": seeded.fill(prior, "top-down", gain=0.5)}
