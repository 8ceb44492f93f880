"""A learned density of hyper-latents, and the integer tables that stand for it in a codec."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from obverse.distributions import frequencies_from_weights
from obverse.nn.residual import lower_bound

RADIUS = 31
"""Tables hold the values -RADIUS to RADIUS; anything beyond is escaped."""


class LogisticMixture(nn.Module):
    """p(k) of integers k per quality and channel: a mixture of three logistic distributions.

    Args:
        qualities: Q operating points.
        channels: N channels.
    """

    def __init__(self, qualities: int, channels: int, components: int = 3) -> None:
        super().__init__()
        shape = (qualities, channels, components)
        self.weight = nn.Parameter(torch.zeros(shape))
        self.mean = nn.Parameter(torch.linspace(-1, 1, components).expand(shape).clone())
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def forward(self, values: Tensor, quality: Tensor) -> Tensor:
        """Probability of unit intervals around values [B, N, h, w], one quality per image [B]."""
        expand = (slice(None), slice(None), None, None)
        weight = self.weight[quality].softmax(-1)[expand]
        mean, scale = self.mean[quality][expand], self.log_scale[quality].exp()[expand]
        distance = values[..., None] - mean
        # Symmetric in the distance, so that the difference of sigmoids is taken where it is accurate.
        low, high = (torch.sigmoid((side - distance.abs()) / scale) for side in (-0.5, 0.5))
        return lower_bound(((high - low) * weight).sum(-1), 1e-9)

    @torch.no_grad()
    def tables(self) -> Tensor:
        """Integer frequencies [Q, N, 2 * RADIUS + 2] int32; the last entry is the escape."""
        accurate = copy.deepcopy(self).cpu().double()
        values = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
        quality = torch.arange(len(self.mean))
        grid = values.expand(len(quality), self.mean.shape[1], 1, -1)
        pmf = accurate(grid, quality)[:, :, 0]  # [Q, N, L]
        rest = (1 - pmf.sum(-1, keepdim=True)).clamp(min=1e-6)
        weights = (torch.cat([pmf, rest], dim=-1) * 2**30).long().clamp(min=1)
        return frequencies_from_weights(weights).int()
