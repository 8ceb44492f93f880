"""The mean-scale hyperprior of pocket-hyper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from obverse.distributions import FactorizedTable
from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse_pocket.autoencoders import HyperSynthesis
from obverse_pocket.density import RADIUS


class MeanScaleHyperprior(Prior, nn.Module):
    """Two blocks: z from stored tables, then y from Gaussians whose mean and scale follow from z (arXiv:1809.02736).

    Args:
        latent_channels: M of y.
        hyper_channels: N of z.
        hyper_width: channels inside the hyper-synthesis.
        qualities: Q operating points, each with its own tables of z.
    """

    exact: ClassVar[bool] = True
    specification: ClassVar[int] = 2
    tables: Tensor

    def __init__(self, *, latent_channels: int, hyper_channels: int, hyper_width: int, qualities: int) -> None:
        super().__init__()
        self.stride, self.qualities = 16, qualities
        self.alphabets: Mapping[str, int | None] = {"y": None, "z": None}
        self.hyper_synthesis = HyperSynthesis(hyper_channels, hyper_width, latent_channels)
        shape = (qualities, hyper_channels, 2 * RADIUS + 2)
        self.register_buffer("tables", torch.zeros(shape, dtype=torch.int32))

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        tables = [(-RADIUS, row) for row in self.tables[condition.quality].long().cpu().numpy()]
        z = yield Block("z", FactorizedTable.grid(tables, layout.batch, layout.height // 4, layout.width // 4))
        mean, scale = self.hyper_synthesis(z.to(self.tables.device, self.arithmetic))
        yield Block("y", self.gaussian(scale), context={"mean": mean})
