"""Normalisation over the channels of each pixel (HiFiC, arXiv:2006.09965, appendix A.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) over the channels of each pixel, then a gain and a shift per channel.

    A pixel's result depends on that pixel alone. The variance is the unbiased one.

    Args:
        channels: C of [B, C, H, W], at least 2.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True)
        return self.gamma * ((x - mean) * torch.rsqrt(variance + self.eps)) + self.beta
