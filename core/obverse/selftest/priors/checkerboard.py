"""Channel groups, each in two passes over a checkerboard (ELIC, arXiv:2203.10886; passes from arXiv:2103.15306).

Shape notation:
    B batch, M channels of y, N channels of z, g channels of a group, h and w sides of y's grid, n cells of a pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.nn.masked import MaskedConv2d, checkerboard_taps
from obverse.selftest import seeded
from obverse.selftest.priors.context import deconvolution, raise_scales
from obverse.selftest.priors.factorized import seeded_tables, stored
from obverse.selftest.priors.hyperprior import SMALLEST_SCALE

_STRIDE = 4  # cells of y per cell of z


class ChannelGroup(nn.Module):
    """The networks of one group.

    Args:
        before: channels of all earlier groups.
        channels: g of this one.
        hyper: channels of what the hyper-synthesis gives.
        width: of the channel context.
    """

    def __init__(self, *, before: int, channels: int, hyper: int, width: int) -> None:
        super().__init__()
        self.before, self.channels = before, channels
        self.channel_context = (
            nn.Sequential(
                nn.Conv2d(before, width, 5, padding=2), nn.ReLU(),
                nn.Conv2d(width, width, 5, padding=2), nn.ReLU(),
                nn.Conv2d(width, 2 * channels, 5, padding=2),
            )
            if before
            else None
        )  # fmt: skip
        self.spatial_context = MaskedConv2d(channels, 2 * channels, checkerboard_taps(5))
        inputs, outputs = (4 if before else 2) * channels + hyper, 2 * channels
        wide, narrow = (2 * inputs + outputs) // 3, (inputs + 2 * outputs) // 3
        self.entropy_parameters = nn.Sequential(
            nn.Linear(inputs, wide), nn.ReLU(),
            nn.Linear(wide, narrow), nn.ReLU(),
            nn.Linear(narrow, outputs),
        )  # fmt: skip

    def given(self, y_hat: Tensor, hyper: Tensor) -> Tensor:
        """What both passes know: channel context from earlier groups of y_hat [B, M, h, w], and hyper."""
        if self.channel_context is None:
            return hyper
        return torch.cat([self.channel_context(y_hat[:, : self.before]), hyper], 1)

    def parameters_of(self, spatial: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and means [B, g, n] of n cells.

        Args:
            spatial: [B, 2g, n], zeros for anchors.
            given: [B, ..., n] from `given`.
        """
        cells = torch.cat([spatial, given], 1).transpose(1, 2)
        scale, mean = self.entropy_parameters(cells).transpose(1, 2).chunk(2, 1)
        return scale.clamp(min=SMALLEST_SCALE), mean


class CheckerboardPrior(Prior, nn.Module):
    """z, then for every group of channels two blocks: its anchors, where row + column is even, and the other cells.

    Anchors know z and earlier groups; the other cells know the anchors around them as well. y_hat = symbol + mean.

    Blocks of y have positions in the flattened array [M * h * w], channel by channel and each in raster order. Means
    are [B, g * n].

    In exact arithmetic the 1x1 convolutions are `nn.Linear` over the channels of a cell, and `MaskedConv2d` rounds the
    taps of each cell on their own: a cell's parameters do not depend on which others are computed beside it.
    The convolutions of the channel context look at earlier groups alone, which are known as a whole.

    Args:
        tables: frequencies of z, [N, S] int32, as for `factorized.Factorized`.
        medians: [N] floating point, what z is moved by.
        groups: g of every group; M is their sum.
        width: of the channel context.
    """

    exact: ClassVar[bool] = True
    tables: Tensor
    medians: Tensor

    def __init__(self, *, tables: Tensor, medians: Tensor, groups: Sequence[int], width: int) -> None:
        super().__init__()
        self.alphabets: Mapping[str, int | None] = {"y": None, "z": None}
        self.register_buffer("tables", tables)
        self.register_buffer("medians", medians[:, None, None])
        n, m = len(tables), sum(groups)
        self.latent_channels = m
        self.hyper_synthesis = nn.Sequential(
            deconvolution(n, n), nn.ReLU(),
            deconvolution(n, n * 3 // 2), nn.ReLU(),
            nn.ConvTranspose2d(n * 3 // 2, 2 * m, 3, padding=1),
        )  # fmt: skip
        self.groups = nn.ModuleList(
            ChannelGroup(before=sum(groups[:i]), channels=g, hyper=2 * m, width=width) for i, g in enumerate(groups)
        )

    def hyper_parameters(self, z: Tensor, height: int, width: int) -> Tensor:
        """What z [B, N, ...] int64 tells about y: [B, 2M, h, w]."""
        return self.hyper_synthesis(z + self.medians)[:, :, :height, :width]  # type: ignore[no-any-return]

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        height, width = layout.height, layout.width
        z = yield Block("z", stored(self.tables, Layout(layout.batch, -(-height // _STRIDE), -(-width // _STRIDE))))
        hyper = self.hyper_parameters(z, height, width)
        anchors, others = checkerboard(height, width, hyper.device)
        y_hat = hyper.new_zeros(layout.batch, self.latent_channels, height, width)
        for group in self.channel_groups():
            given = group.given(y_hat, hyper)
            own = y_hat[:, group.before : group.before + group.channels]
            no_context = hyper.new_zeros(layout.batch, 2 * group.channels, height, width)
            yield from self._pass(group, no_context, given, own, anchors)
            if len(others):
                yield from self._pass(group, group.spatial_context(own), given, own, others)

    def channel_groups(self) -> list[ChannelGroup]:
        """The networks of all groups."""
        return [cast(ChannelGroup, group) for group in self.groups]

    def _pass(self, group: ChannelGroup, spatial: Tensor, given: Tensor, own: Tensor, cells: Tensor) -> Blocks:
        """Yield the block of some cells of a group, and write their y_hat into `own` [B, g, h, w]."""
        scale, mean = group.parameters_of(spatial.flatten(2)[:, :, cells], given.flatten(2)[:, :, cells])
        height, width = own.shape[2:]
        channel = group.before + torch.arange(group.channels, device=cells.device)[:, None]
        positions, context = (channel * (height * width) + cells).flatten(), {"mean": mean.flatten(1)}
        symbols = yield Block("y", self.gaussian(scale.flatten(1)), positions, context)
        own[:, :, cells // width, cells % width] = symbols.reshape(mean.shape) + mean


def checkerboard(height: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Anchors and other cells of a grid, numbered in raster order, int64."""
    odd = (torch.arange(height, device=device)[:, None] + torch.arange(width, device=device)).flatten() & 1
    return (odd == 0).nonzero()[:, 0], odd.nonzero()[:, 0]


def toys() -> dict[str, Prior]:
    """A small float prior with seeded weights and tables, by case."""
    prior = CheckerboardPrior(
        tables=seeded_tables(6, "checkerboard"),
        medians=seeded.uniform((6,), "checkerboard/medians"),
        groups=(2, 2, 4, 6),
        width=12,
    )
    seeded.fill(prior, "checkerboard", gain=0.6)
    for group in prior.channel_groups():
        raise_scales(group.entropy_parameters)
    return {"checkerboard": prior}
