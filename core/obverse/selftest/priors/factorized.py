"""A factorized prior: one stored integer table per channel, and no arithmetic (arXiv:1802.01436)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from obverse.distributions import FactorizedTable, frequencies_from_weights
from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.selftest.seeded import integers

RADIUS = 6
"""Tables hold the values -RADIUS to RADIUS, and the escape."""


def seeded_tables(channels: int, seed: str) -> Tensor:
    """Frequencies [channels, 2 * RADIUS + 2] int32."""
    return frequencies_from_weights(1 + integers((channels, 2 * RADIUS + 2), 1000, seed)).int()


class Factorized(Prior, nn.Module):
    """One block: y by channel.

    Args:
        tables: frequencies [C, 2 * RADIUS + 2] int32 that sum to `obverse.distributions.TOTAL`.
    """

    exact: ClassVar[bool] = True
    tables: Tensor

    def __init__(self, tables: Tensor) -> None:
        super().__init__()
        self.alphabets: Mapping[str, int | None] = {"y": None}
        self.register_buffer("tables", tables)

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        yield Block("y", stored(self.tables, layout))


def stored(tables: Tensor, layout: Layout) -> FactorizedTable:
    """Distributions [B, C, h, w] of a grid with one table per channel."""
    channel = torch.arange(len(tables), device=tables.device)[:, None, None]
    indices = channel.expand(layout.batch, len(tables), layout.height, layout.width)
    return FactorizedTable(indices, tables.long().cpu().numpy(), -RADIUS)


def toys() -> dict[str, Prior]:
    """A small one with seeded tables, by name."""
    return {"factorized": Factorized(seeded_tables(5, "factorized"))}
