"""Generalised divisive normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GDN(nn.Module):
    """x / sqrt(beta + gamma x**2) over channels, or times the root for the inverse (arXiv:1511.06281).

    Args:
        channels: C of x [B, C, H, W].
        inverse: multiply in place of dividing.
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(0.1 * torch.eye(channels))

    def forward(self, x: Tensor) -> Tensor:
        norm = F.conv2d(x * x, self.gamma[:, :, None, None], self.beta).sqrt_()  # in place: memory is what takes time
        return x * norm if self.inverse else x / norm
