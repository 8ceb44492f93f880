"""The attention of cheng2020 and ELIC: what a picture has elsewhere is not looked at, only the neighbourhood."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class BottleneckUnit(nn.Module):
    """relu(x + three convolutions, 1x1, 3x3 and 1x1, at half the channels), [B, C, h, w] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv = nn.Sequential(
            nn.Conv2d(channels, half, 1),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, channels, 1),
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.conv(x))  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """x + a(x) * sigmoid(b(x)), both branches of three units (arXiv:2001.01568, section 3.3).

    Attributes are named as in checkpoints of CompressAI.

    Args:
        channels: C of x [B, C, h, w].

    Attributes:
        reach: cells to each side on which a value depends.
    """

    reach: ClassVar[int] = 3

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(BottleneckUnit(channels) for _ in range(3)))
        self.conv_b = nn.Sequential(*(BottleneckUnit(channels) for _ in range(3)), nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_a(x) * torch.sigmoid(self.conv_b(x))  # type: ignore[no-any-return]
