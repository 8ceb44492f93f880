"""The exponential function as a layer."""

from __future__ import annotations

from torch import Tensor, nn


class Exp(nn.Module):
    """exp(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()
